"""Two sets of predictions on the same examples: scores with their uncertainty, and what changed between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959964  # two-sided 95 % of the normal distribution


@dataclass(frozen=True)
class Score:
    """A mean over examples with its standard error, sqrt(p (1 - p) / n) for an accuracy."""

    value: float
    standard_error: float
    n: int

    @staticmethod
    def accuracy(correct: NDArray[np.bool_]) -> Score:
        """Fraction of correct predictions."""
        value, n = float(correct.mean()), len(correct)
        return Score(value, sqrt(value * (1 - value) / n), n)


def compare(
    labels: Sequence[int],
    original: NDArray[np.float64],
    compressed: NDArray[np.float64],
    *,
    texts: Sequence[str],
    names: Sequence[str],
) -> dict[str, Any]:
    """Scores of two classifiers and the paired comparison, as JSON values.

    original, compressed    predicted probabilities (examples, classes)
    difference              compressed minus original accuracy with a 95 % interval from the paired differences
    agreement               share of examples with the same prediction
    flips                   examples that went from right to wrong, and from wrong to right
    """
    truth = np.asarray(labels)
    before, after = original.argmax(1), compressed.argmax(1)
    right_before, right_after = before == truth, after == truth
    change = right_after.astype(float) - right_before.astype(float)
    margin = Z_95 * float(change.std()) / sqrt(len(change))
    counts = np.bincount(truth, minlength=len(names))

    def flipped(mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
        return [
            {
                "text": texts[i],
                "label": names[int(truth[i])],
                "original_probability": float(original[i, truth[i]]),
                "compressed_probability": float(compressed[i, truth[i]]),
            }
            for i in map(int, np.flatnonzero(mask))
        ]

    return {
        "metric": "accuracy",
        "direction": "higher",
        "original": asdict(Score.accuracy(right_before)),
        "compressed": asdict(Score.accuracy(right_after)),
        "majority_baseline": float(counts.max() / counts.sum()),
        "collapsed": len(np.unique(after)) == 1 and len(np.unique(truth)) > 1,
        "paired": {
            "difference": float(change.mean()),
            "interval": [float(change.mean()) - margin, float(change.mean()) + margin],
            "agreement": float((before == after).mean()),
            "right_to_wrong": int((right_before & ~right_after).sum()),
            "wrong_to_right": int((~right_before & right_after).sum()),
        },
        "flips": {
            "right_to_wrong": flipped(right_before & ~right_after),
            "wrong_to_right": flipped(~right_before & right_after),
        },
    }
