"""Compare two models on the per-example results of another library, such as lm-evaluation-harness.

The scores are those that the library itself computes, to the last digit; the uncertainty is ours. What is resampled depends on
how the library aggregates the examples:

mean of zeros and ones        Tango's interval and McNemar's test, as for our own accuracies
other means, perplexities     the paired bootstrap over examples, with the sums of which the score is a function
any other function            the same bootstrap with the library's own function, if its 2,000 calls do not take too long

If examples cannot be paired, or nothing per example is known, the score has no interval, and a note says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from math import log
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offcomp.evaluation.bootstrap import DRAWS
from offcomp.evaluation.comparison import accuracy, paired_accuracies, scored
from offcomp.planning.data.scores import Comparison, Paired, ScoreValue

if TYPE_CHECKING:
    from offcomp.evaluation.comparison import Counts

Items = Sequence[Any]
"""The values of a metric per example: numbers, pairs of numbers, or whatever the library's function takes."""
MAX_RESAMPLING_SECONDS = 30.0
BINARY = {0.0, 1.0}


def _mean(items: NDArray[np.float64], counts: Counts) -> Counts:
    return (counts @ items) / counts.sum(1)


def _weighted(items: NDArray[np.float64], counts: Counts) -> Counts:
    """Sum of the first column over the sum of the second."""
    return (counts @ items[:, 0]) / (counts @ items[:, 1])


AGGREGATIONS: Mapping[str, Callable[[NDArray[np.float64], Counts], Counts]] = {
    "mean": _mean,
    "perplexity": lambda items, counts: np.exp(-_mean(items, counts)),
    "weighted_perplexity": lambda items, counts: np.exp(-_weighted(items, counts)),
    "bits_per_byte": lambda items, counts: -_weighted(items, counts) / log(2),
}
"""Name of the aggregation in lm-evaluation-harness -> the score of each resample (draws,), from the values of the examples
(examples,) or (examples, 2), counting example i `counts[:, i]` times."""
OF_PAIRS = ("weighted_perplexity", "bits_per_byte")
"""The aggregations whose values per example are pairs: a log-likelihood, and a number of words or bytes."""


def compare_items(
    original: Items,
    compressed: Items,
    aggregation: str,
    *,
    values: tuple[float, float] | None = None,
    aggregate: Callable[[Items], float] | None = None,
    unchanged: bool = False,
) -> Comparison | None:
    """The scores of two models from their values per example, which are in the same order; None if there is no interval.

    aggregation    how the examples are combined, if it is one of `AGGREGATIONS`
    values         the scores that the library reports; computed here by default
    aggregate      the library's own function, for any other aggregation
    unchanged      whether the outputs of both models are bit-identical, so that an interval has zero width
    """
    count = len(original)
    tables = [as_numbers(items) for items in (original, compressed)]
    known = AGGREGATIONS.get(aggregation)
    fitting = all(table is not None and table.ndim == 1 + (aggregation in OF_PAIRS) for table in tables)
    if known is not None and fitting:
        before, after = (np.asarray(table) for table in tables)
        if aggregation == "mean":
            compared = compared_means(before, after, unchanged=unchanged)
        else:
            compared = scored(lambda counts: np.stack([known(before, counts), known(after, counts)]), count, count)
    elif aggregate is not None:
        both = (original, compressed)
        try:
            if not _is_fast(aggregate, original):
                return None
            with warnings.catch_warnings(action="ignore"):  # of resamples that lack a class
                compared = scored(lambda counts: np.array([_resampled(aggregate, each, counts) for each in both]), count, count)
        except (ValueError, TypeError, ArithmeticError, LookupError):  # the function does not take these resamples
            return None
    else:
        return None
    return compared if values is None else with_values(compared, *values)


def compared_means(original: NDArray[np.float64], compressed: NDArray[np.float64], *, unchanged: bool = False) -> Comparison:
    """Two scores that are the means of these finite values (examples,)."""
    if {*original, *compressed} <= BINARY:
        return _accuracies(original.astype(bool), compressed.astype(bool), unchanged=unchanged)
    count = len(original)
    return scored(lambda counts: np.stack([_mean(original, counts), _mean(compressed, counts)]), count, count)


def without_interval(original: float, compressed: float, count: int) -> Comparison:
    """Two scores on `count` examples, whose uncertainty is not known."""
    return Comparison(
        original=ScoreValue(value=original, standard_error=None, n=count),
        compressed=ScoreValue(value=compressed, standard_error=None, n=count),
        paired=Paired(difference=compressed - original, interval=None),
    )


def with_values(compared: Comparison, original: float, compressed: float) -> Comparison:
    """The comparison with the scores that the library reports, which may differ from ours in the last digits."""
    return compared.model_copy(
        update={
            "original": compared.original.model_copy(update={"value": original}),
            "compressed": compared.compressed.model_copy(update={"value": compressed}),
            "paired": compared.paired.model_copy(update={"difference": compressed - original}),
        }
    )


def as_numbers(items: Items) -> NDArray[np.float64] | None:
    """The values as an array (examples,) or (examples, 2); None if they are not finite numbers or pairs of such numbers."""
    try:
        table = np.asarray(items, np.float64)
    except (TypeError, ValueError):
        return None
    fits = table.ndim == 1 or (table.ndim == 2 and table.shape[1] == 2)
    return table if fits and len(table) and np.isfinite(table).all() else None


def _accuracies(before: NDArray[np.bool_], after: NDArray[np.bool_], *, unchanged: bool) -> Comparison:
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    paired = paired_accuracies(lost, won, len(before), unchanged=unchanged)
    return Comparison(original=accuracy(before), compressed=accuracy(after), paired=paired)


def _is_fast(aggregate: Callable[[Items], float], items: Items) -> bool:
    """Whether all resamples of two models can be scored within the time limit."""
    start = perf_counter()
    aggregate(items)
    return 2 * DRAWS * (perf_counter() - start) <= MAX_RESAMPLING_SECONDS


def _resampled(aggregate: Callable[[Items], float], items: Items, counts: Counts) -> list[float]:
    return [float(aggregate([items[i] for i in np.repeat(np.arange(len(items)), row.astype(int)).tolist()])) for row in counts]
