"""Truncated SVD by the float64 Gram matrix against a direct float32 SVD: `python -m benchmarks.svd_routes`.

Prints, for the shapes of transformer weights, the time of both in one run, their ratio, and how far the Gram route's error is
above the optimum (the tail of a float64 SVD).
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch

from offcomp.numerics.linalg import low_rank_factors
from offcomp.tables import format_table

SHAPES = ((384, 384), (1536, 384), (2304, 384), (9216, 384), (768, 768), (3072, 768), (9216, 768), (30522, 768))


def direct(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The textbook way."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] * values[:rank], right[:rank]


def best_of(action: Callable[[], object], times: int = 3) -> float:
    """Shortest of some runs, in seconds."""
    best = float("inf")
    for _ in range(times):
        started = perf_counter()
        action()
        best = min(best, perf_counter() - started)
    return best


def main() -> None:
    """Print the table."""
    rows = []
    for shape in SHAPES:
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) / 20
        rank = min(shape) // 4
        left, right = low_rank_factors(matrix, rank)
        error = (matrix.double() - left.double() @ right.double()).norm().item()
        optimum = torch.linalg.svdvals(matrix.double())[rank:].norm().item()
        gram = best_of(lambda m=matrix, r=rank: low_rank_factors(m, r))
        plain = best_of(lambda m=matrix, r=rank: direct(m, r))
        rows.append(
            {
                "matrix": f"{shape[0]} x {shape[1]}",
                "rank": rank,
                "gram ms": gram * 1e3,
                "direct ms": plain * 1e3,
                "direct / gram": plain / gram,
                "error above optimum": error / optimum - 1,
            }
        )
    print(format_table(rows))


if __name__ == "__main__":
    main()
