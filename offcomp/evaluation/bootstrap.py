"""Uncertainty of the difference between two models' scores on the same examples, from power analysis and resampling.

accuracies      the power formula of Miettinen and Connor, which, like McNemar's test and Tango's interval in
                `offcomp.numerics`, depends only on the number of examples that exactly one of the two models gets right
other scores    a paired bootstrap: examples are resampled, and both scores are computed from the same resample
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from offcomp.numerics.paired_tests import Z_95

if TYPE_CHECKING:
    Vector = NDArray[np.float64]
    Counts = NDArray[np.floating[Any]]
    Statistic = Callable[[Counts], Counts]
    """Counts (draws, examples) -> scores (2, draws) of the original and the compressed model on the same draws."""

Z_POWER = float(norm.ppf(0.8))  # power 80 %
DRAWS = 1000
CELLS = 100_000  # maximum entries in a table of counts, to limit memory


def smallest_accuracy_difference(discordant: int, n: int) -> float | None:
    """The smallest true difference in accuracy detectable with 80 % power on n examples; None if it would exceed 1.

    McNemar's two-sided test at the 5 % level has this power when d, the share of examples that only one model gets right, and
    the difference satisfy  difference √n = z₁ √d + z₂ √(d − difference²)  (Miettinen 1968, Biometrics 24:339; Connor 1987,
    Biometrics 43:207), so  difference = k √d  with  k = (z₁ √n + z₂ √(n + z₂² − z₁²)) / (n + z₂²).  A difference cannot exceed
    d, so if too few examples flipped, the result is the difference that equals d:  k².
    """
    rest = n + Z_POWER**2 - Z_95**2
    if rest <= 0:
        return None
    slope = (Z_95 * sqrt(n) + Z_POWER * sqrt(rest)) / (n + Z_POWER**2)
    difference = slope * sqrt(max(discordant / n, slope**2))
    return difference if difference <= 1 else None


@dataclass(frozen=True)
class Spread:
    """Bootstrap results for two scores. All values are None if there are fewer than two examples.

    standard_errors         of the original's and the compressed model's scores
    interval                95 % interval of compressed minus original
    smallest_difference     2.8 standard errors of the difference: z for a two-sided 5 % level plus z for 80 % power;
                            None if it would be 0
    """

    standard_errors: tuple[float | None, float | None] = (None, None)
    interval: tuple[float, float] | None = None
    smallest_difference: float | None = None


def bootstrap(statistic: Statistic, n: int, seed: int = 0) -> Spread:
    """Estimate the spread of two scores by resampling n examples with replacement.

    The interval is based on percentiles of the differences and is widened for small n, just as a t interval is wider than a
    normal interval (Hesterberg 2015, The American Statistician 69:371, "expanded percentile"). Standard errors are widened
    in the same way.
    """
    if n < 2:
        return Spread()
    scores = np.concatenate([statistic(counts) for counts in draws(n, seed)], axis=1)
    widen = sqrt(n / (n - 1))
    original, compressed = (float(value) * widen for value in scores.std(1, ddof=1))
    difference = scores[1] - scores[0]
    tail = float(norm.cdf(widen * t.ppf(0.025, n - 1)))
    low, high = np.quantile(difference, [tail, 1 - tail])
    smallest_difference = (Z_95 + Z_POWER) * float(difference.std(ddof=1)) * widen
    return Spread((original, compressed), (float(low), float(high)), smallest_difference or None)


def draws(n: int, seed: int) -> Iterator[Counts]:
    """Yield how often each of n examples occurs in each resample, as tables (draws, n) with DRAWS rows in total."""
    generator = np.random.default_rng(seed)
    at_once = max(1, CELLS // n)
    for start in range(0, DRAWS, at_once):
        rows = min(at_once, DRAWS - start)
        cells = generator.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(cells.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float32)


def rank_correlations(truth: Vector, predictions: Sequence[Vector], counts: Counts) -> Counts:
    """Spearman correlation of each set of predictions (examples,) with the truth, counting example i `counts[:, i]` times.

    Returns (predictions, draws) in the dtype of `counts`. The correlation with constant values is defined as 0.
    """
    expected = _centred_ranks(truth, counts)
    spread = np.einsum("di,di,di->d", counts, expected, expected)
    expected *= counts
    correlations = np.zeros((len(predictions), len(counts)), counts.dtype)
    for values, row in zip(predictions, correlations, strict=True):
        ranks = _centred_ranks(values, counts)
        norm_squared = spread * np.einsum("di,di,di->d", counts, ranks, ranks)
        np.divide(np.einsum("di,di->d", expected, ranks), np.sqrt(norm_squared), out=row, where=norm_squared > 0)
    return correlations


def _centred_ranks(values: Vector, counts: Counts) -> Counts:
    """Ranks (draws, examples) minus their mean. Tied values share their average rank."""
    _, tie, sizes = np.unique(values, return_inverse=True, return_counts=True)
    cumulative = counts.take(np.argsort(tie, kind="stable"), axis=1).cumsum(1, dtype=counts.dtype)
    if len(sizes) < len(values):
        cumulative = cumulative.take(sizes.cumsum() - 1, axis=1)  # (draws, distinct values)
    ranks = cumulative.copy()
    ranks[:, 1:] += cumulative[:, :-1]
    ranks -= cumulative[:, -1:]
    ranks /= 2
    return ranks.take(tie, axis=1)
