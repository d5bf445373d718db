"""Compare two models on the same examples: McNemar's exact test and Tango's interval. Plain Python, fast enough for the app."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

Z_95 = NormalDist().inv_cdf(0.975)  # two-sided 5 %
HALVINGS = 60


def mcnemar_p(right_to_wrong: int, wrong_to_right: int) -> float:
    """Exact two-sided p-value of a split at least this uneven if both directions are equally likely; 1 if nothing flipped."""
    discordant, fewer = right_to_wrong + wrong_to_right, min(right_to_wrong, wrong_to_right)
    ways = tail = 1  # number of ways to choose k of them, and at most k of them
    for k in range(fewer):
        ways = ways * (discordant - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**discordant)


def accuracy_interval(right_to_wrong: int, wrong_to_right: int, n: int) -> tuple[float, float]:
    """95 % confidence interval for the difference between two accuracies on the same n examples (compressed minus original).

    It contains every difference that a score test does not reject (Tango 1998, Statistics in Medicine 17:891). With many
    examples it agrees with the usual normal interval; with few, or if nothing flipped, it does not overstate the evidence.
    """
    return -_largest(wrong_to_right, right_to_wrong, n), _largest(right_to_wrong, wrong_to_right, n)


def _largest(right_to_wrong: int, wrong_to_right: int, n: int) -> float:
    """The largest difference that is not rejected, by bisection. Swapping the models and negating gives the smallest."""
    observed = (wrong_to_right - right_to_wrong) / n

    def statistic(difference: float) -> float:
        """The test statistic if the true difference is `difference`; it falls as the difference grows."""
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
