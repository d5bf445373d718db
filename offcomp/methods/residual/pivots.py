"""Interpolative form of a factor, in which some rows become unit vectors and need not be stored.

For Z (rows, rank), the product Z D equals (Z T⁻¹)(T D) for any invertible T. If T consists of `rank` pivot rows of Z, these
rows become unit vectors. Of the rank · (rows + cols) numbers, rank² need not be stored, which leaves one number per degree of
freedom of Z D.

Pivots are chosen by a QR decomposition of Zᵀ with column pivoting and then swapped until no coefficient is larger than LARGEST,
which keeps the form well conditioned (Gu and Eisenstat, "Efficient algorithms for computing a strong rank-revealing QR
factorization", SIAM Journal on Scientific Computing, 1996; Goreinov et al., "How to find a good submatrix", 2010).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.linalg import qr, solve_triangular
from torch import Tensor

LARGEST = 1.5
NEGLIGIBLE = 1e-12


def interpolate(
    factor: Float[Tensor, "rows rank"],
) -> tuple[Int64[Tensor, " rank"], Float[Tensor, "rows rank"]]:
    """Find pivot rows and float64 coefficients such that factor = coefficients @ factor[pivots].

    The coefficients of the pivot rows are unit vectors. A rank-deficient factor is reproduced as well, up to
    rounding: pivots beyond its rank get no weight in the other rows.
    """
    wide = factor.detach().cpu().double().numpy().T
    rank, rows = wide.shape
    triangle, order = qr(wide, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(triangle))
    known = int((diagonal > NEGLIGIBLE * max(diagonal[0], np.finfo(np.float64).tiny)).sum())
    coefficients = np.zeros((rows, rank))
    if known:
        coefficients[order[rank:], :known] = solve_triangular(triangle[:known, :known], triangle[:known, rank:]).T
    coefficients[order[:rank], np.arange(rank)] = 1
    pivots = order[:rank].astype(np.int64)
    _swap_until_bounded(coefficients, pivots)
    return torch.from_numpy(pivots), torch.from_numpy(coefficients).to(factor.device)


def _swap_until_bounded(coefficients: np.ndarray, pivots: np.ndarray) -> None:
    """Swap pivot rows, in place, until no coefficient exceeds LARGEST (with a limit on the number of swaps)."""
    rank = len(pivots)
    for _ in range(2 * rank):
        ends = int(coefficients.argmax()), int(coefficients.argmin())
        row, column = divmod(max(ends, key=lambda end: abs(coefficients.flat[end])), rank)
        largest = coefficients[row, column]
        if abs(largest) <= LARGEST:
            return
        change = -coefficients[row] / largest
        change[column] = (1 - largest) / largest
        coefficients += np.outer(coefficients[:, column], change)
        coefficients[row] = 0
        coefficients[row, column] = 1
        pivots[column] = row


def other_rows(pivots: Int64[Tensor, " rank"], rows: int) -> Int64[Tensor, " others"]:
    """Indices of the rows that are not pivots, in increasing order, on the CPU."""
    free = torch.ones(rows, dtype=torch.bool)
    free[pivots.cpu()] = False
    return free.nonzero()[:, 0]


def with_pivots(others: Float[Tensor, "others rank"], pivots: Int64[Tensor, " rank"]) -> Float[Tensor, "rows rank"]:
    """Restore all coefficients from those of the non-pivot rows and the indices of the pivots."""
    full = others.new_zeros(sum(others.shape), len(pivots))
    full[pivots, torch.arange(len(pivots))] = 1
    full[other_rows(pivots, len(full))] = others
    return full
