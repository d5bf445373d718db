"""Regression with the model's own single-output head, such as an STS-B cross-encoder: Spearman correlation with human scores.

Nothing is fitted. If the head was trained with a sigmoid on top, omitting it leaves the ranking unchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offcomp.errors import TaskError
from offcomp.evaluation.base import Arrays, TaskData
from offcomp.evaluation.comparison import compare_ranks
from offcomp.evaluation.embeddings import shown_texts
from offcomp.evaluation.head import head_of, logits_of, split_batches
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.head_labels import check_kind


class HeadRegression:
    """See the module docstring. Reference and predictions: `values` (examples,), the outputs of the head."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        check_kind(head_of(loaded, data), regression=True)
        self._loaded, self._data = loaded, data
        self._batches = split_batches(loaded, data.splits["test"])

    def about(self) -> dict[str, Any]:
        """How many texts are truncated."""
        return {"cut": self._batches.cut_figures(np.arange(self._batches.count))}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """Outputs of the original's head. Raises TaskError if values are not finite."""
        values: NDArray[np.float64] = np.empty(self._batches.count)
        for rows, inputs in self._batches.on(self._loaded, report):
            values[rows] = logits_of(self._loaded, inputs)[:, 0].double().cpu().numpy()
        if not np.isfinite(values).all():
            raise TaskError(f"{self._loaded.info.model} outputs values that are not finite, so no task can be scored")
        return {"values": values}

    def predict(self, reference: Arrays, report: Report = ignore_progress) -> Arrays:
        """Outputs of the current model's head."""
        return self.reference(report)

    def compare(self, reference: Arrays, predictions: Arrays) -> dict[str, Any]:
        """Spearman correlation with the true scores, and the paired comparison."""
        test = self._data.splits["test"]
        truth = np.array(test["score"], float)
        return compare_ranks(truth, reference["values"], predictions["values"], texts=shown_texts(test))
