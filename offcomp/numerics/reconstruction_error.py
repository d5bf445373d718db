"""How far a reconstruction is from the original matrix. All errors are 0 for an exact copy; lower is better."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

PIECE_ENTRIES = 1 << 20  # 8 MB in float64


@dataclass(frozen=True)
class ReconstructionError:
    """Reconstruction errors of one or several matrices.

    relative_error      ‖W-Ŵ‖_F / ‖W‖_F (for a zero matrix 0 if it stays zero, else infinite)
    rmse, mae           root mean square and mean absolute difference of the entries
    cosine_distance     mean over rows of 1 - cos(row of W, row of Ŵ); a zero row counts as 0 if it stays zero, else 1
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


def _pieces(pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs in float64, a few rows at a time, so that large matrices are never copied in full."""
    for original, reconstruction in pairs:
        height = max(1, PIECE_ENTRIES // original.shape[1])
        for exact, approximate in zip(original.split(height), reconstruction.split(height), strict=True):
            yield exact.double(), approximate.double()


def reconstruction_error(pairs: Iterable[tuple[Tensor, Tensor]]) -> ReconstructionError:
    """Errors over all entries and rows of `pairs`, each (original, reconstruction) of equal shape (rows, cols).

    Sums are accumulated in float64. No pair is kept, so `pairs` may be a generator.
    """
    squared = absolute = energy = distance = 0.0
    entries = rows = 0
    for exact, approximate in _pieces(pairs):
        difference = exact - approximate
        squared += difference.square().sum().item()
        absolute += difference.abs().sum().item()
        energy += exact.square().sum().item()
        distance += _row_cosine_distances(exact, approximate).sum().item()
        entries += exact.numel()
        rows += exact.shape[0]
    relative = sqrt(squared / energy) if energy else (0.0 if squared == 0 else float("inf"))
    return ReconstructionError(relative, sqrt(squared / entries), absolute / entries, distance / rows)
