"""Scores with their uncertainty, and paired comparisons, checked against scipy and cases computed by hand."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from math import exp, log, sqrt
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from offcomp.errors import TaskError
from offcomp.evaluation import bootstrap as uncertainty
from offcomp.evaluation.comparison import accuracy, compare_classes, compare_losses, compare_ranks
from offcomp.numerics.paired_tests import accuracy_interval
from offcomp.planning.data.scores import Baseline, Score

Vector = NDArray[np.float64]


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def probabilities(*of_class_one: float) -> Vector:
    ones = np.array(of_class_one)
    return np.stack([1 - ones, ones], axis=1)


def compared(labels: list[int], original: Vector, compressed: Vector) -> Score:
    texts = [f"text {i}" for i in range(len(labels))]
    return compare_classes(labels, original, compressed, texts=texts, names=["negative", "positive"])


def ranked(truth: Any, original: Any, compressed: Any) -> Score:
    vectors = (np.asarray(values, float) for values in (truth, original, compressed))
    return compare_ranks(*vectors, texts=[f"pair {i}" for i in range(len(original))])


def losses(original: Any, compressed: Any, rows: Any, **more: Any) -> Score:
    texts = [f"row {i}" for i in range(max(rows) + 1)]
    given = {"rows": np.array(rows), "texts": texts, "metric": "perplexity", "baseline": None} | more
    return compare_losses(np.asarray(original, float), np.asarray(compressed, float), **given)


def is_json(score: Score) -> bool:
    document = score.to_dict()
    return bool(json.loads(json.dumps(document, allow_nan=False)) == document)


# ------------------------------------------------------------------------------------------------------------- scores


def test_an_accuracy_comes_with_its_binomial_standard_error() -> None:
    score = accuracy(np.array([True] * 75 + [False] * 25))
    assert (score.value, score.n) == (0.75, 100)
    assert score.standard_error == pytest.approx(sqrt(0.75 * 0.25 / 100))


@pytest.mark.parametrize("right", [True, False])
def test_an_accuracy_of_all_or_nothing_has_no_spread(right: bool) -> None:
    assert accuracy(np.array([right] * 7)).to_dict() == {"value": float(right), "standard_error": 0.0, "n": 7}


def test_the_standard_error_is_the_spread_of_repeated_measurements() -> None:
    generator = np.random.default_rng(0)
    scores = [accuracy(generator.random(280) < 0.8) for _ in range(2000)]
    spread = np.std([score.value for score in scores])
    assert spread == pytest.approx(np.mean([score.standard_error for score in scores]), rel=0.06)


# ------------------------------------------------------------------------------------------------------------ classes

HAND_MADE = compared([1, 1, 1, 1, 0], probabilities(0.9, 0.8, 0.3, 0.2, 0.1), probabilities(0.7, 0.4, 0.6, 0.1, 0.45))


def test_both_scores_of_a_comparison_by_hand() -> None:
    assert HAND_MADE.original.to_dict() == {"value": 0.6, "standard_error": pytest.approx(sqrt(0.6 * 0.4 / 5)), "n": 5}
    assert HAND_MADE.compressed.value == 0.6
    assert (HAND_MADE.metric, HAND_MADE.direction) == ("accuracy", "higher")
    assert HAND_MADE.majority_baseline == 0.8
    assert HAND_MADE.baseline.to_dict() == {"name": "majority class", "value": 0.8}
    assert (HAND_MADE.collapsed, HAND_MADE.unchanged) == (False, False)


def test_flips_of_a_comparison_by_hand_name_text_label_prediction_probabilities_and_margins() -> None:
    assert HAND_MADE.flips.to_dict()["right_to_wrong"] == [
        {
            "text": "text 1",
            "label": "positive",
            "predicted": "negative",
            "original_probability": 0.8,
            "compressed_probability": 0.4,
            "original_margin": pytest.approx(0.6),
            "compressed_margin": pytest.approx(-0.2),
        }
    ]
    (won,) = HAND_MADE.flips.wrong_to_right
    assert (won.text, won.predicted) == ("text 2", "positive")
    assert (won.original_margin, won.compressed_margin) == pytest.approx((-0.4, 0.2))


def test_the_paired_figures_of_a_comparison_by_hand() -> None:
    paired = HAND_MADE.paired
    assert (paired.right_to_wrong, paired.wrong_to_right) == (1, 1)
    assert (paired.agreement, paired.difference, paired.p) == (0.6, 0.0, 1.0)
    low, high = paired.interval
    assert low == pytest.approx(-high) and 0.3 < high < 0.8


def test_a_margin_is_to_the_best_of_the_other_classes() -> None:
    result = compare_classes([2], np.array([[0.1, 0.3, 0.6]]), np.array([[0.5, 0.3, 0.2]]), texts=["x"], names=["a", "b", "c"])
    (flip,) = result.flips.right_to_wrong
    assert (flip.predicted, flip.label) == ("a", "c")
    assert (flip.original_margin, flip.compressed_margin) == pytest.approx((0.3, -0.3))


def test_a_flip_of_the_other_class_has_the_probability_of_its_own_label() -> None:
    flips = compared([0, 1], probabilities(0.1, 0.9), probabilities(0.7, 0.9)).flips
    (flip,) = flips.right_to_wrong
    assert flip.label == "negative"
    assert (flip.original_probability, flip.compressed_probability) == pytest.approx((0.9, 0.3))
    assert flips.wrong_to_right == ()


def test_two_wrong_classes_disagree_without_a_flip() -> None:
    before, after = np.array([[0.1, 0.8, 0.1]]), np.array([[0.1, 0.1, 0.8]])
    result = compare_classes([0], before, after, texts=["x"], names=["a", "b", "c"])
    assert result.paired.agreement == 0.0
    assert result.flips.to_dict() == {"right_to_wrong": [], "wrong_to_right": []}


def test_equal_predictions_agree_fully_without_any_doubt() -> None:
    same = probabilities(0.9, 0.2, 0.6)
    result = compared([1, 0, 0], same, same.copy())
    paired = result.paired
    assert result.unchanged is True
    assert (paired.difference, paired.interval, paired.agreement, paired.p) == (0.0, (0.0, 0.0), 1.0, 1.0)
    assert (paired.right_to_wrong, paired.wrong_to_right, paired.divergence) == (0, 0, 0.0)


def test_predictions_without_a_flip_leave_a_doubt_unless_they_are_the_same() -> None:
    before = probabilities(*np.full(50, 0.9))
    result = compared([1] * 50, before, before - 1e-9)
    assert result.unchanged is False
    assert result.paired.interval[0] < 0 < result.paired.interval[1]


@pytest.mark.parametrize(
    ("labels", "after", "collapsed"),
    [
        ([0, 1, 0, 1], [0.9, 0.8, 0.7, 0.6], True),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], True),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.9], False),
        ([1, 1, 1, 1], [0.9, 0.8, 0.7, 0.6], False),
    ],
)
def test_one_class_for_all_examples_is_flagged(labels: list[int], after: list[float], collapsed: bool) -> None:
    assert compared(labels, probabilities(0.1, 0.9, 0.2, 0.9), probabilities(*after)).collapsed is collapsed


def test_the_sign_of_the_difference_is_that_of_the_change() -> None:
    good, bad = probabilities(0.9, 0.9, 0.9, 0.9), probabilities(0.9, 0.9, 0.9, 0.1)
    assert compared([1, 1, 1, 1], good, bad).paired.difference == -0.25
    assert compared([1, 1, 1, 1], bad, good).paired.difference == 0.25


def test_the_divergence_is_the_entropy_of_scipy() -> None:
    generator = np.random.default_rng(3)
    before, after = generator.dirichlet([1, 1, 1], 200), generator.dirichlet([2, 1, 1], 200)
    result = compare_classes(generator.integers(0, 3, 200), before, after, texts=["x"] * 200, names=list("abc"))
    assert result.paired.divergence == pytest.approx(scipy.stats.entropy(before, after, axis=1).mean(), rel=1e-9)


def test_the_divergence_from_a_model_that_is_sure_and_wrong_is_finite() -> None:
    assert compared([1], probabilities(0.5), probabilities(1.0)).paired.divergence == pytest.approx(
        0.5 * log(0.5 / 1e-12) + 0.5 * log(0.5)
    )


# ---------------------------------------------------------------------------------------- statistics of two accuracies


@pytest.mark.parametrize(("lost", "won", "n"), [(12, 3, 100), (0, 5, 40), (5, 0, 40), (1, 1, 10), (80, 60, 2000), (1, 0, 3)])
def test_the_ends_of_the_interval_are_the_differences_that_a_score_test_just_rejects(lost: int, won: int, n: int) -> None:
    for end in accuracy_interval(lost, won, n):
        # Shares of changes from right to wrong; the shares of changes from wrong to right are larger by `end`.
        shares = np.linspace(max(0.0, -end), (1 - end) / 2, 400_001)[1:-1]
        likelihood = np.log(1 - 2 * shares - end) * (n - lost - won)
        likelihood += np.log(shares) * lost if lost else 0.0
        likelihood += np.log(shares + end) * won if won else 0.0
        likely = shares[likelihood.argmax()]
        deviation = sqrt((2 * likely + end - end**2) / n)
        assert abs((won - lost) / n - end) / deviation == pytest.approx(1.959964, rel=1e-3)


def test_for_many_examples_the_interval_is_the_normal_one() -> None:
    change = np.repeat([-1.0, 1.0, 0.0], [600, 500, 18_900])
    margin = 1.959964 * change.std() / sqrt(20_000)
    assert accuracy_interval(600, 500, 20_000) == pytest.approx((-0.005 - margin, -0.005 + margin), abs=2e-5)


@pytest.mark.parametrize(
    ("lost", "won", "n", "expected"),
    [
        (0, 0, 100, (-0.036995, 0.036995)),  # z² / (n + z²), the end of Wilson's interval for 0 of 100
        (1, 0, 1, (-1.0, None)),
        (0, 1, 1, (None, 1.0)),
        (7, 0, 7, (-1.0, None)),
    ],
)
def test_the_interval_of_extreme_counts(lost: int, won: int, n: int, expected: tuple[float | None, float | None]) -> None:
    low, high = accuracy_interval(lost, won, n)
    assert -1 <= low <= (won - lost) / n <= high <= 1
    for found, end in zip((low, high), expected, strict=True):
        assert end is None or found == pytest.approx(end, abs=1e-5)


def flipped_answers(generator: np.random.Generator, n: int) -> tuple[int, int]:
    """Return how many of n random answers are lost and won.

    An answer is right with probability .85; a right one is lost with probability .12, a wrong one won with probability .3.
    """
    right = generator.random(n) < 0.85
    changed = generator.random(n) < np.where(right, 0.12, 0.3)
    return int((right & changed).sum()), int((~right & changed).sum())


@pytest.mark.parametrize("n", [30, 300])
def test_the_interval_of_the_difference_holds_the_truth_in_95_of_100_cases(n: int) -> None:
    generator = np.random.default_rng(1)
    truth, inside = -0.85 * 0.12 + 0.15 * 0.3, 0
    for _ in range(1000):
        low, high = accuracy_interval(*flipped_answers(generator, n), n)
        inside += low <= truth <= high
    assert 930 <= inside <= 972


def test_the_smallest_difference_is_shown_in_80_of_100_cases() -> None:
    """With 500 examples, a tenth of which flip, 80 % of the tests detect a true difference as large as the formula states."""
    difference = uncertainty.smallest_accuracy_difference(50, 500)
    assert difference == pytest.approx((1.96 * sqrt(0.1) + 0.8416 * sqrt(0.1 - difference**2)) / sqrt(500), rel=1e-3)
    generator = np.random.default_rng(2)
    counts = generator.multinomial(500, [(0.1 + difference) / 2, (0.1 - difference) / 2, 0.9], 3000)
    wald = (counts[:, 0] - counts[:, 1]) / np.sqrt(counts[:, 0] + counts[:, 1])
    assert (wald > 1.96).mean() == pytest.approx(0.8, abs=0.03)


def test_the_smallest_difference_falls_with_the_number_of_examples_and_exists_without_flips() -> None:
    assert uncertainty.smallest_accuracy_difference(0, 3) is None
    found = [uncertainty.smallest_accuracy_difference(0, n) for n in (20, 100, 1000)]
    assert found == sorted(found, reverse=True)
    assert found[1] * 100 == pytest.approx((1.96 + 0.84) ** 2, rel=0.05)  # the number of one-way flips that the test needs


# -------------------------------------------------------------------------------------------------------------- ranks


def correlated(n: int, seed: int = 0, *, ties: bool = False) -> tuple[Vector, Vector, Vector]:
    """Return the true values, and the predictions of an original and of a slightly worse compressed model."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=n)
    original = truth + generator.normal(size=n)
    compressed = original + generator.normal(size=n) / 2
    return (truth.round(), original.round(1), compressed.round(1)) if ties else (truth, original, compressed)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [3, 40, 500])
def test_the_correlations_are_those_of_scipy(n: int, ties: bool) -> None:
    truth, original, compressed = correlated(n, ties=ties)
    result = ranked(truth, original, compressed)
    assert result.original.value == pytest.approx(scipy.stats.spearmanr(truth, original).statistic, abs=1e-12)
    assert result.compressed.value == pytest.approx(scipy.stats.spearmanr(truth, compressed).statistic, abs=1e-12)
    assert result.paired.difference == result.compressed.value - result.original.value
    assert (result.metric, result.direction, result.baseline) == ("spearman", "higher", None)
    assert "flips" not in result.to_dict() and is_json(result)


def test_a_draw_gives_the_correlation_of_the_examples_drawn() -> None:
    truth, original, _ = correlated(60, ties=True)
    counts = next(uncertainty.draws(60, 4))[:20]
    found = uncertainty.rank_correlations(truth, [original], counts)[0]
    for count, value in zip(counts.astype(int), found, strict=True):
        expected = scipy.stats.spearmanr(np.repeat(truth, count), np.repeat(original, count)).statistic
        assert value == pytest.approx(expected, abs=1e-5)


def test_interval_and_standard_error_of_ranks_are_those_of_scipys_bootstrap() -> None:
    n = 150
    sample = correlated(n)

    def correlation(first: Vector, second: Vector, axis: int = -1) -> Vector:
        ranks = [scipy.stats.rankdata(values, axis=axis) for values in (first, second)]
        first, second = (values - values.mean(axis, keepdims=True) for values in ranks)
        return (first * second).sum(axis) / np.sqrt((first**2).sum(axis) * (second**2).sum(axis))

    def difference(truth: Vector, original: Vector, compressed: Vector, axis: int = -1) -> Vector:
        return correlation(truth, compressed, axis) - correlation(truth, original, axis)

    wider = 1 - 2 * scipy.stats.norm.cdf(sqrt(n / (n - 1)) * scipy.stats.t.ppf(0.025, n - 1))
    options = {"paired": True, "n_resamples": 5000, "rng": 0, "method": "percentile"}
    expected = scipy.stats.bootstrap(sample, difference, confidence_level=wider, **options)
    result = ranked(*sample)
    scale = expected.standard_error
    assert result.paired.interval == pytest.approx([*expected.confidence_interval], abs=0.2 * scale)
    assert result.paired.smallest_difference == pytest.approx(2.8016 * scale, rel=0.1)
    single = scipy.stats.bootstrap(sample[:2], correlation, **options)
    assert result.original.standard_error == pytest.approx(single.standard_error, rel=0.1)


def test_the_interval_of_ranks_holds_the_truth_in_95_of_100_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertainty, "DRAWS", 300)
    many = correlated(100_000, 99)
    truth = scipy.stats.spearmanr(many[0], many[2]).statistic - scipy.stats.spearmanr(many[0], many[1]).statistic
    intervals = [ranked(*correlated(60, seed)).paired.interval for seed in range(200)]
    inside = sum(low <= truth <= high for low, high in intervals)
    assert 0.9 * 200 <= inside <= 0.99 * 200


def test_the_changes_are_the_examples_whose_rank_moved_most() -> None:
    result = ranked([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.9], [0.4, 0.2, 0.3, 0.9])
    assert result.changes[0].to_dict() == {"text": "pair 0", "truth": 1.0, "original": 0.1, "compressed": 0.4}
    assert {change.text for change in result.changes} == {"pair 0", "pair 1", "pair 2"}
    assert len(ranked(*correlated(80)).changes) == 50


def test_equal_ranks_of_other_values_differ_by_nothing() -> None:
    truth, original, _ = correlated(30)
    paired = ranked(truth, original, original * 2).paired
    assert (paired.difference, paired.interval, paired.smallest_difference) == (0.0, (0.0, 0.0), None)


@pytest.mark.parametrize(
    ("compressed", "collapsed"),
    [([0.5, 0.5, 0.5], True), ([0.5, 0.5005, 0.5008], True), ([0.5, 0.6, 0.7], False)],
)
def test_cosines_that_are_all_the_same_are_flagged(compressed: list[float], collapsed: bool) -> None:
    assert ranked([1, 2, 3], [0.1, 0.3, 0.2], compressed).collapsed is collapsed


def test_constant_predictions_score_nothing() -> None:
    result = ranked(np.arange(20), np.arange(20), np.full(20, 0.7))
    assert (result.original.value, result.compressed.value) == (pytest.approx(1.0), 0.0)
    assert result.compressed.standard_error == 0.0 and result.collapsed is True and is_json(result)


# ------------------------------------------------------------------------------------------------------------- losses


def test_perplexities_of_a_comparison_by_hand() -> None:
    result = losses([1, 2, 3], [2, 2, 5], [0, 0, 1], metric="masked perplexity", baseline=Baseline(name="unigram", value=9.0))
    assert (result.metric, result.direction) == ("masked perplexity", "lower")
    assert result.original.value == pytest.approx(exp(2)) and result.original.n == 3
    assert result.paired.difference == pytest.approx(exp(3) - exp(2))
    assert (result.units, result.baseline) == (2, Baseline(name="unigram", value=9.0))
    assert [(change.text, change.original, change.compressed) for change in result.changes] == [
        ("row 1", 3.0, 5.0),
        ("row 0", 1.5, 2.0),
    ]
    assert result.paired.divergence is None and result.flips is None


def test_interval_and_standard_error_of_losses_are_those_of_scipys_bootstrap_over_rows() -> None:
    generator = np.random.default_rng(5)
    lengths = generator.integers(3, 40, 120)
    rows = np.repeat(np.arange(120), lengths)
    original = generator.exponential(2, len(rows)) + generator.normal(size=120)[rows]
    compressed = original + generator.normal(0.1, 0.3, len(rows))
    sums = [np.bincount(rows, values) for values in (original, compressed)]

    def change(first: Vector, second: Vector, n: Vector, axis: int = -1) -> Vector:
        return np.exp(second.sum(axis) / n.sum(axis)) - np.exp(first.sum(axis) / n.sum(axis))

    def perplexity(total: Vector, n: Vector, axis: int = -1) -> Vector:
        return np.exp(total.sum(axis) / n.sum(axis))

    options = {"paired": True, "n_resamples": 9999, "rng": 0, "method": "percentile"}
    expected = scipy.stats.bootstrap((*sums, lengths), change, **options)
    result = losses(original, compressed, rows)
    assert result.paired.interval == pytest.approx([*expected.confidence_interval], abs=0.25 * expected.standard_error)
    single = scipy.stats.bootstrap((sums[0], lengths), perplexity, **options)
    assert result.original.standard_error == pytest.approx(single.standard_error, rel=0.1)
    assert result.original.standard_error > 1.5 * exp(original.mean()) * original.std() / sqrt(len(original))


def test_rows_without_tokens_do_not_count() -> None:
    assert losses([1, 2], [1, 3], [0, 2]).units == 2
    assert [change.text for change in losses([1, 2], [1, 3], [0, 2]).changes] == ["row 2"]


def test_hopeless_losses_stay_numbers() -> None:
    result = losses([1, 2, 3, 4], [1e4, 1e9, 2e4, 1e5], [0, 1, 2, 3])
    assert result.compressed.value == pytest.approx(exp(300)) and is_json(result)


def test_a_long_text_is_cut_in_the_list_of_changes() -> None:
    (change,) = losses([1.0], [2.0], [0], texts=["long " * 1000]).changes
    assert len(change.text) == 500 and change.text.endswith("…")


# ------------------------------------------------------------------------------------------------- all of them at once

ONE_CLASS = probabilities(0.9, 0.9, 0.9)
DEGENERATE = {
    "one example, right twice": lambda: compared([1], probabilities(0.9), probabilities(0.8)),
    "one example, lost": lambda: compared([1], probabilities(0.9), probabilities(0.2)),
    "one class in the truth": lambda: compared([1, 1, 1], ONE_CLASS, ONE_CLASS),
    "one class in the predictions": lambda: compared([0, 1, 0], ONE_CLASS, ONE_CLASS),
    "everything flips": lambda: compared([1, 1, 1], ONE_CLASS, 1 - ONE_CLASS),
    "sure to the last bit": lambda: compared([1, 0], probabilities(1, 0), probabilities(0, 1)),
    "one pair": lambda: ranked([1], [0.5], [0.6]),
    "two pairs": lambda: ranked([1, 2], [0.5, 0.6], [0.6, 0.5]),
    "equal ranks": lambda: ranked([1, 2, 3], [1, 2, 3], [1, 2, 3]),
    "all equal": lambda: ranked([1, 1, 1], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "all different": lambda: ranked([1, 2, 3], [1, 2, 3], [3, 2, 1]),
    "one token": lambda: losses([1], [2], [0]),
    "one row": lambda: losses([1, 2, 3], [2, 2, 2], [0, 0, 0]),
    "equal losses": lambda: losses([1, 2, 3], [1, 2, 3], [0, 1, 2]),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_input_gives_json_without_a_warning(name: str) -> None:
    result = DEGENERATE[name]()
    assert is_json(result)
    interval = result.paired.interval
    assert interval is None or interval[0] <= result.paired.difference <= interval[1]


@pytest.mark.parametrize("name", ["one pair", "one token", "one row"])
def test_what_one_independent_example_cannot_tell_is_left_open(name: str) -> None:
    result = DEGENERATE[name]()
    assert result.original.standard_error is None
    assert result.paired.interval is None and result.paired.smallest_difference is None


def test_a_comparison_is_json() -> None:
    assert is_json(HAND_MADE)


def test_comparing_twice_gives_the_same_and_leaves_the_global_generator_alone() -> None:
    np.random.seed(3)
    state = np.random.get_state()[1].copy()  # type: ignore[index]
    assert ranked(*correlated(50)) == ranked(*correlated(50))
    assert losses([1, 2, 3], [2, 2, 5], [0, 1, 2]) == losses([1, 2, 3], [2, 2, 5], [0, 1, 2])
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # type: ignore[index]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_predictions_that_are_not_finite_are_no_score(bad: float, place: int) -> None:
    values: list[list[float]] = [[1.0, 2.0], [1.0, 2.0]]
    values[place][1] = bad
    name = ("original", "compressed")[place]
    with pytest.raises(TaskError, match=f"the {name} model's predictions are not finite"):
        ranked([1, 2], *values)
    with pytest.raises(TaskError, match=f"the {name} model's predictions are not finite"):
        losses(*values, [0, 1])
    with pytest.raises(TaskError, match=f"the {name} model's predictions are not finite"):
        compared([0, 1], *(np.array([[0.5, 0.5], [0.5, v[1]]]) for v in values))


def test_another_number_of_predictions_than_examples_is_an_error() -> None:
    with pytest.raises(TaskError, match="returned 2 predictions for 3 examples"):
        ranked([1, 2, 3], [1, 2, 3], [1, 2])
    with pytest.raises(TaskError, match="no example"):
        compare_ranks([], np.array([]), np.array([]), texts=[])


def test_the_spread_of_scores_is_that_of_their_draws() -> None:
    n, values = 30, np.random.default_rng(0).random((2, 30))

    def means(counts: Any) -> Any:
        return values @ counts.T / n

    drawn = np.concatenate([means(counts) for counts in uncertainty.draws(n, 0)], axis=1)
    widened = np.sqrt(n / (n - 1)) * np.std([*drawn, drawn[1] - drawn[0]], axis=1, ddof=1)
    found = uncertainty.bootstrap(means, n)
    assert found.standard_errors == pytest.approx(tuple(widened[:2]), rel=1e-6)
    assert found.smallest_difference == pytest.approx((1.959964 + 0.841621) * widened[2], rel=1e-5)
