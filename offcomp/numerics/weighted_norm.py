"""Squared error under row and column metrics, for fits that evaluate the error and its gradient many times.

    error(E) = tr(Eᵀ R E C),     half its gradient: R E C

The row metric R and the column metric C are block-diagonal (`numerics.metrics`), or the identity if they are None.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from offcomp.numerics.chunks import float64_chunks, inner_product
from offcomp.numerics.metrics import Metric


@dataclass(frozen=True)
class _Side:
    """The metric of one side, kept in memory, and its float32 blocks: (k, k), or (k,) for a diagonal block."""

    metric: Metric
    blocks: tuple[Tensor, ...]

    @staticmethod
    def of(metric: Metric | None) -> _Side | None:
        """A side with this metric, or None if the metric is None."""
        if metric is None:
            return None
        held = metric.held()
        return _Side(held, tuple(block.matrix().float() for block in held.blocks()))

    @property
    def diagonal(self) -> Float[Tensor, " n"]:
        """The diagonal entry M_ii of each row or column i."""
        return torch.cat([block if block.ndim == 1 else block.diagonal() for block in self.blocks])

    def times(self, matrix: Float[Tensor, "n cols"]) -> Float[Tensor, "n cols"]:
        """M times a matrix."""
        parts = zip(self.blocks, matrix.split(self.metric.sizes), strict=True)
        return torch.cat([block[:, None] * rows if block.ndim == 1 else block @ rows for block, rows in parts])


@dataclass(frozen=True)
class SideWeights:
    """The row and column metrics R and C, created with `of`. Without metrics, `squared` is the plain squared error."""

    _rows: _Side | None = None
    _columns: _Side | None = None

    @staticmethod
    def of(rows: Metric | None, columns: Metric | None) -> SideWeights:
        """Build the weights from two metrics."""
        return SideWeights(_Side.of(rows), _Side.of(columns))

    @property
    def rows(self) -> Metric | None:
        """R."""
        return self._rows.metric if self._rows else None

    @property
    def columns(self) -> Metric | None:
        """C."""
        return self._columns.metric if self._columns else None

    @property
    def transposed(self) -> SideWeights:
        """The weights of the transposed matrix."""
        return SideWeights(self._columns, self._rows)

    @property
    def plain(self) -> bool:
        """Whether both metrics are the identity."""
        return self._rows is None and self._columns is None

    def weighted(self, error: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """R E C."""
        result = self._rows.times(error) if self._rows else error
        return self._columns.times(result.T).T if self._columns else result

    def squared(self, error: Float[Tensor, "rows cols"]) -> float:
        """tr(Eᵀ R E C) in float64, via the square roots of the metrics."""
        pieces = self.rows.root_blocks(error) if self.rows else float64_chunks(error)
        return sum(float((self.columns.root(rows.T) if self.columns else rows).square().sum()) for rows in pieces)

    def squared_in_float32(self, error: Float[Tensor, "rows cols"]) -> float:
        """Like `squared`, but in float32, which takes a fraction of the time."""
        return inner_product(error, self.weighted(error))

    def scale(self, matrix: Float[Tensor, "rows cols"], power: float) -> None:
        """Multiply each entry (i, j) by (R_ii C_jj)^power, in place."""
        if self._rows:
            matrix *= self._rows.diagonal.pow(power)[:, None]
        if self._columns:
            matrix *= self._columns.diagonal.pow(power)

    def diagonal_at(self, positions: Integer[Tensor, " count"], cols: int) -> Float[Tensor, " count"]:
        """The products R_ii C_jj for the entries (i, j) at positions i · cols + j."""
        weights = torch.ones(len(positions), device=positions.device)
        if self._rows:
            weights *= self._rows.diagonal[positions // cols]
        if self._columns:
            weights *= self._columns.diagonal[positions % cols]
        return weights
