"""The interpolative form of a factor: some of its rows become unit vectors, so they need not be stored.

For Z (rows, rank), the product Z D equals (Z T⁻¹)(T D) for any invertible T. Choosing T as the rows of Z at `rank` pivots
leaves unit vectors there and saves rank² of the rank · (rows + cols) numbers: Z D has no more degrees of freedom than the rest.
Pivots come from QR of Zᵀ with column pivoting, followed by swaps until no coefficient is larger than LARGEST, so that the form
is well conditioned (Gu and Eisenstat, "Efficient algorithms for computing a strong rank-revealing QR factorization", SIAM J.
Sci. Comput. 1996; Goreinov et al., "How to find a good submatrix", 2010).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.linalg.lapack import dgeqp3
from torch import Tensor

LARGEST = 1.5
NEGLIGIBLE = 1e-12
ROWS_A_TIME = 256
BLOCK = 32
"""LAPACK's block size in columns."""


def interpolate(
    factor: Float[Tensor, "rows rank"],
) -> tuple[Int64[Tensor, " rank"], Float[Tensor, "rows rank"]]:
    """Pivot rows and coefficients (float64) such that factor = coefficients @ factor[pivots]; unit vectors at the pivots.

    A rank-deficient factor is also reproduced up to rounding: pivots beyond its rank get no weight in other rows.
    """
    wide = factor.detach().cpu().to(torch.float64, copy=True).numpy().T
    rank = len(wide)
    triangle, order, *_ = dgeqp3(wide, lwork=3 * wide.shape[1] + BLOCK * (wide.shape[1] + 1), overwrite_a=True)
    order = order - 1
    diagonal = np.abs(np.diag(triangle))
    known = int((diagonal > NEGLIGIBLE * max(diagonal[0], np.finfo(np.float64).tiny)).sum())
    coefficients = np.zeros((wide.shape[1], rank))
    if known:
        square = torch.from_numpy(triangle[:known, :known])
        for start in range(rank, len(order), ROWS_A_TIME):
            rest = torch.from_numpy(triangle[:known, start : start + ROWS_A_TIME])
            found = torch.linalg.solve_triangular(square, rest, upper=True)
            coefficients[order[start : start + ROWS_A_TIME], :known] = found.numpy().T
    coefficients[order[:rank], np.arange(rank)] = 1
    pivots = order[:rank].astype(np.int64)
    _swap_until_bounded(coefficients, pivots)
    return torch.from_numpy(pivots), torch.from_numpy(coefficients).to(factor.device)


def _swap_until_bounded(coefficients: np.ndarray, pivots: np.ndarray) -> None:
    """While the largest coefficient exceeds LARGEST, exchange its pivot for its row; in place."""
    rank = len(pivots)
    for _ in range(2 * rank):
        ends = int(coefficients.argmax()), int(coefficients.argmin())
        row, place = divmod(max(ends, key=lambda end: abs(coefficients.flat[end])), rank)
        largest = coefficients[row, place]
        if abs(largest) <= LARGEST:
            return
        change = -coefficients[row] / largest
        change[place] = (1 - largest) / largest
        column = coefficients[:, place].copy()
        for start in range(0, len(coefficients), ROWS_A_TIME):
            coefficients[start : start + ROWS_A_TIME] += np.outer(column[start : start + ROWS_A_TIME], change)
        coefficients[row] = 0
        coefficients[row, place] = 1
        pivots[place] = row


def other_rows(pivots: Int64[Tensor, " rank"], rows: int) -> Int64[Tensor, " others"]:
    """The rows that are not pivots, in increasing order, on the CPU."""
    free = torch.ones(rows, dtype=torch.bool)
    free[pivots.cpu()] = False
    return free.nonzero()[:, 0]


def with_pivots(others: Float[Tensor, "rank others"], pivots: Int64[Tensor, " rank"], height: int) -> Iterator[Tensor]:
    """The full coefficients, `height` rows at a time, from the non-pivot rows (as columns of `others`) and the pivots."""
    rank, rows = len(others), sum(others.shape)
    taken = 0
    for start in range(0, rows, height):
        piece = torch.zeros(min(height, rows - start), rank)
        mine = ((pivots >= start) & (pivots < start + len(piece))).nonzero()[:, 0]
        piece[pivots[mine] - start, mine] = 1
        free = other_rows(pivots[mine] - start, len(piece))
        piece[free] = others[:, taken : taken + len(free)].T
        taken += len(free)
        yield piece
