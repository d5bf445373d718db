"""Weights with the errors of Shannon's rate-distortion bound: what an ideal data-free code of Gaussian weights would return.

Every row of a part of the model takes the same number of bits, and its error is measured relative to its own size, since
LayerNorm makes rare words with long vectors and frequent words with short ones count alike. Rows divided by their root mean
square are treated as independent Gaussian vectors, whose entries are independent with the variance σ²_j of their column; a part
with many more rows than columns is first rotated into the eigenbasis of WᵀW (Karhunen-Loève transform), as `trellis` does. At R
bits per entry on average, the lowest mean squared error is that of reverse water-filling (Cover and Thomas, "Elements of
Information Theory", section 10.3.3):

    D_j = min(θ, σ²_j),   with the water level θ at which the mean of ½ log₂(σ²_j / D_j) is R

Weights with this error, distributed as an ideal code would return them, come out of the Gaussian test channel:

    ŵ_ij = (1 - D_j / σ²_j) w_ij + sqrt(D_j (1 - D_j / σ²_j)) z_ij,   z_ij independent and standard normal

Sizes of rows, basis and water level cost nothing here. It is a limit of this error for codes without text, not of the quality
of the model: a code that knows from text which errors matter can be better.
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
SMALLEST = 1e-30


def at_limit(loaded: LoadedModel, specs: Sequence[ModuleSpec], how: str, bits: float, seed: int) -> dict[ModuleSpec, Tensor]:
    """The matrices (rows, cols) of a part, stacked as `how` says, with the error of an ideal code of `bits` bits per entry."""
    exact = stack({spec: read(loaded.model, spec) for spec in specs}, how).double()
    sizes = exact.square().mean(1, keepdim=True).sqrt().clamp_min(SMALLEST)
    rows = exact / sizes
    basis = eigenbasis(rows) if len(rows) > TALL * rows.shape[1] else torch.eye(rows.shape[1], dtype=rows.dtype)
    noisy = through_channel(rows @ basis, bits, seed) @ basis.T * sizes
    return {spec: matrix.float().contiguous() for spec, matrix in unstack(noisy, specs, how).items()}


def eigenbasis(matrix: Float64[Tensor, "rows cols"]) -> Float64[Tensor, "cols cols"]:
    """The eigenvectors of WᵀW as columns."""
    return torch.linalg.eigh(matrix.T @ matrix).eigenvectors


def through_channel(matrix: Float64[Tensor, "rows cols"], bits: float, seed: int) -> Float64[Tensor, "rows cols"]:
    """A matrix after the Gaussian test channel at `bits` bits per entry on average. The noise is drawn with `seed`."""
    variances = matrix.square().mean(0).clamp_min(SMALLEST)
    kept = 1 - (water_level(variances, bits) / variances).clamp_max(1)
    noise = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(seed), dtype=matrix.dtype)
    return kept * matrix + (variances * (1 - kept) * kept).sqrt() * noise


def water_level(variances: Float64[Tensor, " cols"], bits: float) -> float:
    """The level θ at which the mean of ½ log₂(max(σ²/θ, 1)) is `bits`."""
    exponents = variances.log2()
    low, high = float(exponents.min()) - 2 * bits, float(exponents.max())
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if float((exponents - middle).clamp_min(0).mean()) > 2 * bits:
            low = middle
        else:
            high = middle
    return float(2.0**high)
