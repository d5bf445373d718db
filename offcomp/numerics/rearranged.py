"""Low-rank factors of a rearranged matrix that is never made: blocks of W as rows, gathered a few at a time.

W is m1 x n1 blocks of (m2, n2); row i n1 + j of R(W), (m1 n1, m2 n2), is block (i, j) row after row. The route is that of
`linalg`, but a whole set of eigenvectors is not computed where a few are wanted: beside W the memory is that of the smaller
Gram matrix of R(W), the wanted eigenvectors and the factors.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offcomp.numerics.grams import gram_of_pieces
from offcomp.numerics.linalg import fill_balanced, leading_eigenvectors

PIECE_ENTRIES = 1 << 18  # 2 MB in float64
FEW = 4
"""Below one in so many eigenvectors, bisection and inverse iteration find them; a large matrix takes a third of the memory."""
LARGE_SIDE = 512


def rearranged_factors(
    matrix: Float[Tensor, "rows cols"], left_shape: tuple[int, int], right_shape: tuple[int, int], rank: int
) -> tuple[Float[Tensor, "left_entries rank"], Float[Tensor, "rank right_entries"]]:
    """A (m1 n1, rank), B (rank, m2 n2) for which ‖R(W) - A B‖_F is least, as `linalg.low_rank_factors` of R(W) gives them."""
    (m1, n1), (m2, n2) = left_shape, right_shape
    blocks = matrix.reshape(m1, m2, n1, n2).transpose(1, 2)  # (m1, n1, m2, n2), a view
    wide = m1 * n1 < m2 * n2
    if wide:
        blocks = blocks.permute(2, 3, 0, 1)
    side = blocks.shape[2] * blocks.shape[3]
    symmetric = gram_of_pieces((piece.double() for piece in _pieces(blocks)), side, matrix.device)
    basis = _few_eigenvectors(symmetric, rank)
    del symmetric
    basis = basis.flip(1)
    left = torch.empty(matrix.numel() // side, rank, dtype=matrix.dtype, device=matrix.device)
    low, high = matrix.aminmax()
    right = basis * fill_balanced(left, _pieces(blocks), basis, torch.maximum(high, -low))
    if wide:
        left, right = right, left
    largest = right.abs().argmax(0, keepdim=True)
    sign = torch.where(right.gather(0, largest) < 0, -1.0, 1.0)
    return left.mul_(sign).to(matrix.dtype), right.mul_(sign).T.to(matrix.dtype)


def _pieces(blocks: Float[Tensor, "a b c d"]) -> Iterator[Float[Tensor, "_ side"]]:
    """Rows (a, b) of the (a b, c d) matrix, a few at a time."""
    side = blocks.shape[2] * blocks.shape[3]
    height = max(1, PIECE_ENTRIES // side)
    if height >= blocks.shape[1]:
        for part in blocks.split(height // blocks.shape[1]):
            yield part.reshape(-1, side)
        return
    for row in blocks:
        for part in row.split(height):
            yield part.reshape(-1, side)


def _few_eigenvectors(symmetric: Float64[Tensor, "side side"], rank: int) -> Float64[Tensor, "side rank"]:
    """Eigenvectors of the largest eigenvalues, the largest last. Overwrites its argument."""
    side = len(symmetric)
    if symmetric.device.type != "cpu" or side < LARGE_SIDE or rank * FEW > side:
        return leading_eigenvectors(symmetric, rank).flip(1)
    from scipy.linalg import eigh

    wanted = [side - rank, side - 1]
    return torch.from_numpy(eigh(symmetric.T.numpy(), overwrite_a=True, subset_by_index=wanted, driver="evr")[1])
