"""Regression with a ridge probe on frozen sentence embeddings, scored by Spearman correlation.

Like the classification probe, the ridge probe is fitted once, on the original model's embeddings, with the penalty chosen on
the validation split. The probe is then applied unchanged to the compressed model's embeddings or, with the option `refit`, a
second probe is fitted to them.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from offcomp.evaluation.base import Arrays
from offcomp.evaluation.comparison import compare_ranks
from offcomp.evaluation.probe import EmbeddingProbe, Matrix
from offcomp.planning.data.scores import Score

PENALTIES = (10.0, 100.0, 1000.0, 10000.0)


class Regression(EmbeddingProbe):
    """See the module docstring. `reference` and `predict` return `values` (examples,), the predicted scores."""

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """Spearman correlations with the true scores, and their paired comparison."""
        return compare_ranks(self._data.answers(), reference["values"], predictions["values"], texts=self._data.texts)

    def _best(self, train: Matrix, validation: Matrix) -> Arrays:
        scores, truth = self._data.answers("train"), self._data.answers("validation")
        candidates = [Ridge(alpha=penalty).fit(train, scores) for penalty in PENALTIES]
        fits = [np.nan_to_num(spearmanr(model.predict(validation), truth).statistic) for model in candidates]
        best = candidates[int(np.argmax(fits))]
        return {"weights": best.coef_, "bias": np.array(best.intercept_)}

    def _outputs(self, values: Matrix) -> Arrays:
        return {"values": values}
