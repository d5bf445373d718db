"""Compare two models on the same examples with McNemar's exact test and Tango's confidence interval.

This module is plain Python, which is fast enough for the app.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

Z_95 = NormalDist().inv_cdf(0.975)  # two-sided 5 %
HALVINGS = 60


def mcnemar_p(right_to_wrong: int, wrong_to_right: int) -> float:
    """Exact two-sided p-value for the hypothesis that both directions are equally likely; 1 if no examples are discordant."""
    discordant, fewer = right_to_wrong + wrong_to_right, min(right_to_wrong, wrong_to_right)
    ways = tail = 1  # number of ways to choose k, and at most k, of the discordant examples
    for k in range(fewer):
        ways = ways * (discordant - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**discordant)


def accuracy_interval(right_to_wrong: int, wrong_to_right: int, n: int) -> tuple[float, float]:
    """95 % confidence interval for the difference between two accuracies on the same n examples (compressed minus original).

    The interval contains every difference that a score test does not reject (Tango 1998, Statistics in Medicine 17:891). With
    many examples, it agrees with the usual normal approximation; with few or no discordant examples, it does not overstate the
    evidence.
    """
    return -_largest(wrong_to_right, right_to_wrong, n), _largest(right_to_wrong, wrong_to_right, n)


def _largest(right_to_wrong: int, wrong_to_right: int, n: int) -> float:
    """Find the largest difference that is not rejected, by bisection.

    Swapping the models and negating the result gives the smallest difference that is not rejected.
    """
    observed = (wrong_to_right - right_to_wrong) / n

    def statistic(difference: float) -> float:
        """The score statistic for a true difference of `difference`; it decreases as `difference` grows."""
        linear = -right_to_wrong - wrong_to_right + (2 * n - wrong_to_right + right_to_wrong) * difference
        constant = -right_to_wrong * difference * (1 - difference)
        lost = (sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)  # maximum-likelihood right-to-wrong share
        variance = n * (2 * lost + difference * (1 - difference))
        return n * (observed - difference) / sqrt(variance) if variance > 0 else 0.0

    kept, rejected = observed, 1 - 1e-12
    if statistic(rejected) >= -Z_95:
        return 1.0
    for _ in range(HALVINGS):
        middle = (kept + rejected) / 2
        kept, rejected = (middle, rejected) if statistic(middle) >= -Z_95 else (kept, middle)
    return kept
