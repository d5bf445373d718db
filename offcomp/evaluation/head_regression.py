"""Regression with the model's own single-output head, as in an STS-B cross-encoder, scored by Spearman correlation.

Nothing is fitted. If the head was trained with a sigmoid on top, the sigmoid is omitted, which does not affect the ranking.
"""

from __future__ import annotations

from typing import Any

from offcomp.evaluation.base import Arrays, Evaluator, TaskData, text_columns
from offcomp.evaluation.batches import batches
from offcomp.evaluation.comparison import compare_ranks
from offcomp.evaluation.head import described_head, head_outputs
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.head_labels import check_kind
from offcomp.planning.data.scores import Score


class HeadRegression(Evaluator):
    """See the module docstring. `reference` and `predict` return `values` (examples,), the outputs of the head."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        check_kind(described_head(loaded), regression=True)
        self._loaded, self._data = loaded, data
        self._batches = batches(loaded, *text_columns(data.splits["test"]))

    def details(self) -> dict[str, Any]:
        """The number of truncated texts."""
        return {"cut": self._batches.cut_figures()}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """Outputs of the original's head. Raises TaskError if any value is not finite."""
        return {"values": head_outputs(self._loaded, self._batches, 1, report)[:, 0]}

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """Spearman correlations with the true scores, and their paired comparison."""
        return compare_ranks(self._data.answers(), reference["values"], predictions["values"], texts=self._data.texts)
