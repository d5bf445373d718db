"""A metric on one side of a matrix: how much each row or column, or each linear combination of them, matters.

    M symmetric positive semidefinite (n, n): diagonal, full, or block-diagonal with blocks of both kinds

Only M^½ and its inverse are ever applied, via an eigendecomposition in float64. A moment estimated from few tokens is singular,
so eigenvalues below `FLOOR` times their mean are raised to it. This avoids both a Cholesky factor that may not exist and a
shift that depends on the scale. Shrinkage pulls M toward the identity of the same trace: (1 - s)·M + s·(tr M / n)·I.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from offcomp.numerics.grams import eigen_in_place
from offcomp.numerics.spool import Spool

FLOOR = 1e-8
"""Relative to the mean eigenvalue. Condition numbers stay below n / FLOOR, which leaves some accurate digits in float64."""


@dataclass(frozen=True)
class Block:
    """One block V diag(values) Vᵀ: positive values (k,), vectors V (k, k), or None if the block is diagonal."""

    values: Tensor
    vectors: Tensor | None = None

    @property
    def size(self) -> int:
        """k."""
        return len(self.values)

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest eigenvalue."""
        low, high = self.values.aminmax()
        return low.item(), high.item()

    def whole(self) -> Block:
        """The block itself."""
        return self

    def apply(self, matrix: Tensor, power: float) -> Tensor:
        """Raise the block to `power` and multiply it by `matrix` (k, cols), in float64."""
        scale = self.values.pow(power)[:, None]
        if self.vectors is None:
            return scale * matrix.double()
        return self.vectors @ (self.vectors.T @ matrix.double()).mul_(scale)


@dataclass(frozen=True)
class DeferredBlock:
    """A block that is recomputed for each use, because the blocks of all members would take more memory than their matrix."""

    size: int
    make: Callable[[], Block]
    _seen: list[tuple[float, float]] = field(default_factory=list, compare=False)

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest eigenvalue, cached on first use."""
        if not self._seen:
            self.whole()
        return self._seen[0]

    def whole(self) -> Block:
        """Compute the block, for one use."""
        block = self.make()
        self._seen[:] = [block.extremes]
        return block

    def kept_in(self, spool: Spool) -> Block | DeferredBlock:
        """The same block, computed once and read from the spool for each use. A diagonal block stays in memory."""
        block = self.whole()
        if block.vectors is None:
            return block
        values, read = block.values, spool.put(block.vectors.T)  # the transpose is contiguous
        return DeferredBlock(self.size, lambda: Block(values, read().T), [block.extremes])


@dataclass(frozen=True)
class Metric:
    """A block-diagonal metric; the sizes of its blocks add up to n."""

    blocks: tuple[Block | DeferredBlock, ...]

    @property
    def sizes(self) -> list[int]:
        """The size of each block."""
        return [block.size for block in self.blocks]

    @property
    def condition(self) -> float:
        """Condition number: the largest eigenvalue over the smallest, after the floor."""
        lows, highs = zip(*(block.extremes for block in self.blocks), strict=True)
        return max(highs) / min(lows)

    def root(self, matrix: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """M^½ times a matrix, in float64."""
        return self._apply(matrix, 0.5)

    def root_pieces(self, matrix: Float[Tensor, "rows cols"], height: int, less: Tensor | None = None) -> Iterator[Tensor]:
        """Yield `root(matrix - less)` in chunks of rows: `height` rows of a diagonal block at a time, full blocks whole."""
        others = [None] * len(self.blocks) if less is None else less.split(self.sizes)
        for deferred, part, other in zip(self.blocks, matrix.split(self.sizes), others, strict=True):
            block = deferred.whole()
            if block.vectors is None:
                for top in range(0, block.size, height):
                    some = slice(top, top + height)
                    rest = difference(part[some], None if other is None else other[some])
                    yield Block(block.values[some]).apply(rest, 0.5)
            else:
                piece = block.apply(difference(part, other), 0.5)
                del block  # before the next one is computed
                yield piece

    def inverse_root(self, matrix: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """M^-½ times a matrix, in float64."""
        return self._apply(matrix, -0.5)

    def kept_in(self, spool: Spool) -> Metric:
        """The metric with its deferred blocks read from the spool for each use."""
        return Metric(tuple(block.kept_in(spool) if isinstance(block, DeferredBlock) else block for block in self.blocks))

    def held(self) -> Metric:
        """The metric with every block in memory, for repeated use."""
        return Metric(tuple(block.whole() for block in self.blocks))

    def _apply(self, matrix: Tensor, power: float) -> Tensor:
        parts = matrix.split(self.sizes)
        return torch.cat([block.whole().apply(part, power) for block, part in zip(self.blocks, parts, strict=True)])


def difference(matrix: Tensor, less: Tensor | None) -> Tensor:
    """`matrix - less` in float64; `matrix` unchanged if `less` is None."""
    return matrix if less is None else matrix.double() - less


def diagonal_metric(weights: Float[Tensor, " n"], shrinkage: float = 0.0) -> Metric:
    """A metric with one non-negative weight per row or column. All-zero weights give the identity."""
    return Metric((_block(weights, shrinkage),))


def full_metric(moment: Float[Tensor, "n n"], shrinkage: float = 0.0, *, overwrite: bool = False) -> Metric:
    """The metric of a second moment of any rank. With `overwrite` it reuses the moment's memory. Zero gives the identity."""
    return Metric((_block(moment, shrinkage, overwrite=overwrite),))


def deferred_metric(size: int, moment: Callable[[], Tensor], shrinkage: float = 0.0) -> Metric:
    """The metric of a moment (size, size), or (size,) if diagonal, that is requested anew for each use and overwritten."""
    return Metric((DeferredBlock(size, lambda: _block(moment(), shrinkage, overwrite=True)),))


def stacked_metric(metrics: Sequence[Metric]) -> Metric:
    """The block-diagonal metric of vertically stacked members."""
    return Metric(tuple(block for metric in metrics for block in metric.blocks))


def _block(moment: Tensor, shrinkage: float, *, overwrite: bool = False) -> Block:
    """The block of a moment (n, n), or (n,) if diagonal."""
    if moment.ndim == 1:
        return Block(_lifted(moment.double(), shrinkage))
    values, vectors = eigen_in_place(moment.to(torch.float64, copy=not overwrite))
    return Block(_lifted(values, shrinkage), vectors)


def _lifted(values: Float[Tensor, " n"], shrinkage: float) -> Float[Tensor, " n"]:
    """Eigenvalues after shrinkage and floor, all positive."""
    positive = values.clamp_min(0)
    mean = positive.mean()
    if not mean > 0:
        return torch.ones_like(positive)
    return torch.maximum((1 - shrinkage) * positive + shrinkage * mean, FLOOR * mean)
