"""Metrics that weight the rows or columns of a matrix, or linear combinations of them, by importance.

A metric M (n, n) is symmetric positive semidefinite: diagonal, full, or block-diagonal with blocks of both kinds.

M^½ and its inverse are computed from an eigendecomposition in float64. A second moment estimated from few tokens is singular,
so eigenvalues below `FLOOR` times their mean are raised to that value. Cholesky factorisation might
fail for such a matrix, and no constant shift of the eigenvalues would suit every scale of M. Shrinkage pulls M towards a
multiple of the identity with the same trace: (1 - s)·M + s·(tr M / n)·I.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offcomp.numerics.eigenvectors import eigenvectors

FLOOR = 1e-8
"""Minimum eigenvalue relative to the mean. This limits condition numbers to n / FLOOR, which float64 can handle."""


@dataclass(frozen=True)
class Block:
    """A block V diag(values) Vᵀ with positive values (k,); the vectors V (k, k) are None if the block is diagonal."""

    values: Tensor
    vectors: Tensor | None = None

    @staticmethod
    def of(moment: Float[Tensor, "*n k"], shrinkage: float) -> Block:
        """The block for a second moment (k, k) of any rank, or for weights (k,); the identity if all entries are zero."""
        if moment.ndim == 1:
            return Block(_lifted(moment.double(), shrinkage))
        values, vectors = eigenvectors(moment.double())
        return Block(_lifted(values, shrinkage), vectors)

    def apply(self, matrix: Float[Tensor, "k cols"], power: float) -> Float64[Tensor, "k cols"]:
        """Multiply a matrix by the block raised to `power`."""
        scale = self.values.pow(power)[:, None]
        if self.vectors is None:
            return scale * matrix.double()
        return self.vectors @ (self.vectors.T @ matrix.double()).mul_(scale)

    def matrix(self) -> Float64[Tensor, "*n k"]:
        """The block as a full matrix (k, k), or its diagonal (k,) if the block is diagonal."""
        return self.values if self.vectors is None else (self.vectors * self.values) @ self.vectors.T


class Metric:
    """A block-diagonal metric; the sizes of its blocks add up to n.

    `block` computes the block with a given index. It is called each time a block is used, so that only one block is in memory
    at a time; all blocks together can take several times as much memory as the matrix.
    """

    def __init__(self, sizes: Sequence[int], block: Callable[[int], Block]) -> None:
        self.sizes = list(sizes)
        self._block = block
        self._extremes: dict[int, tuple[float, float]] = {}

    def blocks(self) -> Iterator[Block]:
        """Yield every block in turn."""
        for index in range(len(self.sizes)):
            block = self._block(index)
            low, high = block.values.aminmax()
            self._extremes[index] = low.item(), high.item()
            yield block

    def held(self) -> Metric:
        """The metric with all of its blocks in memory, for repeated use."""
        return Metric(self.sizes, list(self.blocks()).__getitem__)

    @property
    def condition(self) -> float:
        """Condition number: the ratio of the largest to the smallest eigenvalue, after applying the floor."""
        if not self._extremes:
            for _ in self.blocks():
                pass
        lows, highs = zip(*self._extremes.values(), strict=True)
        return max(highs) / min(lows)

    def root_blocks(self, matrix: Float[Tensor, "rows cols"]) -> Iterator[Float64[Tensor, "_ cols"]]:
        """Yield M^½ times a matrix, block by block."""
        for block, rows in zip(self.blocks(), matrix.split(self.sizes), strict=True):
            yield block.apply(rows, 0.5)

    def root(self, matrix: Float[Tensor, "rows cols"]) -> Float64[Tensor, "rows cols"]:
        """M^½ times a matrix."""
        return torch.cat(list(self.root_blocks(matrix)))

    def inverse_root(self, matrix: Float[Tensor, "rows cols"]) -> Float64[Tensor, "rows cols"]:
        """M^-½ times a matrix."""
        parts = zip(self.blocks(), matrix.split(self.sizes), strict=True)
        return torch.cat([block.apply(rows, -0.5) for block, rows in parts])


def metric_of(moment: Float[Tensor, "*n n"], shrinkage: float = 0.0) -> Metric:
    """The metric for a second moment (n, n) or non-negative weights (n,); the identity if all entries are zero."""
    return Metric([len(moment)], [Block.of(moment, shrinkage)].__getitem__)


def _lifted(values: Float[Tensor, " n"], shrinkage: float) -> Float[Tensor, " n"]:
    """Apply shrinkage and the floor to eigenvalues, which makes all of them positive."""
    positive = values.clamp_min(0)
    mean = positive.mean()
    if not mean > 0:
        return torch.ones_like(positive)
    return torch.maximum((1 - shrinkage) * positive + shrinkage * mean, FLOOR * mean)
