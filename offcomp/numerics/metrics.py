"""A metric of one side of a matrix: how much each row or column, or each combination of them, matters.

    M symmetric positive semidefinite (n, n): diagonal, full, or block-diagonal with blocks of both sorts

Only M^½ and its inverse are ever applied, from an eigendecomposition in float64. A moment of few tokens is singular, so
eigenvalues are raised to `FLOOR` times their mean: no Cholesky factor that may not exist, and no shift that depends on the
scale. Shrinkage draws M to the identity of the same trace: (1 - s)·M + s·(tr M / n)·I.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FLOOR = 1e-8
"""Of the mean eigenvalue: condition numbers stay below n / FLOOR, so that some digits of float64 are left."""


@dataclass(frozen=True)
class Block:
    """A diagonal block V diag(values) Vᵀ of positive values (k,), vectors V (k, k); None where it is diagonal itself."""

    values: Tensor
    vectors: Tensor | None = None

    def apply(self, matrix: Tensor, power: float) -> Tensor:
        """The block to this power times `matrix` (k, cols), in float64."""
        scale = self.values.pow(power)[:, None]
        wide = matrix.double()
        return scale * wide if self.vectors is None else self.vectors @ (scale * (self.vectors.T @ wide))


@dataclass(frozen=True)
class Metric:
    """A block-diagonal metric; the sizes of its blocks add up to n."""

    blocks: tuple[Block, ...]

    @property
    def sizes(self) -> list[int]:
        """The size of each block."""
        return [len(block.values) for block in self.blocks]

    @property
    def condition(self) -> float:
        """The largest eigenvalue over the smallest, after the floor."""
        values = torch.cat([block.values for block in self.blocks])
        return (values.max() / values.min()).item()

    def root(self, matrix: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """M^½ times a matrix, in float64."""
        return self._apply(matrix, 0.5)

    def root_pieces(self, matrix: Float[Tensor, "rows cols"], height: int) -> Iterator[Tensor]:
        """The rows of `root(matrix)` in pieces: `height` rows of a diagonal block at a time, full blocks whole."""
        for block, part in zip(self.blocks, matrix.split(self.sizes), strict=True):
            if block.vectors is not None:
                yield block.apply(part, 0.5)
                continue
            for values, piece in zip(block.values.split(height), part.split(height), strict=True):
                yield Block(values).apply(piece, 0.5)

    def inverse_root(self, matrix: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """M^-½ times a matrix, in float64."""
        return self._apply(matrix, -0.5)

    def _apply(self, matrix: Tensor, power: float) -> Tensor:
        parts = matrix.split(self.sizes)
        return torch.cat([block.apply(part, power) for block, part in zip(self.blocks, parts, strict=True)])


def diagonal_metric(weights: Float[Tensor, " n"], shrinkage: float = 0.0) -> Metric:
    """A metric that weighs each row or column by a number of at least 0. Where all are 0 they count alike."""
    return Metric((Block(_lifted(weights.double(), shrinkage)),))


def full_metric(moment: Float[Tensor, "n n"], shrinkage: float = 0.0) -> Metric:
    """The metric of a second moment, whatever its rank. A zero one is the identity."""
    wide = moment.double()
    values, vectors = torch.linalg.eigh((wide + wide.T) / 2)
    return Metric((Block(_lifted(values, shrinkage), vectors),))


def stacked_metric(metrics: Sequence[Metric]) -> Metric:
    """The block-diagonal metric of members that stand one above the other."""
    return Metric(tuple(block for metric in metrics for block in metric.blocks))


def _lifted(values: Float[Tensor, " n"], shrinkage: float) -> Float[Tensor, " n"]:
    """Eigenvalues after shrinkage and floor, all positive."""
    positive = values.clamp_min(0)
    mean = positive.mean()
    if not mean > 0:
        return torch.ones_like(positive)
    return torch.maximum((1 - shrinkage) * positive + shrinkage * mean, FLOOR * mean)
