"""How sure a difference on the same examples is: intervals, tests, resampling. Plain numbers in and out.

accuracies      the power formula of Miettinen and Connor, which, like McNemar's test and Tango's interval in
                `offcomp.numerics`, follows from how many examples only one of the two models has right
other scores    a paired bootstrap: examples are drawn again, and both scores computed from the same draw
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from offcomp.numerics.tango import Z_95

if TYPE_CHECKING:
    Vector = NDArray[np.float64]
    Counts = NDArray[np.floating[Any]]
    Statistic = Callable[[Counts], Counts]
    """Counts (draws, examples) -> scores (2, draws): the original's and the compressed model's, from the same draws."""

Z_POWER = float(norm.ppf(0.8))  # power 80 %
DRAWS = 1000
CELLS = 100_000  # entries of a table of counts that is held at once


def smallest_accuracy_difference(discordant: int, n: int) -> float | None:
    """The smallest true difference of two accuracies that n examples show in 80 of 100 cases; None if they show none.

    McNemar's test at 5 % two-sided has that power when d, the share of examples that only one model has right, and the
    difference satisfy  difference √n = z₁ √d + z₂ √(d − difference²)  (Miettinen 1968, Biometrics 24:339; Connor 1987,
    Biometrics 43:207), so  difference = k √d  with  k = (z₁ √n + z₂ √(n + z₂² − z₁²)) / (n + z₂²).  A difference cannot exceed
    d, so where too few examples flipped it is the one that equals d:  k².
    """
    rest = n + Z_POWER**2 - Z_95**2
    if rest <= 0:
        return None
    slope = (Z_95 * sqrt(n) + Z_POWER * sqrt(rest)) / (n + Z_POWER**2)
    difference = slope * sqrt(max(discordant / n, slope**2))
    return difference if difference <= 1 else None


@dataclass(frozen=True)
class Spread:
    """What resampling says of two scores. All None where there are fewer than two examples, the last where nothing varies.

    standard_errors         of the original's and of the compressed model's score
    interval                95 % of compressed minus original
    smallest_difference     2.8 standard errors of the difference: z of 5 % two-sided plus z of 80 % power
    """

    standard_errors: tuple[float | None, float | None] = (None, None)
    interval: tuple[float, float] | None = None
    smallest_difference: float | None = None


def bootstrap(statistic: Statistic, n: int, seed: int = 0) -> Spread:
    """The spread of two scores over draws of n examples out of n, with replacement.

    The interval lies between percentiles of the differences, moved outward for few examples, as a t interval is wider than
    a normal one (Hesterberg 2015, The American Statistician 69:371, "expanded percentile"); standard errors likewise.
    """
    if n < 2:
        return Spread()
    scores = np.concatenate([statistic(counts) for counts in draws(n, seed)], axis=1)
    widen = sqrt(n / (n - 1))
    original, compressed = (float(value) * widen for value in scores.std(1, ddof=1))
    difference = scores[1] - scores[0]
    tail = float(norm.cdf(widen * t.ppf(0.025, n - 1)))
    low, high = np.quantile(difference, [tail, 1 - tail])
    shown = (Z_95 + Z_POWER) * float(difference.std(ddof=1)) * widen
    return Spread((original, compressed), (float(low), float(high)), shown or None)


def draws(n: int, seed: int) -> Iterator[Counts]:
    """How often each of n examples is drawn in each of DRAWS draws: tables (some draws, n) that have DRAWS rows together."""
    generator = np.random.default_rng(seed)
    at_once = max(1, CELLS // n)
    for start in range(0, DRAWS, at_once):
        rows = min(at_once, DRAWS - start)
        places = generator.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(places.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float32)


def rank_correlations(truth: Vector, predictions: Sequence[Vector], counts: Counts) -> Counts:
    """Spearman's correlation of each prediction (examples,) with the truth, where example i is there counts[:, i] times.

    Gives (predictions, draws) in the precision of `counts`; 0 where one side is constant.
    """
    expected = _centred_ranks(truth, counts)
    spread = np.einsum("di,di,di->d", counts, expected, expected)
    expected *= counts
    found = np.zeros((len(predictions), len(counts)), counts.dtype)
    for values, row in zip(predictions, found, strict=True):
        ranks = _centred_ranks(values, counts)
        norm_squared = spread * np.einsum("di,di,di->d", counts, ranks, ranks)
        np.divide(np.einsum("di,di->d", expected, ranks), np.sqrt(norm_squared), out=row, where=norm_squared > 0)
    return found


def _centred_ranks(values: Vector, counts: Counts) -> Counts:
    """Ranks (draws, examples) minus their mean; equal values share the mean of their ranks."""
    _, tie, sizes = np.unique(values, return_inverse=True, return_counts=True)
    upto = counts.take(np.argsort(tie, kind="stable"), axis=1).cumsum(1, dtype=counts.dtype)
    if len(sizes) < len(values):
        upto = upto.take(sizes.cumsum() - 1, axis=1)  # (draws, different values)
    ranks = upto.copy()
    ranks[:, 1:] += upto[:, :-1]
    ranks -= upto[:, -1:]
    ranks /= 2
    return ranks.take(tie, axis=1)
