"""Build the metrics of both sides of a stacked matrix from the statistics of the group's members.

Each member has a row metric and a column metric, in its canonical view (outputs, inputs). For a transposed member the two are
swapped. In the stacked matrix

    rows        have a block-diagonal metric with one block per member, a multiple of the identity for a member without one
    columns     are shared, so their metric is the mean over the members that have one

A second moment is divided by its mean eigenvalue, so that no layer dominates merely because its activations are large, and so
that moments that are multiples of the identity give the plain SVD. Gradient-based weights are not normalised per member, so
their relative sizes across members are kept.

In a mixed group (`stack="residual"`) the inputs of members that read the residual stream are columns, and those of members that
write to it are rows. With an input metric, the shared columns of all members are therefore weighted by what is read from the
residual stream, and the rows of members that write to it are weighted by those members' own inputs.

The input of an embedding is a token, so an input metric weights the embedding's rows by each token's frequency in the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, device

from offcomp.errors import InputError
from offcomp.methods.base import Hints, Statistics
from offcomp.numerics.metrics import Block, Metric, metric_of
from offcomp.numerics.storage import num_not_finite

FROM_GRADIENTS = ("fisher", "sensitivity")
OF_INPUTS = ("magnitude", "diagonal", "full")


def group_metrics(
    hints: Hints, sources: tuple[str, str], shrinkage: float, device: device
) -> tuple[Metric | None, Metric | None]:
    """Metrics of the rows and columns of a stacked matrix, on `device`; None stands for the identity.

    Full row blocks are recomputed for each use, since together they can take several times as much memory as the matrix.

    Raises InputError if the hints lack what a source needs.
    """
    sides = [_sides(hints, index, sources) for index in range(len(hints.heights))]
    down, across = [rows for rows, _ in sides], [columns for _, columns in sides]
    return _row_metric(down, hints.heights, shrinkage, device), _column_metric(across, shrinkage, device)


@dataclass(frozen=True)
class _Side:
    """The rows or the columns of a member, in its canonical view, and where their metric comes from."""

    hints: Hints
    index: int
    of_rows: bool
    source: str

    @property
    def is_full(self) -> bool:
        """Whether the moment is a full matrix (n, n), not just a diagonal (n,)."""
        return self.source == "full"

    def moment(self) -> Tensor:
        """The moment or weights of this side, in float64. Raises InputError if the hints lack them."""
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
            f"the hints have no {name}, which this metric needs; provide calibration text, or choose a different metric"
        )
    return statistic


def _narrowed(moment: Tensor, source: str) -> Tensor:
    """The normalised moment, or its diagonal if the source is "diagonal"."""
    return _normalised(moment.diagonal() if source == "diagonal" and moment.ndim == 2 else moment)


def _normalised(moment: Tensor) -> Tensor:
    """A moment divided by its mean eigenvalue, in float64; a zero moment stays zero.

    Raises InputError if it is not finite.
    """
    wide = moment.double()
    if num_not_finite(wide):
        raise InputError("the moments of the calibration text are not finite; check the model's weights")
    mean = (wide if wide.ndim == 1 else wide.diagonal()).mean()
    return wide / mean if mean > 0 else wide


def _row_metric(sides: Sequence[_Side | None], heights: Sequence[int], shrinkage: float, device: device) -> Metric | None:
    """The block-diagonal metric of vertically stacked members; members without one get the mean weight of the others."""
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
    """The metric of the shared columns: the mean over the members."""
    known = [side for side in sides if side]
    if not known:
        return None
    is_full = any(side.is_full for side in known)
    moments = (side.moment().to(device) for side in known)
    total = sum((torch.diag(part) if is_full and part.ndim == 1 else part for part in moments), torch.zeros(()))
    return metric_of(total / len(known), shrinkage)
