"""Sentence similarity: Spearman correlation between embedding cosines and human scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from offcomp.evaluation.base import Arrays, TaskData
from offcomp.evaluation.comparison import compare_ranks
from offcomp.evaluation.embeddings import SplitEmbedder, cosines, shown_texts
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress


class Similarity:
    """See the module docstring. Reference and predictions: the cosines (pairs,)."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        self._data = data
        self._embedder = SplitEmbedder(loaded, data.splits["test"])

    def about(self) -> dict[str, Any]:
        """How the sentences are embedded."""
        return self._embedder.about()

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """The original's cosines."""
        return {"values": cosines(*self._embedder.sentences(report))}

    def predict(self, reference: Arrays, report: Report = ignore_progress) -> Arrays:
        """The current model's cosines."""
        return self.reference(report)

    def compare(self, reference: Arrays, predictions: Arrays) -> dict[str, Any]:
        """Spearman correlation with the true scores, and the paired comparison."""
        test = self._data.splits["test"]
        truth = np.array(test["score"], float)
        return compare_ranks(truth, reference["values"], predictions["values"], texts=shown_texts(test))
