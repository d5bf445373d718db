"""Tango's interval of the difference of two accuracies on the same examples. Plain numbers, so that a page can ask at once."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

Z_95 = NormalDist().inv_cdf(0.975)  # two-sided 5 %
HALVINGS = 60


def accuracy_interval(right_to_wrong: int, wrong_to_right: int, n: int) -> tuple[float, float]:
    """95 % interval of the difference of two accuracies on the same n examples (compressed minus original).

    It holds every difference that a score test does not reject (Tango 1998, Statistics in Medicine 17:891). For many examples
    it is the usual normal interval; for few, or where nothing flipped, it does not pretend to know more than it does.
    """
    return -_largest(wrong_to_right, right_to_wrong, n), _largest(right_to_wrong, wrong_to_right, n)


def _largest(right_to_wrong: int, wrong_to_right: int, n: int) -> float:
    """The largest difference that is not rejected, by bisection; the smallest is that of the two models exchanged."""
    observed = (wrong_to_right - right_to_wrong) / n

    def statistic(difference: float) -> float:
        """The test statistic where the true difference is this one; it falls as the difference grows."""
        linear = -right_to_wrong - wrong_to_right + (2 * n - wrong_to_right + right_to_wrong) * difference
        constant = -right_to_wrong * difference * (1 - difference)
        lost = (sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)  # most likely share of right to wrong
        variance = n * (2 * lost + difference * (1 - difference))
        return n * (observed - difference) / sqrt(variance) if variance > 0 else 0.0

    kept, rejected = observed, 1 - 1e-12
    if statistic(rejected) >= -Z_95:
        return 1.0
    for _ in range(HALVINGS):
        middle = (kept + rejected) / 2
        kept, rejected = (middle, rejected) if statistic(middle) >= -Z_95 else (kept, middle)
    return kept
