"""Compare two sets of predictions on the same examples: scores with uncertainties, and the examples that changed.

Intervals are 95 % intervals; see `offcomp.evaluation.bootstrap`. Undefined values are None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.stats import rankdata

from offcomp.errors import TaskError
from offcomp.evaluation import bootstrap as uncertainty
from offcomp.numerics.paired_tests import accuracy_interval, mcnemar_p
from offcomp.planning.data.metrics import METRICS
from offcomp.planning.data.scores import Baseline, Change, Comparison, Flip, Flips, Paired, Score, ScoreValue

if TYPE_CHECKING:
    Vector = NDArray[np.float64]
    Counts = NDArray[np.floating[Any]]
    Flags = NDArray[np.bool_]

SMALLEST_PROBABILITY = 1e-12  # floor for probabilities in a divergence, which would be infinite at 0
SAME_SPREAD = 5e-3  # predictions count as constant if their range is at most this fraction of the original's
MAX_CHANGES = 50
MAX_EXCERPT_LENGTH = 500  # characters; longer texts are shortened in the list of changes
MAX_NATS = 300.0  # cap on a mean loss: a model this bad is useless, and the square of exp(300) does not overflow


def accuracy(correct: Flags) -> ScoreValue:
    """Fraction of correct predictions, with its standard error sqrt(p (1 - p) / n)."""
    value, n = float(correct.mean()), len(correct)
    return ScoreValue(value=value, standard_error=sqrt(value * (1 - value) / n), n=n)


def compare_classes(
    truth: Sequence[int] | NDArray[np.integer[Any]],
    original: Vector,
    compressed: Vector,
    *,
    texts: Sequence[str],
    names: Sequence[str],
) -> Score:
    """Compare two classifiers by their probabilities (examples, classes). Raises TaskError if any value is not finite."""
    _check(original, compressed, len(truth))
    labels = np.asarray(truth)
    before, after = original.argmax(1), compressed.argmax(1)
    right_before, right_after = before == labels, after == labels
    lost, won = right_before & ~right_after, ~right_before & right_after
    majority = float(np.bincount(labels).max() / len(labels))

    def flip(i: int) -> Flip:
        label = int(labels[i])
        return Flip(
            text=texts[i],
            label=names[label],
            predicted=names[int(after[i])],
            original_probability=float(original[i, label]),
            compressed_probability=float(compressed[i, label]),
            original_margin=_margin(original[i], label),
            compressed_margin=_margin(compressed[i], label),
        )

    unchanged = np.array_equal(original, compressed)
    paired = paired_accuracies(int(lost.sum()), int(won.sum()), len(labels), unchanged)
    agreement = {"agreement": float((before == after).mean()), "divergence": _divergence(original, compressed)}
    return Score(
        metric="accuracy",
        direction="higher",
        unchanged=unchanged,
        original=accuracy(right_before),
        compressed=accuracy(right_after),
        baseline=Baseline(name="majority class", value=majority),
        majority_baseline=majority,
        collapsed=len(np.unique(after)) == 1 and len(np.unique(labels)) > 1,
        paired=paired.model_copy(update=agreement),
        flips=Flips(
            right_to_wrong=tuple(flip(i) for i in np.flatnonzero(lost).tolist()),
            wrong_to_right=tuple(flip(i) for i in np.flatnonzero(won).tolist()),
        ),
    )


def compare_ranks(truth: Vector, original: Vector, compressed: Vector, *, texts: Sequence[str]) -> Score:
    """Compare two sets of predictions (n,) by their Spearman correlation with the true scores.

    Constant predictions, whose correlation is undefined, score 0 and are flagged as collapsed. `changes` lists the examples
    whose predicted rank changed the most. Raises TaskError if any prediction is not finite.
    """
    _check(original, compressed, len(truth))
    correlations = partial(uncertainty.rank_correlations, truth, (original, compressed))
    moves = rankdata(compressed) - rankdata(original)
    compared = scored(correlations, len(truth), len(truth))
    return Score(
        metric="spearman",
        direction="higher",
        unchanged=np.array_equal(original, compressed),
        original=compared.original,
        compressed=compared.compressed,
        baseline=None,
        paired=compared.paired,
        collapsed=len(truth) > 1 and bool(np.ptp(compressed) <= SAME_SPREAD * np.ptp(original) and np.ptp(truth) > 0),
        changes=tuple(change(texts[i], float(truth[i]), original[i], compressed[i]) for i in largest(moves)),
    )


def compare_losses(
    original: Vector,
    compressed: Vector,
    *,
    rows: NDArray[np.integer[Any]],
    texts: Sequence[str],
    metric: str,
    baseline: Baseline | None,
) -> Score:
    """Compare two language models by their losses (tokens,) in nats, as perplexities exp(mean loss).

    rows            the index in `texts` of each token's row; tokens in a row are dependent, so the bootstrap resamples rows.
                    In the result, `n` counts tokens and `units` the rows with at least one token
    baseline        a perplexity to compare with

    Mean losses are capped at 300 nats. `changes` lists the rows whose mean loss changed the most. Raises TaskError if any loss
    is not finite.
    """
    _check(original, compressed, len(rows))
    tokens = np.bincount(rows, minlength=len(texts))
    present = np.flatnonzero(tokens)
    sums = np.stack([np.bincount(rows, losses, len(texts))[present] for losses in (original, compressed)])  # (2, rows)

    def perplexities(counts: Counts) -> Counts:
        return np.exp(np.minimum((sums @ counts.T) / (counts @ tokens[present]), MAX_NATS))

    means = sums / tokens[present]
    compared = scored(perplexities, len(present), len(rows))
    return Score(
        metric=metric,
        direction="lower",
        units=len(present),
        unchanged=np.array_equal(original, compressed),
        original=compared.original,
        compressed=compared.compressed,
        baseline=baseline,
        paired=compared.paired,
        collapsed=False,
        changes=tuple(change(texts[present[i]], None, means[0, i], means[1, i]) for i in largest(means[1] - means[0])),
    )


def compare_fidelity(
    compressed: Vector,
    *,
    rows: NDArray[np.integer[Any]],
    texts: Sequence[str],
    metric: str,
) -> Score:
    """Score a compressed model by the distance of its outputs from the original's. The original scores perfectly by definition.

    compressed      for each output (outputs,), its distance from the original's or its similarity to it; the score is the mean
    rows            the index in `texts` of each output's text. Outputs for the same text are not independent,
                    so the bootstrap resamples texts. In the result, `n` counts outputs and `units` the texts with at least one

    The model counts as unchanged if every value is perfect. `changes` lists the texts whose mean is furthest from perfect.
    Raises TaskError if any value is not finite.
    """
    shown = METRICS[metric]
    _check(np.full(len(rows), shown.perfect), compressed, len(rows))
    outputs = np.bincount(rows, minlength=len(texts))
    present = np.flatnonzero(outputs)
    sums = np.bincount(rows, compressed, len(texts))[present]

    def means(counts: Counts) -> Counts:
        mean = (counts @ sums) / (counts @ outputs[present])
        return np.stack([np.full(len(mean), shown.perfect), mean])

    result = scored(means, len(present), len(rows))
    by_text = sums / outputs[present]
    return Score(
        metric=metric,
        direction=shown.direction,
        units=len(present),
        unchanged=bool((compressed == shown.perfect).all()),
        original=result.original,
        compressed=result.compressed,
        baseline=None,
        paired=result.paired,
        collapsed=False,
        changes=tuple(change(texts[present[i]], None, shown.perfect, by_text[i]) for i in largest(by_text - shown.perfect)),
    )


def _check(original: Vector, compressed: Vector, n: int) -> None:
    if not n:
        raise TaskError("the task has no examples to compare the models on; provide a non-empty test split")
    for name, values in (("original", original), ("compressed", compressed)):
        if len(values) != n:
            raise TaskError(f"the {name} model returned {len(values)} predictions for {n} examples; run the task again")
        if not np.isfinite(values).all():
            remedy = "compress it less" if name == "compressed" else "check its weights, or choose a different model or task"
            raise TaskError(f"the {name} model's predictions are not finite, so it cannot be scored; {remedy}")


def paired_accuracies(lost: int, won: int, n: int, unchanged: bool) -> Paired:
    """Paired comparison of two accuracies. If the predictions are bit-identical, the interval has zero width."""
    return Paired(
        difference=(won - lost) / n,
        interval=(0.0, 0.0) if unchanged else accuracy_interval(lost, won, n),
        right_to_wrong=lost,
        wrong_to_right=won,
        p=mcnemar_p(lost, won),
        smallest_difference=uncertainty.smallest_accuracy_difference(lost + won, n),
    )


def scored(statistic: Callable[[Counts], Counts], units: int, n: int) -> Comparison:
    """Both models' scores on n examples and their difference; uncertainties come from resampling `units` independent units."""
    original, compressed = map(float, statistic(np.ones((1, units)))[:, 0])
    spread = uncertainty.bootstrap(statistic, units)
    difference = compressed - original
    return Comparison(
        original=ScoreValue(value=original, standard_error=spread.standard_errors[0], n=n),
        compressed=ScoreValue(value=compressed, standard_error=spread.standard_errors[1], n=n),
        paired=Paired(difference=difference, interval=spread.interval, smallest_difference=spread.smallest_difference),
    )


def _divergence(original: Vector, compressed: Vector) -> float:
    """KL divergence of the class probabilities, averaged over the examples."""
    terms = rel_entr(original.astype(np.float64), np.maximum(compressed, SMALLEST_PROBABILITY, dtype=np.float64))
    return max(0.0, float(terms.sum(1).mean()))


def largest(changes: Vector) -> list[int]:
    """Indices of the largest non-zero changes, limited to MAX_CHANGES."""
    order = np.argsort(-np.abs(changes), kind="stable")[:MAX_CHANGES]
    return [int(i) for i in order if changes[i] != 0]


def change(text: str, truth: float | None, original: float, compressed: float) -> Change:
    return Change(text=excerpt(text), truth=truth, original=float(original), compressed=float(compressed))


def excerpt(text: str) -> str:
    """The text, shortened if it is too long for a list of examples."""
    return text if len(text) <= MAX_EXCERPT_LENGTH else text[: MAX_EXCERPT_LENGTH - 1] + "…"


def _margin(probabilities: Vector, label: int) -> float:
    return float(probabilities[label] - np.delete(probabilities, label).max(initial=0.0))
