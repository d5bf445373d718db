"""Truncated SVD via the float64 Gram matrix compared with a direct float32 SVD: `python -m benchmarks.svd_routes`.

For the shapes of transformer weights, prints the times of both, measured in the same process, their ratio, and how far the
error via the Gram matrix exceeds the optimum (the tail of a float64 SVD).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import TypeVar

import torch

from offcomp.cli.text import format_table
from offcomp.numerics.svd import low_rank_factors

Result = TypeVar("Result")
SHAPES = ((384, 384), (1536, 384), (2304, 384), (9216, 384), (768, 768), (3072, 768), (9216, 768), (30522, 768))


def direct(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Truncated SVD as in textbooks: a full SVD, then truncation."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] * values[:rank], right[:rank]


def best_of(action: Callable[[], Result], tries: int = 3) -> tuple[float, Result]:
    """(shortest seconds, last result)."""
    best = float("inf")
    for _ in range(tries):
        started = perf_counter()
        result = action()
        best = min(best, perf_counter() - started)
    return best, result


def main() -> None:
    """Print the table."""
    rows = []
    for shape in SHAPES:
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) / 20
        rank = min(shape) // 4
        left, right = low_rank_factors(matrix, rank)
        error = (matrix.double() - left.double() @ right.double()).norm().item()
        optimum = torch.linalg.svdvals(matrix.double())[rank:].norm().item()
        gram, _ = best_of(partial(low_rank_factors, matrix, rank))
        plain, _ = best_of(partial(direct, matrix, rank))
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
