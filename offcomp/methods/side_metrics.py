"""From the statistics of the members of a group to the metrics of both sides of its stacked matrix.

Each member has a metric of its rows and one of its columns, in its canonical view (outputs, inputs). A member that is turned
stands transposed, so these change places. In the stacked matrix

    rows        have a block-diagonal metric, a block a member, the identity for a member without one
    columns     are shared, so their metric is the mean over the members that have one

A second moment is divided by its mean eigenvalue, so that no layer dominates by the size of its activations, and moments that
are multiples of the identity give the plain SVD. Weights from gradients keep their proportions between members.

In a mixed group (`stack="residual"`) the inputs of members that read the residual stream are columns and those of members that
write it are rows: with a metric of inputs, the shared columns are weighed by what is read from the residual stream, for all
members, and the rows of the writers by their own inputs.

The input of an embedding is the token: a metric of inputs weighs its rows by the share of each token in the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from offcomp.errors import InputError
from offcomp.methods.base import Hints, Statistics

if TYPE_CHECKING:
    from torch import Tensor, device

    from offcomp.numerics.metrics import Metric

SOURCES = ("none", "diagonal", "full")
PRESETS = {
    "plain": ("none", "none"),
    "direction": ("none", "none"),
    "fwsvd_rows": ("fisher", "none"),
    "fwsvd_columns": ("none", "fisher"),
    "l1_sensitivity": ("sensitivity", "none"),
    "asvd": ("none", "magnitude"),
    "whitened": ("none", "full"),
    "two_sided": ("full", "full"),
}
"""Preset -> sources of the metrics of a weight's rows and columns."""

FROM_GRADIENTS = ("fisher", "sensitivity")
OF_INPUTS = ("magnitude", "diagonal", "full")


def group_metrics(
    hints: Hints, sources: tuple[str, str], shrinkage: float, device: device
) -> tuple[Metric | None, Metric | None]:
    """Metrics of the rows and columns of a stacked matrix, on the device; None is the identity.

    Raises InputError where the hints lack what a source needs.
    """
    stacked_rows: list[Tensor | None] = []
    stacked_columns: list[Tensor | None] = []
    for index, turned in enumerate(hints.turned):
        rows, columns = _member_moments(hints.statistics(index), sources)
        stacked_rows.append(columns if turned else rows)
        stacked_columns.append(rows if turned else columns)
    rows_metric = _row_metric(stacked_rows, hints.heights, shrinkage, device)
    return rows_metric, _column_metric(stacked_columns, shrinkage, device)


def _member_moments(statistics: Statistics, sources: tuple[str, str]) -> tuple[Tensor | None, Tensor | None]:
    """Moments or weights of a member's rows and columns, full (n, n) or diagonal (n,)."""
    row_source, column_source = sources
    columns = _columns(statistics, column_source)
    if columns is None and column_source in OF_INPUTS:
        row_source = "diagonal"  # an embedding
    return _rows(statistics, row_source), columns


def _columns(statistics: Statistics, source: str) -> Tensor | None:
    if source in FROM_GRADIENTS:
        return _known(getattr(statistics, source), source).double().sum(0)
    if source == "magnitude":
        return _normalised(statistics.column_magnitude)
    return _narrowed(statistics.column_moment, source) if source != "none" else None


def _rows(statistics: Statistics, source: str) -> Tensor | None:
    if source in FROM_GRADIENTS:
        return _known(getattr(statistics, source), source).double().sum(1)
    return _narrowed(_known(statistics.row_moment, "row moment"), source) if source != "none" else None


def _known(statistic: Tensor | None, name: str) -> Tensor:
    if statistic is None:
        raise InputError(f"the hints have no {name}, which this metric needs; calibrate with text, or choose another metric")
    return statistic


def _narrowed(moment: Tensor | None, source: str) -> Tensor | None:
    """A normalised moment, or its diagonal where that is asked for."""
    if moment is not None and source == "diagonal" and moment.ndim == 2:
        moment = moment.diagonal()
    return _normalised(moment)


def _normalised(moment: Tensor | None) -> Tensor | None:
    """A moment divided by its mean eigenvalue, in float64; a zero one stays zero. Raises InputError where it is not finite."""
    if moment is None:
        return None
    wide = moment.double()
    if not wide.isfinite().all():
        raise InputError("the calibration text gives moments that are not finite; check the model's weights")
    mean = (wide if wide.ndim == 1 else wide.diagonal()).mean()
    return wide / mean if mean > 0 else wide


def _row_metric(moments: Sequence[Tensor | None], heights: Sequence[int], shrinkage: float, device: device) -> Metric | None:
    """The block-diagonal metric of members one above the other; those without one count as the mean of the others."""
    import torch

    from offcomp.numerics.metrics import diagonal_metric, full_metric, stacked_metric

    known = [moment for moment in moments if moment is not None]
    if not known:
        return None
    scale = torch.cat([moment if moment.ndim == 1 else moment.diagonal() for moment in known]).mean()
    blocks = [
        scale.expand(height).to(device) if moment is None else moment.to(device)
        for moment, height in zip(moments, heights, strict=True)
    ]
    if all(block.ndim == 1 for block in blocks):
        return diagonal_metric(torch.cat(blocks), shrinkage)
    return stacked_metric([full_metric(b, shrinkage) if b.ndim == 2 else diagonal_metric(b, shrinkage) for b in blocks])


def _column_metric(moments: Sequence[Tensor | None], shrinkage: float, device: device) -> Metric | None:
    """The metric of columns that members share: the mean of theirs."""
    import torch

    from offcomp.numerics.metrics import diagonal_metric, full_metric

    known = [moment.to(device) for moment in moments if moment is not None]
    if not known:
        return None
    if all(moment.ndim == 1 for moment in known):
        return diagonal_metric(torch.stack(known).mean(0), shrinkage)
    total = torch.zeros(known[0].shape[0], known[0].shape[0], dtype=torch.float64, device=device)
    for moment in known:
        (total if moment.ndim == 2 else total.diagonal()).add_(moment, alpha=1 / len(known))
    return full_metric(total, shrinkage)
