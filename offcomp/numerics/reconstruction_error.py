"""Errors of reconstructed matrices. All errors are 0 for an exact copy; lower is better."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from offcomp.numerics.chunks import float64_chunks


@dataclass(frozen=True)
class ReconstructionError:
    """Reconstruction errors of one or more matrices.

    relative_error      ‖W-Ŵ‖_F / ‖W‖_F (for a zero matrix, 0 if it stays zero, otherwise infinite)
    rmse, mae           root mean square and mean absolute difference of the entries
    cosine_distance     mean over rows of 1 - cos(row of W, row of Ŵ); a zero row counts as 0 if it stays zero, otherwise as 1
    """

    relative_error: float
    rmse: float
    mae: float
    cosine_distance: float


def _row_cosine_distances(
    original: Float[Tensor, "rows cols"], reconstruction: Float[Tensor, "rows cols"]
) -> Float[Tensor, " rows"]:
    norms = original.norm(dim=1) * reconstruction.norm(dim=1)
    cosine = (original * reconstruction).sum(1) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    both_zero = (original.norm(dim=1) == 0) & (reconstruction.norm(dim=1) == 0)
    return torch.where(both_zero, 0.0, 1 - cosine.clamp(-1, 1))


def reconstruction_error(pairs: Iterable[tuple[Tensor, Tensor]]) -> ReconstructionError:
    """Errors over all (original, reconstruction) pairs of matrices; the two matrices of a pair must have the same shape.

    Sums are accumulated in float64. `pairs` may be a generator, since each pair is read only once.
    """
    squared = absolute = energy = distance = 0.0
    entries = rows = 0
    for original, reconstruction in pairs:
        entries += original.numel()
        rows += len(original)
        for exact, approximate in zip(float64_chunks(original), float64_chunks(reconstruction), strict=True):
            difference = exact - approximate
            squared += difference.square().sum().item()
            absolute += difference.abs().sum().item()
            energy += exact.square().sum().item()
            distance += _row_cosine_distances(exact, approximate).sum().item()
    relative = sqrt(squared / energy) if energy else (0.0 if squared == 0 else float("inf"))
    return ReconstructionError(relative, sqrt(squared / entries), absolute / entries, distance / rows)
