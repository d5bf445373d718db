"""Naming and formatting of scores, shared by charts, pages and the command line.

A `Score` compares two models; an `OriginalScore` describes only the original.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TypeVar

from offcomp.planning.data.metrics import METRICS, Metric
from offcomp.planning.data.row_counts import reading_text
from offcomp.planning.data.scores import Baseline, OriginalScore, Score
from offcomp.planning.data.tasks import TASKS

Z_95 = 1.959964  # two-sided 95 % of the normal distribution

S = TypeVar("S", Score, OriginalScore)
BASELINES = {"majority class": "always the same answer", "unigram": "word frequencies alone"}
TITLES = {task.name: task.title for task in TASKS}


def metric_of(score: Score | OriginalScore) -> Metric:
    """The metric of a score."""
    return METRICS[score.metric]


def task_title(task: str, score: Score | OriginalScore) -> str:
    """The title of a task, or its name if it has no title."""
    return score.title or TITLES.get(task) or task


def within_sentence(title: str) -> str:
    """A title as written within a sentence: "topics" and "masked words in prose", but "STS-B" and "CoLA"."""
    first = title.split(" ", maxsplit=1)[0]
    return title[:1].lower() + title[1:] if first[1:].islower() else title


def sentence_start(text: str) -> str:
    """Capitalise the first letter of a text."""
    return text[:1].upper() + text[1:]


def on_task(task: str, score: Score | OriginalScore) -> str:
    """Metric and task, as a phrase: "accuracy on sentiment"."""
    return f"{metric_of(score).word} on {within_sentence(task_title(task, score))}"


def value_of(score: Score, which: str = "compressed") -> float:
    """The value of the compressed or the original model."""
    return score.of(which).value


def interval_of(score: Score, which: str = "compressed") -> tuple[float, float]:
    """The 95 % interval of a value, clipped to the metric's range; of zero width if there are too few examples.

    If all answers are right or all are wrong, the standard error is 0 and uninformative, so the Wilson interval is used.
    """
    metric, figures = metric_of(score), score.of(which)
    value, margin = figures.value, Z_95 * (figures.standard_error or 0.0)
    if metric.percent and value in (0, 1):
        margin = Z_95**2 / (figures.n + Z_95**2)
    return max(metric.least, value - margin), min(metric.most, value + margin)


def overlap(first: Score, second: Score) -> bool:
    """Whether the 95 % intervals of two compressed models overlap."""
    (first_low, first_high), (second_low, second_high) = interval_of(first), interval_of(second)
    return first_low <= second_high and second_low <= first_high


def score_text(score: Score, which: str = "compressed") -> str:
    """A value with its 95 % interval, if it is uncertain: "83.2 % ± 4.4", "0.820 ± 0.021", "100 % (≥ 96.3)"."""
    metric, value, (low, high) = metric_of(score), value_of(score, which), interval_of(score, which)
    if metric.percent and value in (0, 1):
        return f"100 % (≥ {metric.margin(low)})" if value else f"0 % (≤ {metric.margin(high)})"
    error = None if metric.fidelity and which == "original" else score.of(which).standard_error
    return metric.number(value) + ("" if error is None else f" ± {metric.margin(Z_95 * error)}")


def baseline_of(score: Score | OriginalScore) -> tuple[str, float] | None:
    """Name and score of the baseline that ignores the text; None if the metric has no baseline."""
    baseline = score.baseline or Baseline(name="majority class", value=score.majority_baseline)
    return None if baseline.value is None else (BASELINES.get(baseline.name, baseline.name), baseline.value)


def within_noise(interval: Sequence[float] | None) -> bool:
    """Whether the 95 % interval of a difference contains 0; False if there is no interval."""
    return interval is not None and interval[0] <= 0 <= interval[1]


def difference_text(metric: Metric, value: float, low: float, high: float, *, against: str = "") -> str:
    """A difference between two scores, as text: "+0.7 points (95 % interval -2.1 to +3.5), within noise"."""
    noise = ", within noise" if within_noise((low, high)) else ""
    interval = f"{metric.bare_change(low)} to {metric.bare_change(high)}"
    return f"{metric.change(value)}{against} (95 % interval {interval}){noise}"


def change_text(metric: Metric, value: float, low: float, high: float, *, separator: str = "") -> str:
    """A difference from the original, as text, with its interval unless the interval is NaN."""
    if not (isfinite(low) and isfinite(high)):
        return f"{metric.change(value)} from the original"
    return difference_text(metric, value, low, high, against=f" from the original{separator}")


def against_original(score: Score) -> str:
    """The paired difference from the original model, as text."""
    metric, paired = metric_of(score), score.paired
    if paired.interval is None:
        why = "with too few examples for" if score.compressed.n < 2 or not score.note else "without"
        return f"{metric.change(paired.difference)} from the original, {why} an interval"
    return change_text(metric, paired.difference, *paired.interval)


def brief_difference(score: Score) -> str:
    """`against_original` without the interval: "+0.7 points, within noise"."""
    noise = ", within noise" if within_noise(score.paired.interval) else ""
    return metric_of(score).change(score.paired.difference) + noise


def visible_difference(scores: Sequence[Score]) -> str:
    """State the smallest true difference that the task can detect in all of these runs; empty if unknown for any of them."""
    known = [score.paired.smallest_difference for score in scores]
    smallest = [each for each in known if each is not None]
    if not scores or len(smallest) < len(known):
        return ""
    metric, counts = metric_of(scores[0]), [score.compressed.n for score in scores]
    n = " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))
    amount = metric.change(max(smallest)).removeprefix("+")
    return f"With these {n} {metric.counts}, a true difference of {amount} would be detected in four out of five such tests."


def others_of(score: S) -> dict[str, S]:
    """The scores in the metrics that a task reports besides its main one, by name of the metric."""
    return {
        name: score.model_copy(update={"metric": name} | {field: getattr(also, field) for field in also.model_fields_set})
        for name, also in score.also.items()
    }


def others_text(score: Score) -> list[str]:
    """One clause for each score from `others_of`: before, after, and the difference."""
    return [
        f"{metric_of(other).word} {score_text(other, 'original')} -> {score_text(other)}, {against_original(other)}"
        for other in others_of(score).values()
    ]


def figure_texts(task: str, score: Score) -> dict[str, str]:
    """All values reported for a task's score, formatted as text and keyed by name."""
    name, title = sentence_start(on_task(task, score)), within_sentence(task_title(task, score))
    figures = {name: score_text(score), f"{name}, change from original": brief_difference(score)}
    for other in others_of(score).values():
        figures[sentence_start(on_task(task, other))] = f"{score_text(other)}, {against_original(other)}"
    if score.paired.agreement is not None:
        figures[f"Agreement on {title}"] = metric_of(score).number(score.paired.agreement)
    if reading := reading_text(score):
        figures[f"Read for {title}"] = reading
    return figures


def notes(task: str, score: Score | OriginalScore) -> list[str]:
    """Caveats about the original's score, one sentence each: a wrong label order, or a score below that of constant answers."""
    title, metric = sentence_start(task_title(task, score)), metric_of(score)
    stored = [f"{title}: {note}" for note in score.note]
    original, baseline = score.original, baseline_of(score)
    if stored or not baseline or metric.name != "accuracy" or original.value >= baseline[1]:
        return stored
    value, constant = metric.number(original.value), metric.number(baseline[1])
    return [f"{title}: the original scores {value}, below the {constant} achieved by always giving the same answer."]


def concerns(task: str, score: Score, *, compressed: bool) -> list[str]:
    """Reasons why a score may be misleading, each a clause that follows the model's name.

    compressed    whether anything was compressed, in which case predictions should differ
    """
    title = within_sentence(task_title(task, score))
    clauses = []
    if score.collapsed and score.flips:
        clauses.append(f"gives the same answer to every {title} sentence.")
    elif score.collapsed:
        clauses.append(f"can no longer tell the examples of {title} apart: all outputs are alike.")
    if compressed and score.unchanged:
        answers = f"gives exactly the same answers as the original on {title}, to the last bit"
        clauses.append(f"{answers}: the task does not use the compressed weights.")
    return clauses
