"""A metric of one side of a matrix: how much each row or column, or each combination of them, matters.

    M symmetric positive semidefinite (n, n): diagonal, full, or block-diagonal with blocks of both sorts

Only M^½ and its inverse are ever applied, from an eigendecomposition in float64. A moment of few tokens is singular, so
eigenvalues are raised to `FLOOR` times their mean: no Cholesky factor that may not exist, and no shift that depends on the
scale. Shrinkage draws M to the identity of the same trace: (1 - s)·M + s·(tr M / n)·I.
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
"""Of the mean eigenvalue: condition numbers stay below n / FLOOR, so that some digits of float64 are left."""


@dataclass(frozen=True)
class Block:
    """A diagonal block V diag(values) Vᵀ of positive values (k,), vectors V (k, k); None where it is diagonal itself."""

    values: Tensor
    vectors: Tensor | None = None

    @property
    def size(self) -> int:
        """k."""
        return len(self.values)

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        low, high = self.values.aminmax()
        return low.item(), high.item()

    def whole(self) -> Block:
        """The block itself."""
        return self

    def apply(self, matrix: Tensor, power: float) -> Tensor:
        """The block to this power times `matrix` (k, cols), in float64."""
        scale = self.values.pow(power)[:, None]
        if self.vectors is None:
            return scale * matrix.double()
        return self.vectors @ (self.vectors.T @ matrix.double()).mul_(scale)


@dataclass(frozen=True)
class DeferredBlock:
    """A block that is made anew for each use, where the blocks of all members would together outweigh their matrix."""

    size: int
    make: Callable[[], Block]
    _seen: list[tuple[float, float]] = field(default_factory=list, compare=False)

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value, remembered from the first use."""
        if not self._seen:
            self.whole()
        return self._seen[0]

    def whole(self) -> Block:
        """The block, to be used and dropped."""
        block = self.make()
        self._seen[:] = [block.extremes]
        return block

    def kept_in(self, spool: Spool) -> Block | DeferredBlock:
        """The same, made once and read from there for each use; a diagonal one stays in memory."""
        block = self.whole()
        if block.vectors is None:
            return block
        values, read = block.values, spool.put(block.vectors.T)  # which is contiguous
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
        """The largest eigenvalue over the smallest, after the floor."""
        lows, highs = zip(*(block.extremes for block in self.blocks), strict=True)
        return max(highs) / min(lows)

    def root(self, matrix: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """M^½ times a matrix, in float64."""
        return self._apply(matrix, 0.5)

    def root_pieces(self, matrix: Float[Tensor, "rows cols"], height: int, less: Tensor | None = None) -> Iterator[Tensor]:
        """The rows of `root(matrix - less)` in pieces: `height` rows of a diagonal block at a time, full blocks whole."""
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
                del block  # before the next one is made
                yield piece

    def inverse_root(self, matrix: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """M^-½ times a matrix, in float64."""
        return self._apply(matrix, -0.5)

    def kept_in(self, spool: Spool) -> Metric:
        """The metric with deferred blocks read from there for each use."""
        return Metric(tuple(block.kept_in(spool) if isinstance(block, DeferredBlock) else block for block in self.blocks))

    def held(self) -> Metric:
        """The metric with every block in memory, for many uses."""
        return Metric(tuple(block.whole() for block in self.blocks))

    def _apply(self, matrix: Tensor, power: float) -> Tensor:
        parts = matrix.split(self.sizes)
        return torch.cat([block.whole().apply(part, power) for block, part in zip(self.blocks, parts, strict=True)])


def difference(matrix: Tensor, less: Tensor | None) -> Tensor:
    """A matrix less another one, in float64; less nothing as it is."""
    return matrix if less is None else matrix.double() - less


def diagonal_metric(weights: Float[Tensor, " n"], shrinkage: float = 0.0) -> Metric:
    """A metric that weighs each row or column by a number of at least 0. Where all are 0 they count alike."""
    return Metric((_block(weights, shrinkage),))


def full_metric(moment: Float[Tensor, "n n"], shrinkage: float = 0.0, *, overwrite: bool = False) -> Metric:
    """The metric of a second moment, whatever its rank, in whose place it may be worked out. A zero one is the identity."""
    return Metric((_block(moment, shrinkage, overwrite=overwrite),))


def deferred_metric(size: int, moment: Callable[[], Tensor], shrinkage: float = 0.0) -> Metric:
    """The metric of a moment (size, size), or (size,) where diagonal, that is asked for at each use, and overwritten."""
    return Metric((DeferredBlock(size, lambda: _block(moment(), shrinkage, overwrite=True)),))


def stacked_metric(metrics: Sequence[Metric]) -> Metric:
    """The block-diagonal metric of members that stand one above the other."""
    return Metric(tuple(block for metric in metrics for block in metric.blocks))


def _block(moment: Tensor, shrinkage: float, *, overwrite: bool = False) -> Block:
    """The block of a moment (n, n), or (n,) where diagonal."""
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
