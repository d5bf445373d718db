"""Regression with a ridge probe on frozen sentence embeddings, scored by Spearman correlation.

Like the classification probe, it is fitted once on the original model's embeddings, with the penalty chosen on the validation
split, and applied unchanged to the compressed model (or refitted there, with the option `refit`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from offcomp.evaluation.base import Arrays, TaskData
from offcomp.evaluation.comparison import compare_ranks
from offcomp.evaluation.embeddings import SplitEmbedder, part, shown_texts
from offcomp.evaluation.scaling import PROBE_VERSION, center_and_scale
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress

PENALTIES = (10.0, 100.0, 1000.0, 10000.0)


class Regression:
    """See the module docstring. Reference: the probe (center, scale, weights, bias) and its values on the test split."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        self._data = data
        self._embedders = {name: SplitEmbedder(loaded, split) for name, split in data.splits.items()}

    def about(self) -> dict[str, Any]:
        """How the texts are embedded, and the version of the probe."""
        return self._embedders["test"].about() | {"probe": PROBE_VERSION}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """Fit the probe on the original model and apply it to the test split."""
        probe = self._fit(part(report, 0.0, 0.8))
        return probe | {"values": _apply(probe, self._embedders["test"].features(part(report, 0.8, 1.0)))}

    def predict(self, reference: Arrays, report: Report = ignore_progress) -> Arrays:
        """Values (examples,) for the current model."""
        probe = self._fit(report) if self._data.task.settings["refit"] else reference
        return {"values": _apply(probe, self._embedders["test"].features(report))}

    def compare(self, reference: Arrays, predictions: Arrays) -> dict[str, Any]:
        """Spearman correlation with the true scores, and the paired comparison."""
        texts = shown_texts(self._data.splits["test"])
        return compare_ranks(self._scores("test"), reference["values"], predictions["values"], texts=texts)

    def _scores(self, split: str) -> NDArray[np.float64]:
        return np.array(self._data.splits[split]["score"], float)

    def _fit(self, report: Report) -> dict[str, NDArray[np.float64]]:
        """The probe with the best penalty on the validation split."""
        train = self._embedders["train"].features(part(report, 0.0, 0.7)).astype(np.float64)
        validation = self._embedders["validation"].features(part(report, 0.7, 1.0)).astype(np.float64)
        center, scale = center_and_scale(train)
        scaled, held_out = (train - center) / scale, (validation - center) / scale
        candidates = [Ridge(alpha=penalty).fit(scaled, self._scores("train")) for penalty in PENALTIES]
        truth = self._scores("validation")
        fits = [np.nan_to_num(spearmanr(model.predict(held_out), truth).statistic) for model in candidates]
        best = candidates[int(np.argmax(fits))]
        return {"center": center, "scale": scale, "weights": best.coef_, "bias": np.array(best.intercept_)}


def _apply(probe: Arrays, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Predicted values (examples,)."""
    return np.asarray((features - probe["center"]) / probe["scale"] @ probe["weights"] + probe["bias"])
