"""Build the row and column metrics of a stacked matrix from the statistics of its members.

In its canonical view (outputs, inputs), each member has a row metric and a column metric. For a transposed member, the two
metrics are swapped. In the stacked matrix

    rows        have a block-diagonal metric with one block per member (a multiple of the identity if the member has no metric)
    columns     are shared, so their metric is the mean over the members that have a column metric

Each second moment is divided by its mean eigenvalue. This prevents a layer from dominating merely because its activations are
large, and ensures that moments proportional to the identity give the plain SVD. Weights computed from gradients are not
normalised per member, which preserves their relative sizes across members.

In a mixed group (`stack="residual"`), members that read from the residual stream have their inputs along the columns, and
members that write to the residual stream have their inputs along the rows. An input metric therefore weights the shared columns
by the activations read from the residual stream; it weights the rows of a member that writes to the stream by that member's
inputs.

The inputs of an embedding are token ids, so an input metric weights each row of the embedding table by the frequency of its
token in the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, device

from offcomp.errors import InputError
from offcomp.methods.hints import Hints, Statistics
from offcomp.numerics.metrics import Block, Metric, metric_of
from offcomp.numerics.storage import num_not_finite

FROM_GRADIENTS = ("fisher", "sensitivity")
OF_INPUTS = ("magnitude", "diagonal", "full")


def group_metrics(
    hints: Hints, sources: tuple[str, str], shrinkage: float, device: device
) -> tuple[Metric | None, Metric | None]:
    """Metrics of the rows and columns of a stacked matrix, on `device`; None stands for the identity.

    Full row blocks are recomputed on each use, because together they can take several times as much memory as the matrix.

    Raises InputError if the hints lack a statistic that a source needs.
    """
    sides = [_sides(hints, index, sources) for index in range(len(hints.heights))]
    down, across = [rows for rows, _ in sides], [columns for _, columns in sides]
    return _row_metric(down, hints.heights, shrinkage, device), _column_metric(across, shrinkage, device)


@dataclass(frozen=True)
class _Side:
    """One side (rows or columns) of a member in its canonical view, and the source of its metric."""

    hints: Hints
    index: int
    of_rows: bool
    source: str

    @property
    def is_full(self) -> bool:
        """Whether the moment is a full matrix (n, n) rather than a diagonal (n,)."""
        return self.source == "full"

    def moment(self) -> Tensor:
        """The moment or weights of this side, in float64. Raises InputError if the hints lack this statistic."""
        return (_of_rows if self.of_rows else _of_columns)(self.hints.statistics(self.index), self.source)


def _sides(hints: Hints, index: int, sources: tuple[str, str]) -> tuple[_Side | None, _Side | None]:
    """The member's sides along the rows and the columns of the stacked matrix; None for a side without a metric."""
    row_source, column_source = sources
    if hints.embeddings[index] and (row_source == "full" or column_source in OF_INPUTS):
        row_source = "diagonal"
        column_source = "none" if column_source in OF_INPUTS else column_source
    rows = _Side(hints, index, True, row_source) if row_source != "none" else None
    columns = _Side(hints, index, False, column_source) if column_source != "none" else None
    return (columns, rows) if hints.transposed[index] else (rows, columns)


def _of_columns(statistics: Statistics, source: str) -> Tensor:
    if source in FROM_GRADIENTS:
        return _known(getattr(statistics, source), source).double().sum(0)
    if source == "magnitude":
        return _normalised(_known(statistics.column_magnitude, "column magnitude"))
    return _narrowed(_known(statistics.column_moment, "column moment"), source)


def _of_rows(statistics: Statistics, source: str) -> Tensor:
    if source in FROM_GRADIENTS:
        return _known(getattr(statistics, source), source).double().sum(1)
    return _narrowed(_known(statistics.row_moment, "row moment"), source)


def _known(statistic: Tensor | None, name: str) -> Tensor:
    if statistic is None:
        raise InputError(
            f"the hints have no {name} statistics, which this metric needs; provide calibration text or choose another metric"
        )
    return statistic


def _narrowed(moment: Tensor, source: str) -> Tensor:
    """The normalised moment, or its diagonal if the source is "diagonal"."""
    return _normalised(moment.diagonal() if source == "diagonal" and moment.ndim == 2 else moment)


def _normalised(moment: Tensor) -> Tensor:
    """Divide a moment by its mean eigenvalue, in float64; a zero moment stays zero.

    Raises InputError if the moment is not finite.
    """
    wide = moment.double()
    if num_not_finite(wide):
        raise InputError("the moments computed on the calibration text are not finite; check the model's weights")
    mean = (wide if wide.ndim == 1 else wide.diagonal()).mean()
    return wide / mean if mean > 0 else wide


def _row_metric(sides: Sequence[_Side | None], heights: Sequence[int], shrinkage: float, device: device) -> Metric | None:
    """The block-diagonal metric of vertically stacked members; members without a metric get the mean weight of the others."""
    if not any(sides):
        return None
    vectors = [side.moment().to(device) if side and not side.is_full else None for side in sides]
    known = [vector for vector in vectors if vector is not None]
    scale = torch.cat(known).mean() if known else torch.ones((), dtype=torch.float64, device=device)
    diagonals = [scale.expand(height) if vector is None else vector for vector, height in zip(vectors, heights, strict=True)]

    def block(index: int) -> Block:
        side = sides[index]
        return Block.of(side.moment().to(device) if side and side.is_full else diagonals[index], shrinkage)

    if not any(side and side.is_full for side in sides):
        return metric_of(torch.cat(diagonals), shrinkage)
    return Metric(heights, block)


def _column_metric(sides: Sequence[_Side | None], shrinkage: float, device: device) -> Metric | None:
    """The metric of the shared columns, which is the mean over all members that have a column metric."""
    known = [side for side in sides if side]
    if not known:
        return None
    is_full = any(side.is_full for side in known)
    moments = (side.moment().to(device) for side in known)
    total = sum((torch.diag(part) if is_full and part.ndim == 1 else part for part in moments), torch.zeros(()))
    return metric_of(total / len(known), shrinkage)
