"""Gram matrices in float64, and the singular values computed from them.

The Gram matrix of a matrix M (rows, cols) is MᵀM (cols, cols); its eigenvalues are the squared singular values of M. The Gram
matrix of vertically stacked members is the sum of their Gram matrices, so the spectrum of any stacked group is computed from
matrices that are built once per member. Squaring halves the number of accurate digits, so sums are accumulated in float64.
Singular values are then accurate to about 1e-8 of the largest singular value; in float32, they would be accurate to only 3e-4.

The matrix is converted to float64 in chunks, and blocks below the diagonal are copied instead of computed. For a tall matrix,
this takes less than half the time of the plain product and almost no extra memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offcomp.numerics.chunks import float64_chunks
from offcomp.numerics.training import one_thread_if

COLUMN_BLOCKS = 6  # with 6, computing the upper triangle takes 7/12 of the work of the full square
NARROWEST_BLOCK = 128  # columns; narrower blocks slow the products down by more than they save
SMALL_SIDE = 1024
"""Matrices up to this size are decomposed on one thread, since a second one hardly helps and may have to wait for a core."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def gram(matrix: Float[Tensor, "rows cols"]) -> Float64[Tensor, "cols cols"]:
    """MᵀM in float64. Pass `matrix.T` for MMᵀ."""
    cols = matrix.shape[1]
    total = torch.zeros(cols, cols, dtype=torch.float64, device=matrix.device)
    for rows in float64_chunks(matrix):
        add_upper_gram(total, rows)
    return mirrored(total)


def add_upper_gram(total: Float64[Tensor, "cols cols"], rows: Float64[Tensor, "rows cols"]) -> None:
    """Add the Gram matrix of `rows` to `total`, except for the blocks below the diagonal, which `mirrored` fills in."""
    for block in _blocks(len(total)):
        total[block, block.start :].addmm_(rows[:, block].T, rows[:, block.start :])


def mirrored(total: Float64[Tensor, "cols cols"]) -> Float64[Tensor, "cols cols"]:
    """Copy the blocks above the diagonal to below it, in place."""
    for block in _blocks(len(total)):
        total[block.stop :, block] = total[block, block.stop :].T
    return total


def _blocks(cols: int) -> list[slice]:
    """Split the columns into up to COLUMN_BLOCKS blocks."""
    width = max(NARROWEST_BLOCK, -(-cols // COLUMN_BLOCKS))
    return [slice(left, left + width) for left in range(0, cols, width)]


def cross_gram(one: Float[Tensor, "rows cols"], other: Float[Tensor, "rows_too cols"]) -> Float64[Tensor, "rows rows_too"]:
    """A Bᵀ in float64: the off-diagonal block of `gram_of_rows` for two members."""
    return one.double() @ other.double().T


def gram_of_rows(
    members: Sequence[Float[Tensor, "_ cols"]], diagonal: Sequence[Float64[Tensor, "_ _"]]
) -> Float64[Tensor, "side side"]:
    """S Sᵀ for the vertical stack S of all members, given M Mᵀ for each member M. S is never materialised."""
    starts = [0, *accumulate(len(member) for member in members)]
    ranges = [slice(*pair) for pair in pairwise(starts)]
    total = torch.empty(starts[-1], starts[-1], dtype=torch.float64, device=members[0].device)
    for i, one in enumerate(members):
        total[ranges[i], ranges[i]] = diagonal[i]
        for j in range(i):
            block = cross_gram(one, members[j])
            total[ranges[i], ranges[j]], total[ranges[j], ranges[i]] = block, block.T
    return total


def spectrum_of_gram(gram_matrix: Float64[Tensor, "side side"], count: int) -> Float64[Tensor, " count"]:
    """The `count` largest singular values of a matrix, in decreasing order, given its Gram matrix."""
    with one_thread_if(len(gram_matrix) <= SMALL_SIDE):
        return torch.linalg.eigvalsh(gram_matrix).flip(0)[:count].clamp_min(0).sqrt()


def in_parallel(action: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Apply `action` to all items in parallel, with as many threads as torch uses. Results are in the same order as the items.

    A second thread hardly speeds up the eigendecomposition of a single small matrix, but is fully used if two matrices are
    processed in parallel.
    """
    workers = min(torch.get_num_threads(), len(items))
    if workers <= 1:
        return [action(item) for item in items]
    # Set the limit in every thread of the pool too, because the linear algebra library has a separate thread count for each.
    with one_thread_if(True), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(action, items))
