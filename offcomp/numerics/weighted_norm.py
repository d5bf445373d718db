"""The squared error in the metrics of both sides of a matrix, for fits that evaluate it and its gradient many times.

    error(E) = tr(Eᵀ R E C),     half its gradient: R E C, in float32

The row metric R and the column metric C are block-diagonal (`numerics.metrics`), or identities if not given. Deferred blocks
are computed once here and kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from offcomp.numerics.metrics import Block, DeferredBlock, Metric
from offcomp.numerics.spool import Spool
from offcomp.numerics.svd import rooted_pieces

PIECE_ENTRIES = 1 << 18


@dataclass(frozen=True)
class _NarrowBlock:
    """A block in float32: its diagonal (k,) and, unless it is diagonal, a function that returns the full block (k, k)."""

    diagonal: Tensor
    whole: Callable[[], Tensor] | None = None

    @staticmethod
    def of(block: Block | DeferredBlock, spool: Spool) -> _NarrowBlock:
        """Convert a float64 block."""
        wide = block.whole()
        if wide.vectors is None:
            return _NarrowBlock(wide.values.float())
        matrix = torch.empty(wide.size, wide.size, device=wide.values.device)
        height = max(1, PIECE_ENTRIES // wide.size)
        for vectors, place in zip(wide.vectors.split(height), matrix.split(height), strict=True):
            place.copy_((vectors * wide.values) @ wide.vectors.T)
        del wide
        whole = spool.put(matrix) if isinstance(block, DeferredBlock) else lambda: matrix
        return _NarrowBlock(matrix.diagonal().clone(), whole)

    def held(self) -> _NarrowBlock:
        """The same block in memory, for repeated use."""
        if self.whole is None:
            return self
        matrix = self.whole()
        return _NarrowBlock(self.diagonal, lambda: matrix)

    def after(self, columns: Tensor) -> Tensor:
        """Multiply k columns by the block from the right."""
        return columns * self.diagonal if self.whole is None else columns @ self.whole()


Blocks = tuple[_NarrowBlock, ...]


@dataclass(frozen=True)
class _Side:
    """The metric of one side, and its blocks in float32."""

    metric: Metric
    blocks: Blocks

    @staticmethod
    def of(metric: Metric | None, spool: Spool) -> _Side | None:
        """Build a side from a metric. Deferred blocks are computed once and kept in the spool."""
        if metric is None:
            return None
        kept = metric.kept_in(spool)
        return _Side(kept, tuple(_NarrowBlock.of(block, spool) for block in kept.blocks))

    @property
    def diagonal(self) -> Tensor:
        """M_ii of each row or column i."""
        return torch.cat([block.diagonal for block in self.blocks])


def _times_columns(rows: Tensor, blocks: Sequence[_NarrowBlock]) -> Tensor:
    """Some rows of E times C."""
    parts = rows.split([len(block.diagonal) for block in blocks], 1)
    return torch.cat([block.after(part) for block, part in zip(blocks, parts, strict=True)], 1)


def squared_norm(matrix: Float[Tensor, "rows cols"]) -> float:
    """The sum of the squared entries, in float64, in chunks."""
    return inner_product(matrix, matrix)


def inner_product(one: Float[Tensor, "rows cols"], other: Float[Tensor, "rows cols"]) -> float:
    """The sum of the entrywise products, in float64, in chunks."""
    height = max(1, PIECE_ENTRIES // max(1, one.shape[1]))
    pieces = zip(one.split(height), other.split(height), strict=True)
    return sum(float((a.double() * b).sum()) for a, b in pieces)


@dataclass(frozen=True)
class SideWeights:
    """The metrics R and C of a (rows, cols) matrix, built by `of`. Without metrics this is the plain squared error."""

    _rows: _Side | None = None
    _columns: _Side | None = None

    @staticmethod
    def of(rows: Metric | None, columns: Metric | None) -> SideWeights:
        """Build the weights from two metrics. Raises StorageError if deferred blocks do not fit on disk."""
        spool = Spool()
        return SideWeights(_Side.of(rows, spool), _Side.of(columns, spool))

    @property
    def rows(self) -> Metric | None:
        """R."""
        return None if self._rows is None else self._rows.metric

    @property
    def columns(self) -> Metric | None:
        """C."""
        return None if self._columns is None else self._columns.metric

    @property
    def transposed(self) -> SideWeights:
        """The weights of the transposed matrix."""
        return SideWeights(self._columns, self._rows)

    @property
    def plain(self) -> bool:
        """Whether both sides are identities."""
        return self._rows is None and self._columns is None

    def weighted(self, error: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """R E C."""
        result = torch.empty(error.shape, device=error.device)
        for top, piece in self.weighted_pieces(error):
            result[top : top + len(piece)] = piece
        return result

    def weighted_pieces(self, error: Float[Tensor, "rows cols"]) -> Iterator[tuple[int, Float[Tensor, "_ cols"]]]:
        """R E C in chunks of rows, each with the index of its first row."""
        columns = None if self._columns is None else [block.held() for block in self._columns.blocks]
        top = 0
        for piece in self._times_rows(error):
            yield top, piece if columns is None else _times_columns(piece, columns)
            top += len(piece)

    def _times_rows(self, error: Tensor) -> Iterator[Tensor]:
        """R E in chunks: one chunk per full block of rows, several for a diagonal one."""
        height = max(1, PIECE_ENTRIES // max(1, error.shape[1]))
        if self._rows is None:
            yield from error.split(height)
            return
        for block, part in zip(self._rows.blocks, error.split(self._rows.metric.sizes), strict=True):
            if block.whole is None:
                for some, rows in zip(block.diagonal.split(height), part.split(height), strict=True):
                    yield some[:, None] * rows
            else:
                yield block.whole() @ part

    def squared(self, error: Float[Tensor, "rows cols"], less: Float[Tensor, "rows cols"] | None = None) -> float:
        """tr(Eᵀ R E C) in float64, via the square roots of the metrics. With `less`, of `error - less`."""
        return sum(float(piece.square().sum()) for piece in rooted_pieces(error, self.rows, self.columns, less))

    def roughly_squared(self, error: Float[Tensor, "rows cols"]) -> float:
        """`squared` to float32 precision, in a fraction of the time."""
        return sum(inner_product(error[top : top + len(piece)], piece) for top, piece in self.weighted_pieces(error))

    def scale(self, matrix: Float[Tensor, "rows cols"], power: float) -> None:
        """Multiply each entry (i, j) by (R_ii C_jj)^power, in place."""
        if self._rows:
            matrix *= self._rows.diagonal.pow(power)[:, None]
        if self._columns:
            matrix *= self._columns.diagonal.pow(power)

    def diagonal_at(self, positions: Integer[Tensor, " count"], cols: int) -> Float[Tensor, " count"]:
        """R_ii C_jj for the entries (i, j) at positions i · cols + j."""
        found = torch.ones(len(positions), device=positions.device)
        rows = self._rows.diagonal if self._rows else None
        columns = self._columns.diagonal if self._columns else None
        for part, places in zip(found.split(PIECE_ENTRIES), positions.split(PIECE_ENTRIES), strict=True):
            if rows is not None:
                part.mul_(rows[places // cols])
            if columns is not None:
                part.mul_(columns[places % cols])
        return found
