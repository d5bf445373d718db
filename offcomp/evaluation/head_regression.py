"""Scores by the model's own head with one output, such as a cross-encoder for STS-B: Spearman's correlation with people's.

Nothing is fitted. A head that was trained with a sigmoid behind it ranks the examples alike without one.
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
from offcomp.head_labels import check_kind
from offcomp.methods.base import Report, ignore_progress
from offcomp.models.loading import LoadedModel


class HeadRegression:
    """See the module. Reference and predictions: `values` (examples,), what the head gives."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        check_kind(head_of(loaded, data), regression=True)
        self._loaded, self._data = loaded, data
        self._batches = split_batches(loaded, data.splits["test"])

    def about(self) -> dict[str, Any]:
        """How many texts are cut."""
        return {"cut": self._batches.cut_figures(np.arange(self._batches.count))}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """What the original's head gives. Raises TaskError where values are not finite."""
        values: NDArray[np.float64] = np.empty(self._batches.count)
        for rows, inputs in self._batches.on(self._loaded, report):
            values[rows] = logits_of(self._loaded, inputs)[:, 0].double().cpu().numpy()
        if not np.isfinite(values).all():
            raise TaskError(f"{self._loaded.info.model} gives values that are not finite, so no task can be scored")
        return {"values": values}

    def predict(self, reference: Arrays, report: Report = ignore_progress) -> Arrays:
        """What the head of the model as it is now gives."""
        return self.reference(report)

    def compare(self, reference: Arrays, predictions: Arrays) -> dict[str, Any]:
        """Spearman's correlation with the true scores, and the paired comparison."""
        test = self._data.splits["test"]
        truth = np.array(test["score"], float)
        return compare_ranks(truth, reference["values"], predictions["values"], texts=shown_texts(test))
