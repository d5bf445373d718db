"""Results as sentences that answer the question of a page, with differences, intervals and provenance."""

from __future__ import annotations

from collections.abc import Sequence

from offcomp.planning.data.scores import Score
from offcomp.planning.data.task_fields import task_name
from offcomp.results.bundled import origin
from offcomp.results.originals import model_titles
from offcomp.results.paired import paired_difference, same_test
from offcomp.results.runs import method_title, modules_title, ratio_title, result_of, run_table, short_names, weights_of
from offcomp.results.scores import against_original, difference_text, metric_of, on_task, overlap, score_text, value_of
from offcomp.runs.store import Run

ALIKE = 1.1
"""Sizes that differ by less than this factor are considered equal."""
NAMED_GROUPS = 6


def megabytes(count: int) -> str:
    """Format a number of bytes in the most readable unit: "2.34 MB", "86.1 MB", "12.3 kB"."""
    return f"{count / 1e6:.3g} MB" if count >= 1e5 else f"{count / 1e3:.3g} kB"


def smaller(ratio: float, digits: str = ".3g") -> str:
    """A compression ratio in words: "3.02x smaller", or "1.5x larger" for ratios below 1; `digits` is a format of numbers."""
    return f"{ratio:{digits}}x smaller" if ratio >= 1 else f"{1 / ratio:{digits}}x larger"


def answer(runs: Sequence[Run]) -> str:
    """The answer to "Which method keeps more of the model?" in one sentence."""
    models = list(dict.fromkeys(model_titles(runs).values()))
    if len(models) > 1:
        return (
            f"These runs are not ranked because they are of different models ({', '.join(models)}), and an error or a score "
            "is only meaningful relative to its own original."
        )
    if len(runs) == 1:
        return _answer_on(runs[0])
    return "; ".join([_error_clause(runs), *_score_clauses(runs)]) + "."


def _answer_on(run: Run) -> str:
    start = "Nothing was compressed, so this is the original model"
    if run.plan.groups:
        figures = run_table([run]).iloc[0]
        start = f"{method_title(run)} stores {modules_title(run)} {smaller(figures['parameter_ratio'])} "
        start += f"with a relative error of {figures['relative_error']:.3g}"
    clauses = [_score_clause(task, score) for task, score in result_of(run).scores.items()]
    return "; ".join([start, *clauses]) + "." + ("" if clauses else " No task was scored.")


def _score_clause(task: str, score: Score) -> str:
    """Describe how one score changed."""
    metric = metric_of(score)
    lower = " (lower is better)" if metric.direction == "lower" else ""
    return f"{on_task(task, score)} is {metric.number(value_of(score))}{lower}, {against_original(score)}"


def _error_clause(runs: Sequence[Run]) -> str:
    """State which run has the smallest error, if the errors are comparable."""
    if len(set(map(weights_of, runs))) > 1:
        return "The runs compress different weights, so their errors are not ranked"
    table = run_table(runs).sort_values("relative_error", kind="stable")
    best, worst = table.iloc[0], table.iloc[-1]
    low, high = table["parameter_ratio"].min(), table["parameter_ratio"].max()
    sizes = f"{low:.3g}x" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g}x to {high:.3g}x"
    if best["relative_error"] == worst["relative_error"]:
        return f"All runs have a relative error of {best['relative_error']:.3g} at a compression ratio of {sizes} in parameters"
    errors = f"(relative error {best['relative_error']:.3g} against {worst['relative_error']:.3g} for {worst['name']})"
    if high > ALIKE * low:
        return f"Parameter compression ratios range from {sizes}; {best['name']} has the smallest error {errors}"
    degree = "lower" if len(runs) == 2 else "lowest"
    return f"At a parameter compression ratio of {sizes}, {best['name']} has the {degree} reconstruction error {errors}"


def _score_clauses(runs: Sequence[Run]) -> list[str]:
    """Compare the best run with the worst on each task that all runs were scored on with the same examples."""
    return [
        _best_and_worst(runs, task) for task in result_of(runs[0]).scores if all(same_test(runs[0], run, task) for run in runs)
    ]


def _best_and_worst(runs: Sequence[Run], task: str) -> str:
    """State how much the best run on a task differs from the worst, and how certain the difference is."""
    names, scores = short_names(runs), {run.id: result_of(run).scores[task] for run in runs}
    metric, where = metric_of(scores[runs[0].id]), on_task(task, scores[runs[0].id])
    ordered = sorted(runs, key=lambda run: metric.ranked(value_of(scores[run.id])))
    worst, best = ordered[0], ordered[-1]
    difference = paired_difference(best, worst, task)
    if difference is None:
        first, last = (f"{names[run.id]} has {score_text(scores[run.id])}" for run in (best, worst))
        negation = "" if overlap(scores[best.id], scores[worst.id]) else "do not "
        return f"in {where}, {first} and {last}; the intervals {negation}overlap"
    return f"in {where}, {names[best.id]} differs from {names[worst.id]} by {difference_text(metric, *difference)}"


def provenance(runs: Sequence[Run]) -> str:
    """One-line provenance of a measurement: model, seed, date and versions."""
    result, plan = result_of(runs[0]), runs[0].plan
    versions = ", ".join(f"{name} {result.environment.get(name)}" for name in ("offcomp", "torch"))
    return f"{plan.model}, seed {plan.seed}, {result.started[:10]}, {versions}"


def origin_text(run: Run) -> str:
    """Describe the origin of a run's numbers: bundled or the user's own, plan, seed, versions and machine."""
    environment, groups = result_of(run).environment, run.plan.groups
    owner = "Bundled measurement" if origin(run) == "bundled" else "Your run"
    names = ", ".join(group.name for group in groups[:NAMED_GROUPS])
    more = f" and {len(groups) - NAMED_GROUPS} more" if len(groups) > NAMED_GROUPS else ""
    dtypes = {group.dtype for group in result_of(run).groups if group.dtype} or {group.dtype for group in groups}
    stored = f"stored as {' and '.join(sorted(dtypes))}"
    choice = "Nothing was compressed"
    if groups:
        choice = f"Compressed with {method_title(run)}: {names}{more}, at {ratio_title(run)} in {groups[0].unit}, {stored}"
    machine = f"{environment.machine}, {environment.threads} threads" if environment.machine else "machine unknown"
    tasks = ", ".join(map(task_name, run.plan.tasks)) or "no task"
    source = f"{owner} {run.id}: {provenance([run])}, {machine}"
    return f"{source}. {choice}. Scored on {tasks}."
