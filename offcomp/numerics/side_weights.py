"""A squared error in the metrics of both sides of a matrix, in float32, for fits that need its gradient many times.

    error(E) = tr(Eᵀ R E C),     ½ its gradient: R E C

R of the rows and C of the columns are block-diagonal (`numerics.metrics`); without a metric they are identities.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from offcomp.numerics.metrics import Metric

Blocks = tuple[Tensor, ...]
PIECE_ENTRIES = 1 << 18


def _blocks(metric: Metric | None) -> Blocks | None:
    """Each block as a float32 vector or matrix."""
    if metric is None:
        return None
    blocks = (block.whole() for block in metric.blocks)
    return tuple((b.values if b.vectors is None else (b.vectors * b.values) @ b.vectors.T).float() for b in blocks)


def squared_norm(matrix: Float[Tensor, "rows cols"]) -> float:
    """The sum of the squared entries, in float64, a piece at a time."""
    height = max(1, PIECE_ENTRIES // max(1, matrix.shape[1]))
    return sum(float(piece.double().square_().sum()) for piece in matrix.split(height))


def _applied(blocks: Blocks | None, matrix: Tensor) -> Tensor:
    if blocks is None:
        return matrix
    parts = matrix.split([len(block) for block in blocks])
    return torch.cat([b[:, None] * part if b.ndim == 1 else b @ part for b, part in zip(blocks, parts, strict=True)])


def _diagonal(blocks: Blocks | None) -> Tensor | None:
    return None if blocks is None else torch.cat([b if b.ndim == 1 else b.diagonal() for b in blocks])


@dataclass(frozen=True)
class SideWeights:
    """The metrics R and C of a (rows, cols) matrix, held whole."""

    rows: Metric | None = None
    columns: Metric | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", self.rows and self.rows.held())
        object.__setattr__(self, "columns", self.columns and self.columns.held())
        object.__setattr__(self, "_row_blocks", _blocks(self.rows))
        object.__setattr__(self, "_column_blocks", _blocks(self.columns))

    _row_blocks: Blocks | None = None
    _column_blocks: Blocks | None = None

    @property
    def plain(self) -> bool:
        """Whether both sides are identities."""
        return self.rows is None and self.columns is None

    def weighted(self, error: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """R E C; E itself where both are identities."""
        by_rows = _applied(self._row_blocks, error)
        return by_rows if self._column_blocks is None else _applied(self._column_blocks, by_rows.T).T

    def squared(self, error: Float[Tensor, "rows cols"]) -> float:
        """tr(Eᵀ R E C), by the square roots of the metrics, in float64."""
        half = error if self.rows is None else self.rows.root(error)
        half = half if self.columns is None else self.columns.root(half.T)
        return squared_norm(half)

    def roughly_squared(self, error: Float[Tensor, "rows cols"]) -> float:
        """The same to the digits of float32, in a fraction of the time."""
        return squared_norm(error) if self.plain else float((error * self.weighted(error)).sum())

    def diagonal(self, matrix: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """R_ii C_jj for each entry (i, j), of the shape of `matrix`; not more memory than two vectors."""
        rows, columns = _diagonal(self._row_blocks), _diagonal(self._column_blocks)
        ones = torch.ones((), device=matrix.device)
        return (ones if rows is None else rows[:, None]) * (ones if columns is None else columns[None])
