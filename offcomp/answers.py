"""Results in words: numbers with 3 significant digits, differences with sign and interval, and the sentence that answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offcomp.results import Z_95, method_title, modules_of, modules_title, paired_difference, result_of, run_table, short_names
from offcomp.runs import Run

ALIKE = 1.1
"""Sizes that differ by less than this factor count as the same size."""


def percent(value: float) -> str:
    """A share: "94.3 %"."""
    return f"{100 * value:.1f} %"


def accuracy_text(score: dict[str, Any]) -> str:
    """A score with its 95 % interval: "83.2 % ± 4.4"."""
    return f"{percent(score['value'])} ± {100 * Z_95 * score['standard_error']:.1f}"


def megabytes(count: int) -> str:
    """Bytes, in the unit that reads best: "2.34 MB", "86.1 MB", "12.3 kB"."""
    return f"{count / 1e6:.3g} MB" if count >= 1e5 else f"{count / 1e3:.3g} kB"


def smaller(ratio: float) -> str:
    """A compression ratio: "3.02x smaller", "1.5x larger" where it is below 1."""
    return f"{ratio:.3g}x smaller" if ratio >= 1 else f"{1 / ratio:.3g}x larger"


def difference_text(value: float, low: float, high: float, *, against: str = "") -> str:
    """A difference of accuracies: "+0.7 points (95 % interval -2.1 to +3.5), within noise"."""
    noise = ", within noise" if low <= 0 <= high else ""
    return f"{100 * value:+.1f} points{against} (95 % interval {100 * low:+.1f} to {100 * high:+.1f}){noise}"


def against_original(score: dict[str, Any]) -> str:
    """The paired difference from the original model, in words."""
    paired = score["paired"]
    return difference_text(paired["difference"], *paired["interval"], against=" from the original")


def brief_difference(score: dict[str, Any]) -> str:
    """The same without its interval: "+0.7 points, within noise"."""
    low, high = score["paired"]["interval"]
    return f"{100 * score['paired']['difference']:+.1f} points" + (", within noise" if low <= 0 <= high else "")


def answer(runs: Sequence[Run]) -> str:
    """The answer to "Which method keeps more of the model?" in one sentence."""
    models = list(dict.fromkeys(run.plan.model for run in runs))
    if len(models) > 1:
        return (
            f"These runs are not ranked: they are of different models ({', '.join(models)}), and an error or an accuracy "
            "only says something beside the original it came from."
        )
    return _answer_for_one(runs[0]) if len(runs) == 1 else _answer_for_many(runs)


def _answer_for_one(run: Run) -> str:
    figures = run_table([run]).iloc[0]
    start = (
        f"{method_title(run)} stores {modules_title(run)} {smaller(figures['parameter_ratio'])} "
        f"with a relative error of {figures['relative_error']:.3g}"
        if run.plan.groups
        else "Nothing was compressed, so this is the original model"
    )
    clauses = [
        f"{task} accuracy is {percent(score['compressed']['value'])}, {against_original(score)}"
        for task, score in result_of(run)["scores"].items()
    ]
    return "; ".join([start, *clauses]) + "." + ("" if clauses else " No task was scored.")


def _answer_for_many(runs: Sequence[Run]) -> str:
    return "; ".join([_error_clause(runs), *_accuracy_clauses(runs)]) + "."


def _error_clause(runs: Sequence[Run]) -> str:
    """Who has the smallest error, where that is a fair question."""
    if len({modules_of(run) for run in runs}) > 1:
        return "The runs compress different modules, so their errors are not ranked"
    table = run_table(runs).sort_values("relative_error", kind="stable")
    best, worst = table.iloc[0], table.iloc[-1]
    low, high = table["parameter_ratio"].min(), table["parameter_ratio"].max()
    sizes = f"{low:.3g}x" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g}x to {high:.3g}x"
    if best["relative_error"] == worst["relative_error"]:
        return f"All have a relative error of {best['relative_error']:.3g}, at {sizes} fewer parameters"
    errors = f"(relative error {best['relative_error']:.3g} against {worst['relative_error']:.3g} of {worst['name']})"
    if high > ALIKE * low:
        return f"The sizes differ, {sizes} fewer parameters; {best['name']} has the smallest error {errors}"
    return f"At {sizes} fewer stored parameters, {best['name']} keeps more of the weights {errors}"


def _accuracy_clauses(runs: Sequence[Run]) -> list[str]:
    """For each task that all runs share: the best against the worst, on the same examples."""
    names = short_names(runs)
    clauses = []
    for task in result_of(runs[0])["scores"]:
        if not all(same_test(runs[0], run, task) for run in runs):
            continue
        ordered = sorted(runs, key=lambda run: accuracy(run, task))
        worst, best = ordered[0], ordered[-1]
        difference = paired_difference(best, worst, task)
        if not any(difference):
            clauses.append(f"in {task} accuracy they are equal, {percent(accuracy(best, task))}, on every sentence")
            continue
        words = difference_text(*difference)
        clauses.append(f"in {task} accuracy, {names[best.id]} minus {names[worst.id]} is {words}")
    return clauses


def accuracy(run: Run, task: str) -> float:
    """Accuracy of a run's compressed model."""
    return float(result_of(run)["scores"][task]["compressed"]["value"])


def same_test(first: Run, second: Run, task: str) -> bool:
    """Whether two runs started from the same weights and were scored on the same examples."""
    marks = []
    for run in (first, second):
        result = result_of(run)
        score = result["scores"].get(task)
        marks.append(score and (result["model"]["fingerprint"], score["version"], score["split"], score["original"]))
    return bool(marks[0]) and marks[0] == marks[1]


def provenance(runs: Sequence[Run]) -> str:
    """Where a measurement comes from, in a line."""
    result = result_of(runs[0])
    versions = result["environment"]
    return (
        f"{runs[0].plan.model}, seed {runs[0].plan.seed}, {result['started'][:10]}, "
        f"offcomp {versions['offcomp']}, torch {versions['torch']}"
    )


def first_impression(runs: Sequence[Run]) -> str:
    """What compression did to the model, for somebody who has just arrived."""
    ratio = run_table(runs)["parameter_ratio"].min()
    start = f"With the {modules_title(runs[0])} weights of {runs[0].plan.model} stored {smaller(ratio)}"
    agreements = [
        (percent(score["paired"]["agreement"]), score["compressed"]["n"], method_title(run))
        for run in runs
        for score in result_of(run)["scores"].values()
    ]
    if not agreements:
        return f"{start}, the errors are these."
    first, n, method = agreements[0]
    others = "".join(f", {agreement} with {title}" for agreement, _, title in agreements[1:])
    return f"{start}, {first} of its decisions on {n} sentences stay as they were with {method}{others}."
