"""Classification with a logistic-regression probe on frozen sentence embeddings.

The probe is fitted once, to the ORIGINAL model's embeddings of the training split; its regularisation strength is chosen on the
validation split. It is then applied, unchanged, to the compressed model's embeddings, so the score shows whether components
downstream of the model still work. With the option `refit`, a second probe is fitted to the compressed model's embeddings
instead, which shows what information they still contain. A sentence pair with embeddings u and v is represented by |u - v| and
u * v.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from offcomp.evaluation.base import Arrays, Evaluator, TaskData
from offcomp.evaluation.comparison import compare_classes
from offcomp.evaluation.embeddings import SplitEmbedder, part
from offcomp.evaluation.scaling import PROBE_VERSION, center_and_scale
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.scores import Score

REGULARISATION = (0.001, 0.01, 0.1, 1.0)

Matrix = NDArray[np.float64]


class EmbeddingProbe(Evaluator):
    """A linear probe on embeddings. `reference` returns its center, scale, weights, bias and outputs on the test split."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        self._data = data
        self._embedders = {name: SplitEmbedder(loaded, split) for name, split in data.splits.items()}

    def details(self) -> dict[str, Any]:
        """A description of how the texts are embedded, and the version of the probe."""
        return self._embedders["test"].details() | {"probe": PROBE_VERSION}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """Fit the probe to the original model's embeddings and apply it to the test split."""
        probe = self._fit(part(report, 0.0, 0.8))
        return {**probe, **self._applied(probe, part(report, 0.8, 1.0))}

    def predict(self, reference: Arrays, report: Report = ignore_progress) -> Arrays:
        """Outputs of the probe on the current model's embeddings."""
        return self._applied(self._fit(report) if self._data.task.settings["refit"] else reference, report)

    def _fit(self, report: Report) -> Arrays:
        train = self._embedders["train"].features(part(report, 0.0, 0.75))
        validation = self._embedders["validation"].features(part(report, 0.75, 1.0))
        center, scale = center_and_scale(train)
        return {"center": center, "scale": scale, **self._best((train - center) / scale, (validation - center) / scale)}

    def _applied(self, probe: Arrays, report: Report) -> Arrays:
        features = self._embedders["test"].features(report)
        return self._outputs((features - probe["center"]) / probe["scale"] @ probe["weights"].T + probe["bias"])

    @abstractmethod
    def _best(self, train: Matrix, validation: Matrix) -> Arrays:
        """Weights and bias of the probe that performs best on the validation split, for scaled inputs (examples, features)."""

    @abstractmethod
    def _outputs(self, values: Matrix) -> Arrays:
        """Convert the values of the linear probe to named outputs."""


class Probe(EmbeddingProbe):
    """See the module docstring. `reference` and `predict` return `probabilities` (examples, classes)."""

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """Accuracies on the test split, and their paired comparison."""
        data, probabilities = self._data, (reference["probabilities"], predictions["probabilities"])
        return compare_classes(data.answers(), *probabilities, texts=data.texts, names=data.class_names)

    def _best(self, train: Matrix, validation: Matrix) -> Arrays:
        labels, truth = self._data.answers("train"), self._data.answers("validation")
        candidates = [LogisticRegression(C=strength, max_iter=2000).fit(train, labels) for strength in REGULARISATION]
        accuracies = [model.score(validation, truth) for model in candidates]
        best = int(np.argmax(accuracies))
        weights, bias = _all_classes(candidates[best], len(self._data.class_names))
        return {"weights": weights, "bias": bias, "validation_accuracy": np.array(accuracies[best])}

    def _outputs(self, values: Matrix) -> Arrays:
        return {"probabilities": softmax(values, axis=1)}


def _all_classes(model: LogisticRegression, count: int) -> tuple[Matrix, Matrix]:
    """Weights (classes, features) and bias (classes,) for a softmax; classes without training examples get a bias of -inf."""
    coefficients, intercept = model.coef_, model.intercept_
    if len(coefficients) == 1:  # two classes: sigmoid(z) is softmax(0, z)
        coefficients, intercept = np.vstack([0 * coefficients, coefficients]), np.array([0.0, intercept[0]])
    weights, bias = np.zeros((count, coefficients.shape[1])), np.full(count, -np.inf)
    weights[model.classes_], bias[model.classes_] = coefficients, intercept
    return weights, bias
