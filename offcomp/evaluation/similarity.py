"""Sentence similarity: Spearman correlation between embedding cosines and human scores."""

from __future__ import annotations

from typing import Any

from offcomp.evaluation.base import Arrays, Evaluator, TaskData
from offcomp.evaluation.comparison import compare_ranks
from offcomp.evaluation.embeddings import SplitEmbedder, cosines
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.scores import Score


class Similarity(Evaluator):
    """See the module docstring. `reference` and `predict` return `values` (pairs,), the cosine similarities."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        self._data = data
        self._embedder = SplitEmbedder(loaded, data.splits["test"])

    def details(self) -> dict[str, Any]:
        """A description of how the sentences are embedded."""
        return self._embedder.details()

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """The original's cosine similarities."""
        return {"values": cosines(*self._embedder.sentences(report))}

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """Spearman correlations with the true scores, and their paired comparison."""
        return compare_ranks(self._data.answers(), reference["values"], predictions["values"], texts=self._data.texts)
