"""Low-rank factors of a rearranged matrix that is never materialised: its rows, the blocks of W, are gathered a few at a time.

W consists of m1 x n1 blocks of (m2, n2); row i n1 + j of R(W), (m1 n1, m2 n2), is block (i, j) in row-major order. The factors
are computed chunk by chunk as in `numerics.svd`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from offcomp.numerics.svd import factors_of_pieces

PIECE_ENTRIES = 1 << 18  # 2 MB in float64


def rearranged_factors(
    matrix: Float[Tensor, "rows cols"], left_shape: tuple[int, int], right_shape: tuple[int, int], rank: int
) -> tuple[Float[Tensor, "left_entries rank"], Float[Tensor, "rank right_entries"]]:
    """A (m1 n1, rank), B (rank, m2 n2) that minimise ‖R(W) - A B‖_F, equal to `low_rank_factors` of R(W)."""
    (m1, n1), (m2, n2) = left_shape, right_shape
    blocks = matrix.reshape(m1, m2, n1, n2).transpose(1, 2)  # (m1, n1, m2, n2), a view
    transposed = m1 * n1 < m2 * n2
    if transposed:
        blocks = blocks.permute(2, 3, 0, 1)
    side = blocks.shape[2] * blocks.shape[3]
    low, high = matrix.aminmax()
    shape = matrix.numel() // side, side
    return factors_of_pieces(lambda: _pieces(blocks), shape, rank, largest=torch.maximum(high, -low), transposed=transposed)


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
