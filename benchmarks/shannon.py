"""Weights with the errors of Shannon's rate-distortion bound: what an ideal data-free code of Gaussian weights would return.

The entries of a part of the model are treated as independent Gaussian numbers. The variance of an entry is the product of the
variances of its row and of its column, divided by that of the whole matrix; a part with many more rows than columns is first
rotated into the eigenbasis of WᵀW (Karhunen-Loève transform). This is the model by which `trellis` expects the size of an
entry. At R bits per entry on average, the lowest mean squared error is that of reverse water-filling (Cover and Thomas,
"Elements of Information Theory", section 10.3.3):

    D_ij = min(θ, σ²_ij),   with the water level θ at which the mean of ½ log₂(σ²_ij / D_ij) is R

Weights with this error, distributed as an ideal code would return them, come out of the Gaussian test channel:

    ŵ_ij = (1 - D_ij / σ²_ij) w_ij + sqrt(D_ij (1 - D_ij / σ²_ij)) z_ij,   z_ij independent and standard normal

Variances, basis and water level cost nothing here. It is a limit for codes that treat weights as such Gaussian numbers and all
squared errors as equally bad. A code that knows from text which errors matter can be better.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel
from offcomp.models.weights import read
from offcomp.runs.compress import stack, unstack

TALL = 10
"""A part is rotated if it has more than this many times as many rows as columns."""
HALVINGS = 60
SMALLEST_VARIANCE = 1e-30


def at_limit(loaded: LoadedModel, specs: Sequence[ModuleSpec], how: str, bits: float, seed: int) -> dict[ModuleSpec, Tensor]:
    """The matrices (rows, cols) of a part, stacked as `how` says, with the error of an ideal code of `bits` bits per entry."""
    exact = stack({spec: read(loaded.model, spec) for spec in specs}, how).double()
    basis = eigenbasis(exact) if len(exact) > TALL * exact.shape[1] else None
    noisy = through_channel(exact if basis is None else exact @ basis, bits, seed)
    noisy = noisy if basis is None else noisy @ basis.T
    return {spec: matrix.float().contiguous() for spec, matrix in unstack(noisy, specs, how).items()}


def eigenbasis(matrix: Float64[Tensor, "rows cols"]) -> Float64[Tensor, "cols cols"]:
    """The eigenvectors of WᵀW as columns."""
    return torch.linalg.eigh(matrix.T @ matrix).eigenvectors


def through_channel(matrix: Float64[Tensor, "rows cols"], bits: float, seed: int) -> Float64[Tensor, "rows cols"]:
    """A matrix after the Gaussian test channel at `bits` bits per entry on average. The noise is drawn with `seed`."""
    expected = variances(matrix)
    kept = 1 - (water_level(expected, bits) / expected).clamp_max(1)
    noise = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(seed), dtype=matrix.dtype)
    return kept * matrix + (expected * (1 - kept) * kept).sqrt() * noise


def variances(matrix: Float64[Tensor, "rows cols"]) -> Float64[Tensor, "rows cols"]:
    """The expected square of each entry: the mean square of its row times that of its column, relative to the whole."""
    squares = matrix.square()
    return (squares.mean(1, keepdim=True) * squares.mean(0) / squares.mean()).clamp_min(SMALLEST_VARIANCE)


def water_level(expected: Float64[Tensor, "rows cols"], bits: float) -> float:
    """The level θ at which the mean of ½ log₂(max(σ²/θ, 1)) over all entries is `bits`."""
    exponents = expected.log2()
    low, high = float(exponents.min()) - 2 * bits, float(exponents.max())
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if float((exponents - middle).clamp_min(0).mean()) > 2 * bits:
            low = middle
        else:
            high = middle
    return float(2.0**high)
