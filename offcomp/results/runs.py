"""Names and tables of finished runs, with one row per run or property. Runs must be finished unless stated otherwise."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from offcomp.methods import all_methods, method_of_style_key, options_of, style_key_in_plan
from offcomp.planning.data.scores import Score
from offcomp.planning.data.task_fields import task_name
from offcomp.planning.plan import Group, Plan
from offcomp.results.originals import model_names, original_of
from offcomp.results.scores import baseline_of, concerns, metric_of, notes
from offcomp.runs.result import ModelResult, RunResult, overall_cosine, overall_error
from offcomp.runs.store import Run

if TYPE_CHECKING:
    import pandas as pd

SHORT_ID = 6
NAMED_KINDS = 3
FEW = 4
"""Number of runs selected initially if no two runs differ only in method."""
TITLES = {method.style_key: method.title for method in all_methods()}
DENOMINATORS = {"chosen": "chosen modules", "matrices": "all linear and embedding weights", "whole": "whole model"}
VERSIONS = ("offcomp", "python", "torch", "transformers", "numpy", "scikit-learn")


def result_of(run: Run) -> RunResult:
    """The result of a finished run."""
    if run.result is None:
        raise ValueError(f"run {run.id} has no result")
    return run.result


def model_of(run: Run) -> ModelResult:
    """The model that a finished run compressed, and its sizes."""
    if run.result is None or run.result.model is None:
        raise ValueError(f"run {run.id} has no result")
    return run.result.model


def fingerprint_of(run: Run) -> str:
    """The fingerprint of the weights that a finished run started from."""
    return model_of(run).fingerprint


def scored_tasks(runs: Sequence[Run]) -> Iterator[tuple[Run, str, str, Score]]:
    """Yield (run, short name, task, score) for every score of the runs."""
    names = short_names(runs)
    for run in runs:
        for task, score in result_of(run).scores.items():
            yield run, names[run.id], task, score


def method_title(run: Run) -> str:
    """The methods of a run: "SVD", "SVD + Autoencoder", "SVD, biases corrected"; "Original" if there are no groups."""
    titles = " + ".join(dict.fromkeys(group_title(group) for group in run.plan.groups)) or "Original"
    return f"{titles}, {run.plan.correct} corrected" if run.plan.corrects else titles


def group_title(group: Group) -> str:
    """The title of a group's method, followed by its preset if it is not the default."""
    style_key, preset = style_key_in_plan(group.method, group.options), group.options.get("preset")
    if style_key not in TITLES:
        return group.method
    usual = next((option.default for option in options_of(method_of_style_key(style_key)) if option.name == "preset"), None)
    return TITLES[style_key] if preset in (None, usual) else f"{TITLES[style_key]} {preset}"


def style_key_of(run: Run) -> str:
    """The style key of a run's method, "original" if the run has no groups, or "reference" if it has several methods."""
    style_keys = {style_key_in_plan(group.method, group.options) for group in run.plan.groups}
    if not style_keys:
        return "original"
    return style_keys.pop() if len(style_keys) == 1 else "reference"


def title_of_style_key(style_key: str) -> str:
    """The title of the method with this style key, or the style key itself if this version does not recognise it."""
    return "Several methods" if style_key == "reference" else TITLES.get(style_key, style_key)


def modules_of(run: Run) -> frozenset[str]:
    """The names of all modules that a run compressed."""
    return frozenset(module for group in run.plan.groups for module in group.modules)


def weights_of(run: Run) -> tuple[str, frozenset[str]]:
    """The weights that a run compressed, as (fingerprint, modules). Errors are only comparable on the same weights."""
    return fingerprint_of(run), modules_of(run)


def modules_title(run: Run) -> str:
    """What a run compressed, in brief: "query+key", "5 kinds", or the name of a single module."""
    names = [module for group in run.plan.groups for module in group.modules]
    if len(names) == 1:
        return names[0]
    kinds = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in names))
    return "+".join(kinds) if len(kinds) <= NAMED_KINDS else f"{len(kinds)} kinds"


def ratio_title(run: Run) -> str:
    """The requested ratio or range of ratios: "3.0x", "2.0x to 4.0x"."""
    ratios = [group.ratio for group in run.plan.groups]
    ends = list(dict.fromkeys(f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.3g}x" for ratio in (min(ratios), max(ratios))))
    return " to ".join(ends)


def label(run: Run) -> str:
    """One-line description of a run: "SVD, query+key, 3.0x, e18348"."""
    details = [modules_title(run), ratio_title(run)] if run.plan.groups else ["nothing compressed"]
    return ", ".join([method_title(run), *details, run.id[:SHORT_ID]])


def short_names(runs: Sequence[Run]) -> dict[str, str]:
    """The shortest name of each run, by id, that distinguishes it from the others: "SVD", "SVD query at 3.0x", "SVD e18348"."""
    models = model_names(runs)
    many_models = len({*models.values()}) > 1
    by_title: dict[str, list[Run]] = {}
    for run in runs:
        by_title.setdefault(method_title(run), []).append(run)
    names = {}
    for title, same_method in by_title.items():
        compressed = [run for run in same_method if run.plan.groups]
        several_choices, several_ratios = (len(set(map(title_of, compressed))) > 1 for title_of in (modules_of, ratio_title))
        for run in same_method:
            name = f"{models[run.id]} {title}" if many_models else title
            name += f" {modules_title(run)}" if several_choices else ""
            names[run.id] = name + (f" at {ratio_title(run)}" if several_ratios else "")
    counts = Counter(names.values())
    return {run.id: names[run.id] + (f" {run.id[:SHORT_ID]}" if counts[names[run.id]] > 1 else "") for run in runs}


def default_selection(own: Sequence[Run], bundled: Sequence[Run]) -> list[str]:
    """Ids of the runs selected initially: the newest run of each method on the same weights at the same ratio.

    If no two methods share weights and ratio, these are the newest few of the runs on the same weights as the newest one.
    """
    newest: dict[Hashable, dict[str, str]] = {}
    for run in (*own, *bundled):
        newest.setdefault(_question(run), {}).setdefault(method_title(run), run.id)
    candidates = own or bundled
    pairs = (list(newest[_question(run)].values()) for run in candidates if len(newest[_question(run)]) > 1)
    alike = (run.id for run in candidates if _question(run)[:2] == _question(candidates[0])[:2])
    return next(pairs, list(islice(alike, FEW)))


def unfinished_siblings(chosen: Sequence[Run], everything: Sequence[Run]) -> list[Run]:
    """Failed, cancelled or unfinished runs that answer the same question as a chosen run."""
    questions = {_question(run) for run in chosen}
    return [run for run in everything if run.status != "done" and _question(run) in questions]


def _question(run: Run) -> tuple[Any, ...]:
    """Properties that two runs must share to answer the same question."""
    sizes = frozenset((group.ratio, group.unit) for group in run.plan.groups)
    return original_of(run), modules_of(run), sizes


def plan_as_stored(run: Run) -> Plan:
    """A finished run's plan with the dtypes that its groups are stored in, as in a plan from `planning.sizes.resolved`."""
    dtypes = {group.name: group.dtype for group in result_of(run).groups if group.dtype}
    return run.plan.replace(groups=tuple(g.replace(dtype=dtypes.get(g.name, g.dtype)) for g in run.plan.groups))


def stage_times(plan: Plan, fingerprint: str, runs: Sequence[Run]) -> dict[str, float]:
    """Seconds that each stage of a resolved plan took in finished runs on these weights; newer runs take precedence.

    Loading and scoring times do not depend on what is compressed; compression times are only used if all groups match.
    """
    known: dict[str, float] = {}
    groups = plan.to_dict()["groups"]
    for run in sorted(runs, key=lambda run: run.submitted):
        if run.status == "done" and fingerprint_of(run) == fingerprint:
            same = plan_as_stored(run).to_dict()["groups"] == groups
            known |= {name: s for name, s in result_of(run).timings.items() if same or not name.startswith("compress ")}
    return known


def run_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run: errors over all chosen weights, their stored size, and the scores on each task."""
    import pandas as pd

    names = short_names(runs)
    return pd.DataFrame([_row(run, names[run.id]) for run in runs])


def _row(run: Run, name: str) -> dict[str, Any]:
    result, chosen = result_of(run), model_of(run).sizes.chosen
    row = {
        "run": run.id,
        "name": name,
        "model": run.plan.model,
        "relative_error": overall_error(result.groups),
        "cosine_distance": overall_cosine(result.groups),
        "stored_parameters": chosen.parameters_after,
        "parameter_ratio": chosen.parameter_ratio,
        "stored_bytes": chosen.bytes_after,
        "byte_ratio": chosen.byte_ratio,
    }
    for task, score in result.scores.items():
        row |= {f"{task}_{figure}": value for figure, value in _figures(score).items()}
    return row


def _figures(score: Score) -> dict[str, Any]:
    """The available figures of one task, by name. They depend on its metric and on the version that made the run."""
    paired, compressed, baseline = score.paired, score.compressed, baseline_of(score)
    low, high = paired.interval or (None, None)
    figures = {
        "metric": metric_of(score).name,
        "score": compressed.value,
        "standard_error": compressed.standard_error,
        "n": compressed.n,
        "original_score": score.original.value,
        "difference": paired.difference,
        "difference_low": low,
        "difference_high": high,
        "smallest_difference": paired.smallest_difference,
        "baseline": baseline[1] if baseline else None,
        "rows_read": score.rows.read if score.rows else None,
        "rows_used": score.rows.used if score.rows else None,
        "texts_cut": score.cut.texts if score.cut else None,
        "agreement": paired.agreement,
        "right_to_wrong": paired.right_to_wrong,
        "wrong_to_right": paired.wrong_to_right,
        "divergence": paired.divergence,
    }
    return {name: value for name, value in figures.items() if value is not None}


def warnings_of(runs: Sequence[Run]) -> list[str]:
    """Caveats about a comparison: concerns about the compressed models, and doubts about the original's score."""
    scored = list(scored_tasks(runs))
    concerned = [
        f"{name} {concern}"
        for run, name, task, score in scored
        for concern in concerns(task, score, compressed=bool(run.plan.groups))
    ]
    return [*concerned, *dict.fromkeys(note for _, _, task, score in scored for note in notes(task, score))]


def difference_table(runs: Sequence[Run], *, show_all: bool = False) -> pd.DataFrame:
    """One row per property and one column per run. If there are several runs, properties that they all share are omitted."""
    columns = {f"{name} ({run[:SHORT_ID]})": run for run, name in short_names(runs).items()}
    facts = {run.id: _facts(run) for run in runs}
    properties = list(dict.fromkeys(name for fact in sorted(facts.values(), key=len, reverse=True) for name in fact))
    rows = [
        {"Property": name} | {column: facts[run].get(name, "-") for column, run in columns.items()}
        for name in properties
        if show_all or len(runs) == 1 or len({fact.get(name, "") for fact in facts.values()}) > 1
    ]
    import pandas as pd

    return pd.DataFrame(rows, columns=["Property", *columns])


def _facts(run: Run) -> dict[str, str]:
    """The plan and figures of a run, as text. Values that differ between groups are all listed."""
    result, plan = result_of(run), run.plan.to_dict()
    facts = {"model": plan["model"], "seed": plan["seed"], "tasks": ", ".join(map(task_name, run.plan.tasks))}
    facts |= {"corrected": run.plan.correct, "groups": len(plan["groups"])}
    for field in ("name", "modules", "stack", "method", "ratio", "unit", "dtype"):
        facts[f"group {field}"] = _listed([group[field] for group in plan["groups"]])
    for option in dict.fromkeys(name for group in plan["groups"] for name in group["options"]):
        facts[f"option {option}"] = _listed([group["options"].get(option, "") for group in plan["groups"]])
    for field in ("form", "size", "compression_ratio", "relative_error", "rmse", "mae", "cosine_distance"):
        facts[f"group {field}".replace("_", " ")] = _listed([getattr(group, field) for group in result.groups])
    for column, value in run_table([run]).iloc[0].drop(["run", "name", "model"]).items():
        facts[f"{column}".replace("_", " ")] = value
    facts |= {name: result.environment.get(name) for name in (*VERSIONS, "device", "threads", "machine")}
    facts |= {f"package {name}": version for name, version in (result.environment.plugins or {}).items()}
    facts |= {"started": result.started, "seconds": result.timings["total"], "run": run.id}
    return {name: _text(value) for name, value in facts.items()}


def _listed(values: Sequence[Any]) -> str:
    """The distinct values, separated by commas."""
    return ", ".join(dict.fromkeys(_text(value) for value in values))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return _listed(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def with_provenance(table: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Add the model, seed, plan and versions of the run to each row of a table with a `run` column."""
    rows = [
        {"run": run.id, "fingerprint": fingerprint_of(run), "seed": run.plan.seed}
        | {f"version_{name}": result_of(run).environment.get(name) for name in VERSIONS}
        | {"started": result_of(run).started, "plan": json.dumps(run.plan.to_dict())}
        for run in runs
    ]
    return table.merge(type(table)(rows), on="run", how="left")
