"""Fidelity: how close the outputs of the compressed model are to the original's on the same texts. No labels are needed.

embeddings      cosine similarity between the two models' embeddings of each text
classes         KL(original ‖ compressed) of the class probabilities of each text, in nats, as given by the model's own head

By definition, the original itself has a similarity of 1 or a divergence of 0, so only the compressed model's mean over texts is
uncertain.
`offcomp.evaluation.token_fidelity` compares predictions of tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from offcomp.evaluation.base import Arrays, Evaluator, TaskData, text_columns
from offcomp.evaluation.batches import batches
from offcomp.evaluation.comparison import compare_fidelity
from offcomp.evaluation.embeddings import SplitEmbedder
from offcomp.evaluation.head import described_head, head_outputs
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.head_labels import check_kind
from offcomp.planning.data.scores import Score

if TYPE_CHECKING:
    Vector = NDArray[np.float64]


class EmbeddingFidelity(Evaluator):
    """See the module docstring. `reference` and `predict` return the `embeddings` (texts, features)."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        self._data = data
        self._embedder = SplitEmbedder(loaded, data.splits["test"])

    def details(self) -> dict[str, Any]:
        """A description of how the texts are embedded."""
        return self._embedder.details()

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """The original's embeddings. Raises TaskError if any value is not finite."""
        (embeddings,) = self._embedder.sentences(report)
        return {"embeddings": embeddings}

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """The mean cosine similarity, and the texts whose embeddings changed most."""
        return _compared(self._data, similarities(reference["embeddings"], predictions["embeddings"]))


class HeadFidelity(Evaluator):
    """See the module docstring. `reference` and `predict` return `log_probabilities` (texts, classes)."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        head = described_head(loaded)
        check_kind(head, regression=False)
        self._loaded, self._data, self._num_classes = loaded, data, len(head.names)
        self._batches = batches(loaded, *text_columns(data.splits["test"]))

    def details(self) -> dict[str, Any]:
        """The number of truncated texts."""
        return {"cut": self._batches.cut_figures()}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """The original's log-probabilities. Raises TaskError if any output is not finite."""
        logits = head_outputs(self._loaded, self._batches, self._num_classes, report)
        return {"log_probabilities": log_softmax(logits, axis=1)}

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """The mean KL divergence, and the texts whose class probabilities changed most."""
        return _compared(self._data, divergences(reference["log_probabilities"], predictions["log_probabilities"]))


def _compared(data: TaskData, values: Vector) -> Score:
    """Score one value per text."""
    return compare_fidelity(values, rows=np.arange(len(values)), texts=data.texts, metric=data.task.kind.metric)


def similarities(original: NDArray[np.float32], compressed: NDArray[np.float32]) -> Vector:
    """Cosine similarity of each pair of rows (examples,): exactly 1 for equal rows, 0 if only one of them is zero.

    Computed from the distance between the unit vectors, as 1 - |u - v|² / 2, which is accurate even for almost parallel rows.
    """
    lengths = [np.linalg.norm(part.astype(np.float64), axis=1, keepdims=True) for part in (original, compressed)]
    left, right = (part / np.where(length > 0, length, 1) for part, length in zip((original, compressed), lengths, strict=True))
    comparable = (lengths[0] > 0)[:, 0] == (lengths[1] > 0)[:, 0]
    return np.where(comparable, 1 - ((left - right) ** 2).sum(1) / 2, 0.0)


def divergences(original: NDArray[Any], compressed: NDArray[Any]) -> Vector:
    """KL(original ‖ compressed) of each row (examples,) of two arrays of log-probabilities (examples, outcomes), in nats.

    Each term p log(p / q) has q - p added, which makes it non-negative and does not change the sum. Equal rows give exactly 0.
    """
    before, after = original.astype(np.float64), compressed.astype(np.float64)
    p, q = np.exp(before), np.exp(after)
    with np.errstate(invalid="ignore"):  # where p is 0, the logarithm may be -inf - -inf
        terms = np.where(p > 0, p * (before - after), 0.0) - p + q
    return terms.sum(1)
