"""Classification with a logistic-regression probe on frozen sentence embeddings.

The probe is fitted once, on the ORIGINAL model's embeddings of the training split; its regularisation strength is chosen on
the validation split. It is then applied, unchanged, to the compressed model's embeddings, so the score shows whether components
downstream of the model still work. With the option `refit`, a second probe is fitted on the compressed model's embeddings
instead, which shows what information they still contain. Sentence pairs are encoded as |u - v| and u * v of their embeddings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from offcomp.evaluation.base import Arrays, TaskData
from offcomp.evaluation.comparison import compare_classes
from offcomp.evaluation.embeddings import SplitEmbedder, part, shown_texts
from offcomp.evaluation.scaling import PROBE_VERSION, center_and_scale
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress

REGULARISATION = (0.001, 0.01, 0.1, 1.0)


class Probe:
    """See the module docstring. Reference: the probe (center, scale, weights, bias) and its probabilities on the test split."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        self._data = data
        self._embedders = {name: SplitEmbedder(loaded, split) for name, split in data.splits.items()}

    def about(self) -> dict[str, Any]:
        """How the texts are embedded, and the version of the probe."""
        return self._embedders["test"].about() | {"probe": PROBE_VERSION}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """Fit the probe on the original model and apply it to the test split."""
        probe = self._fit(report)
        return probe | {"probabilities": _apply(probe, self._embedders["test"].features(part(report, 0.8, 1.0)))}

    def predict(self, reference: Arrays, report: Report = ignore_progress) -> Arrays:
        """Probabilities (examples, classes) for the current model."""
        refit = self._data.task.settings["refit"]
        probe = self._fit(report) if refit else reference
        return {"probabilities": _apply(probe, self._embedders["test"].features(report))}

    def compare(self, reference: Arrays, predictions: Arrays) -> dict[str, Any]:
        """Accuracy and paired comparison on the test split."""
        test = self._data.splits["test"]
        probabilities = reference["probabilities"], predictions["probabilities"]
        return compare_classes(
            self._labels("test"), *probabilities, texts=shown_texts(test), names=test.features["label"].names
        )

    def _labels(self, split: str) -> list[int]:
        return list(self._data.splits[split]["label"])

    def _fit(self, report: Report) -> dict[str, NDArray[np.float64]]:
        """The probe with the best regularisation strength on the validation split."""
        train = self._embedders["train"].features(part(report, 0.0, 0.6))
        validation = self._embedders["validation"].features(part(report, 0.6, 0.8))
        center, scale = center_and_scale(train)
        scaled, held_out = (train - center) / scale, (validation - center) / scale
        candidates = [
            LogisticRegression(C=strength, max_iter=2000).fit(scaled, self._labels("train")) for strength in REGULARISATION
        ]
        accuracies = [model.score(held_out, self._labels("validation")) for model in candidates]
        best = int(np.argmax(accuracies))
        weights, bias = _all_classes(candidates[best], len(self._data.splits["test"].features["label"].names))
        accuracy = np.array(accuracies[best])
        return {
            "center": center,
            "scale": scale,
            "weights": weights,
            "bias": bias,
            "validation_accuracy": accuracy,
        }


def _all_classes(model: LogisticRegression, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (classes, features) and bias (classes,) for a softmax; classes absent from training get a bias of -inf."""
    coefficients, intercept = model.coef_, model.intercept_
    if len(coefficients) == 1:  # two classes: sigmoid(z) is softmax(0, z)
        coefficients, intercept = np.vstack([0 * coefficients, coefficients]), np.array([0.0, intercept[0]])
    weights, bias = np.zeros((count, coefficients.shape[1])), np.full(count, -np.inf)
    weights[model.classes_], bias[model.classes_] = coefficients, intercept
    return weights, bias


def _apply(probe: Arrays, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities (examples, classes)."""
    scaled = (features.astype(np.float64) - probe["center"]) / probe["scale"]
    return softmax(scaled @ probe["weights"].T + probe["bias"], axis=1)
