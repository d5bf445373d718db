"""Score against size: which runs can share an axis, which are on the Pareto front, and whether two metrics agree.

A run is on the front unless another run, or the original, is at least as small and as good, and strictly smaller or better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from math import isfinite
from typing import Any

import pandas as pd

from offcomp.planning.data.metrics import METRICS, Metric
from offcomp.planning.model_sizes import ModelSizes
from offcomp.results.atlas import Document
from offcomp.results.originals import original_of
from offcomp.results.paired import comparison_key
from offcomp.results.runs import fingerprint_of, model_of, modules_of, result_of, style_key_of, weights_of
from offcomp.results.scores import against_original, interval_of, metric_of, task_title, within_noise, within_sentence
from offcomp.results.sentences import smaller
from offcomp.runs.result import overall_cosine, overall_error
from offcomp.runs.store import OF_A_SAMPLE, Run

ERROR = Metric(
    "relative error",
    "Relative error",
    "relative error",
    "Relative error",
    "How large is the {}?",
    "Norm of the difference between original and stored weights, divided by the norm of the original.",
    "weights",
    0.0,
    1.0,
    "lower",
)
"""The metric used if no task was scored."""

ALONE, TOGETHER = "each alone", "stacked"
UNIT_TITLES = {"bytes": "MB", "parameters": "M parameters"}
"""Display name of a million bytes or parameters, by size unit."""
MIN_TO_JUDGE = 10
"""Minimum number of pairs of runs for a verdict on whether error and score agree."""
EIGHT_BITS, FEW_BITS = 8, 4
FRONT_COLUMNS = (
    *("run", "name", "style_key", "grouping", "size", "ratio", "value", "low", "high", "n", "relative_error"),
    *("about", "within_noise", "on_front", "metric", "title", "unit"),
)
SHOWN = ["name", "grouping", "size", "ratio", "value", "low", "high", "n", "relative_error", "on_front"]
"""The columns shown in tables on pages and in reports."""
REASONS = {
    "scored with a different metric": ("family", "metric"),
    "scored with texts embedded differently": ("embedding",),
    "scored with a different version of the probe": ("probe",),
    "scored with different task settings": ("settings",),
    "scored on different examples": ("version", "split", "digest"),
}
"""Why two scores of one model are not comparable: a reason applies if any of its fields differs. Most informative first."""
REFERENCE_COLUMNS = ("name", "value", "size")


def metric_named(name: str) -> Metric:
    """The score metric with this name, or ERROR if there is none."""
    return METRICS.get(name, ERROR)


def measures_of(runs: Sequence[Run]) -> dict[str, str]:
    """Titles of the measures for comparing the runs, by name: all tasks in plan order, then the relative error."""
    titles = {task: task_title(task, score) for run in runs for task, score in result_of(run).scores.items()}
    return titles | {ERROR.name: ERROR.title}


def sharing_an_axis(runs: Sequence[Run], measure: str) -> tuple[list[Run], dict[str, list[Run]]]:
    """The largest set of runs that can share an axis, and the runs left out, grouped by reason.

    Scores are only comparable for the same original on the same examples, and errors only for the same weights.
    """
    keys = {run.id: _axis_key(run, measure) for run in runs}
    counts = Counter(key for key in keys.values() if key is not None)
    if not counts:
        return [], {_missing(measure): list(runs)}
    chosen = counts.most_common(1)[0][0]
    shown = [run for run in runs if keys[run.id] == chosen]
    left_out: dict[str, list[Run]] = {}
    for run in runs:
        if keys[run.id] != chosen:
            left_out.setdefault(_reason(run, shown[0], measure, keys[run.id]), []).append(run)
    return shown, left_out


def _axis_key(run: Run, measure: str) -> Hashable | None:
    """Key shared by runs that can share an axis; None if the run lacks this score or error."""
    if measure == ERROR.name:
        return weights_of(run) if run.plan.groups else None
    score = result_of(run).scores.get(measure)
    return comparison_key(run, measure) if score and isfinite(score.compressed.value) else None


def _missing(measure: str) -> str:
    return "nothing was compressed" if measure == ERROR.name else "no score on this task"


def _reason(run: Run, shown: Run, measure: str, key: Hashable | None) -> str:
    """Why a run cannot share an axis with `shown`."""
    if key is None:
        return _missing(measure)
    if run.of_a_sample != shown.of_a_sample:
        return f"{'its model is' if run.of_a_sample else 'the model of the others is'} {OF_A_SAMPLE}"
    if fingerprint_of(run) != fingerprint_of(shown):
        return f"of a different model ({run.plan.model})"
    if measure == ERROR.name:
        return "different weights, so the errors are not comparable"
    if original_of(run) != original_of(shown):
        return "the same weights, but other files differ, such as the tokenizer or the pooling"
    ours, theirs = (result_of(each).scores[measure] for each in (run, shown))
    differing = (why for why, names in REASONS.items() if any(getattr(ours, name) != getattr(theirs, name) for name in names))
    return next(differing, "its original has a different score")


def front_table(runs: Sequence[Run], measure: str, unit: str, names: Mapping[str, str]) -> pd.DataFrame:
    """One row for the original, then one per run: whole-model size, value with 95 % interval, and whether it is on the front.

    The runs must share an axis. `about` describes the difference from the original, and `within_noise` is True if this
    difference could be due to chance.
    """
    rows = [_original_row(runs[0], measure, unit), *(_row(run, measure, unit, names[run.id]) for run in runs)]
    table = pd.DataFrame(rows)
    table["on_front"] = _undominated(table["size"], table["value"].map(metric_named(table["metric"].iloc[0]).ranked))
    return table[list(FRONT_COLUMNS)]


def _row(run: Run, measure: str, unit: str, name: str) -> dict[str, Any]:
    sizes, groups, score = model_of(run).sizes.whole, result_of(run).groups, result_of(run).scores.get(measure)
    return _value_columns(run, measure, "compressed") | {
        "run": run.id,
        "name": name,
        "style_key": style_key_of(run),
        "grouping": ALONE if all(len(group.modules) == 1 for group in run.plan.groups) else TOGETHER,
        "size": sizes.after(unit) / 1e6,
        "ratio": sizes.ratio(unit),
        "relative_error": overall_error(groups),
        "unit": unit,
        "about": against_original(score) if score else f"cosine distance {overall_cosine(groups):.3f}",
        "within_noise": score is not None and within_noise(score.paired.interval),
    }


def _original_row(run: Run, measure: str, unit: str) -> dict[str, Any]:
    size = model_of(run).sizes.whole.before(unit) / 1e6
    series = {"run": "", "name": "Original", "style_key": "original", "grouping": "", "size": size, "ratio": 1.0, "unit": unit}
    unchanged = {"relative_error": 0.0, "about": "not compressed", "within_noise": True}
    return _value_columns(run, measure, "original") | series | unchanged


def _value_columns(run: Run, measure: str, which: str) -> dict[str, Any]:
    """The value of the compressed or original model, with its interval, number of examples, title and metric."""
    if measure == ERROR.name:
        error = overall_error(result_of(run).groups) if which == "compressed" else 0.0
        return {"title": ERROR.title, "metric": ERROR.name, "value": error, "low": error, "high": error, "n": 0}
    score = result_of(run).scores[measure]
    low, high = interval_of(score, which)
    kind = {"title": task_title(measure, score), "metric": metric_of(score).name}
    return kind | {"value": score.of(which).value, "low": low, "high": high, "n": score.of(which).n}


def _undominated(sizes: pd.Series, ranked: pd.Series) -> list[bool]:
    """Whether each point is Pareto-optimal, where smaller sizes and higher values of `ranked` are better."""
    points = list(zip(sizes, ranked, strict=True))
    return [not any(s <= size and r >= rank and (s, r) != (size, rank) for s, r in points) for size, rank in points]


def front_answer(table: pd.DataFrame) -> str:
    """State how many runs are on the front, and name the smallest run within noise of the original."""
    runs = table[table["run"] != ""]
    metric = metric_named(table["metric"].iloc[0])
    on_front = runs[runs["on_front"]]
    count = f"{len(on_front)} of {len(runs)} runs {'is' if len(on_front) == 1 else 'are'} on the front"
    meaning = "meaning that nothing else in the chart is at least as small and at least as good, except exact ties"
    start = "" if len(runs) == 1 else f"{count}, {meaning}. "
    if metric is ERROR:
        best = runs.sort_values(["value", "size"]).iloc[0]
        return f"{start}{best['name']} has the smallest relative error, {best['value']:.3g}, at {_sized(best)}."
    unharmed = runs[runs["within_noise"]].sort_values("size", kind="stable")
    if len(unharmed):
        best, introduction = unharmed.iloc[0], "The smallest run within noise of the original is "
    else:
        best = runs.iloc[runs["value"].map(metric.ranked).argmax()]
        introduction = "No run is known to be within noise of the original; the best is "
    start += introduction if len(runs) > 1 else ""
    score = f"{metric.word} on {within_sentence(table['title'].iloc[0])} {metric.number(best['value'])}"
    return f"{start}{best['name']}, {_sized(best)}: {score}, {best['about']}."


def _sized(row: pd.Series) -> str:
    return f"{row['size']:.3g} {UNIT_TITLES[row['unit']]} ({smaller(row['ratio'])})"


def reference_table(documents: Iterable[Document], run: Run, measure: str, unit: str) -> pd.DataFrame:
    """Bundled results of rounding every linear weight to 8 bits, and to 4 or fewer, on the same model and examples.

    Returns an empty table if nothing matches. For the relative error, the run must have compressed exactly the same weights.
    """
    references: dict[int, tuple[str, float, float]] = {}
    for row in (row for document in documents if _same_original(document, run, measure) for row in document["sweep"]):
        bits, value = _rounding_bits(row), _value(row, run, measure)
        if bits is not None and value is not None:
            size = ModelSizes.from_json(row["sizes"]).whole.after(unit) / 1e6
            references.setdefault(bits, (f"int{bits}", value, size))
    return pd.DataFrame([references[bits] for bits in sorted(references, reverse=True)], columns=list(REFERENCE_COLUMNS))


def _rounding_bits(row: Mapping[str, Any]) -> int | None:
    """The bit width if a row measures plain rounding to 8 bits or to 4 or fewer, otherwise None."""
    bits = {group["size"] for group in row["groups"]}
    if len(bits) != 1 or {group["method"] for group in row["plan"]["groups"]} != {"quantization"}:
        return None
    (width,) = bits
    return width if width == EIGHT_BITS or width <= FEW_BITS else None


def _same_original(document: Document, run: Run, measure: str) -> bool:
    if measure == ERROR.name:
        return bool(document["fingerprint"] == fingerprint_of(run))
    if document.get("reads", document["fingerprint"]) != original_of(run):
        return False
    theirs, ours = document["originals"].get(measure, {}), result_of(run).scores[measure]
    fields = ("metric", "version", "split", "digest", "probe", "embedding")
    return bool(theirs) and all(theirs.get(name) == getattr(ours, name) for name in fields)


def _value(row: Mapping[str, Any], run: Run, measure: str) -> float | None:
    if measure != ERROR.name:
        return row["scores"][measure]["compressed"]["value"] if measure in row["scores"] else None
    modules = frozenset(name for group in row["plan"]["groups"] for name in group["modules"])
    return float(row["relative_error"]) if modules == modules_of(run) else None


def concordance(table: pd.DataFrame) -> tuple[int, int]:
    """Number of pairs in which the run with the smaller error has the better value, and number of pairs that differ in both."""
    rank = metric_named(table["metric"].iloc[0]).ranked
    points = [(error, rank(value)) for error, value in zip(table["relative_error"], table["value"], strict=True)]
    pairs = [(a, b) for a, b in combinations(points, 2) if a[0] != b[0] and a[1] != b[1]]
    return sum((a[0] < b[0]) == (a[1] > b[1]) for a, b in pairs), len(pairs)


def agreement_answer(table: pd.DataFrame) -> str:
    """State in one sentence whether a smaller error goes with a better score."""
    agreeing, pairs = concordance(table)
    metric = metric_named(table["metric"].iloc[0])
    if not pairs:
        return f"No two runs differ in both relative error and {metric.word}."
    share = agreeing / pairs
    verdict = "the two mostly agree" if share >= 0.75 else "the two disagree" if share <= 0.25 else "the error is a poor guide"
    return (
        f"In {agreeing:,} of {pairs:,} pairs of runs, the one with the smaller relative error also has the better "
        f"{metric.word}{f': {verdict}' if pairs >= MIN_TO_JUDGE else ''}."
    )


def of_the_same_weights(runs: Sequence[Run]) -> list[Run]:
    """The runs that compress the most common set of modules, since errors are only comparable on the same weights."""
    choices = Counter(modules_of(run) for run in runs)
    return [run for run in runs if modules_of(run) == choices.most_common(1)[0][0]]


def left_out_text(left_out: Mapping[str, Sequence[Run]], names: Mapping[str, str], most: int = 5) -> str:
    """List the runs that are not on the axis, grouped by reason, with at most `most` names per reason."""
    parts = []
    for reason, runs in left_out.items():
        more = f" and {len(runs) - most} more" if len(runs) > most else ""
        parts.append(f"{', '.join(names[run.id] for run in runs[:most])}{more} ({reason})")
    return "; ".join(parts)
