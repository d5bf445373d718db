"""Eigendecompositions of symmetric float64 matrices, by torch and by offcomp: `python -m benchmarks.eigenvectors`.

Prints seconds for all eigenvectors, and for the leading quarter, for random Gram matrices with several side lengths; "torch"
uses all of torch's threads. Set OMP_WAIT_POLICY=passive to measure under the same conditions as in a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch

from offcomp.cli.text import format_table
from offcomp.numerics.eigenvectors import eigenvectors, leading_eigenvectors

SIDES = (128, 512, 768, 1024, 1536, 3072)


def best(action: Callable[[], object], repeats: int) -> float:
    """The shortest of several times, in seconds."""
    times = []
    for _ in range(repeats):
        started = perf_counter()
        action()
        times.append(perf_counter() - started)
    return min(times)


def row(side: int) -> dict[str, object]:
    """The row for one side length."""
    sample = torch.randn(2 * side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix, repeats = sample.T @ sample, 5 if side < 1000 else 1
    by_torch = best(lambda: torch.linalg.eigh(matrix), repeats)
    by_scipy = best(lambda: eigenvectors(matrix), repeats)
    leading = best(lambda: leading_eigenvectors(matrix, side // 4), repeats)
    return {"side": side, "torch s": by_torch, "all s": by_scipy, "ratio": by_scipy / by_torch, "leading quarter s": leading}


if __name__ == "__main__":
    print(format_table([row(side) for side in SIDES]))
