"""Builds tables and summaries from `assets/runs/MODEL-sweep.json`, which contains measurements of many plans on one model.

This module reads two lists per document, with one row per compressed model: `sweep` (all linear weights compressed, for each
method, grouping and ratio) and `sensitivity` (one matrix compressed at a time). `python -m benchmarks.measurements` writes the
files. Reading them does not require torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from math import log, nan
from pathlib import Path
from typing import Any

import pandas as pd

from offcomp.files import assets_folder, changed, read_json
from offcomp.methods import style_key_in_plan
from offcomp.planning.data.scores import OriginalScore, Score
from offcomp.planning.model_sizes import ModelSizes
from offcomp.results.groups import stem_and_layer
from offcomp.results.runs import TITLES, VERSIONS
from offcomp.results.scores import METRICS, baseline_of, change_text, metric_of, task_title, within_noise, within_sentence

Document = Mapping[str, Any]
FOLDER = assets_folder() / "runs"
PATTERN = "*-sweep.json"
SCHEMA = 1
ALONE, STACKED = "each alone", "stacked by kind"
TYPICAL_RATIO = 4.0
"""`sweep_answer` summarises the results at this requested ratio, or at the nearest measured one."""

FIGURES = ("relative_error", "score", "standard_error", "difference", "low", "high", "n")
TASK_COLUMNS = ("original", "baseline", "baseline_name", "title", "metric")
SWEEP_COLUMNS = (
    *("method", "style_key", "grouping", "requested_ratio", "unit", "byte_ratio", "parameter_ratio"),
    *(*FIGURES, *TASK_COLUMNS),
)
SENSITIVITY_COLUMNS = ("module", "kind", "layer", "method", "requested_ratio", *FIGURES, "told_apart", *TASK_COLUMNS)


def read_measurements(folder: Path = FOLDER) -> dict[str, Document]:
    """The JSON documents from all valid files in the folder, keyed by model name."""
    documents = (_read(file) for file in sorted(folder.glob(PATTERN)))
    return {document["model"]: document for document in documents if document is not None}


def unreadable_files(folder: Path = FOLDER) -> list[str]:
    """Names of files with missing or incomplete measurements."""
    return [file.name for file in sorted(folder.glob(PATTERN)) if _read(file) is None]


def _read(file: Path) -> Document | None:
    return _document(file, changed(file))


@lru_cache(maxsize=16)
def _document(file: Path, seen: tuple[int, int] | None) -> Document | None:
    """Read a document, cached until its file changes. Returns None unless every table can be built from it."""
    document: Any = read_json(file) if seen else None
    try:
        if document["schema"] != SCHEMA or not tasks_of(document):
            return None
        for task in tasks_of(document):
            exported(sweep_table(document, task), document, "sweep")
            exported(sensitivity_table(document, task), document, "sensitivity")
        provenance(document)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None
    return document if isinstance(document["model"], str) else None


def tasks_of(document: Document) -> dict[str, str]:
    """Titles of the tasks that at least one row of the sweep was scored on, by task name."""
    scored = {task for row in document["sweep"] for task in row["scores"]}
    originals = {task: OriginalScore.from_json(score) for task, score in document["originals"].items()}
    return {task: task_title(task, score) for task, score in originals.items() if task in scored}


def sweep_table(document: Document, task: str, denominator: str = "chosen") -> pd.DataFrame:
    """One row per method, grouping and ratio scored on the task, indexed by the row's position in the document.

    `byte_ratio` and `parameter_ratio` are the original size divided by the stored size. The `denominator` is what they
    cover: the `chosen` modules, all linear and embedding weights (`matrices`), or the `whole` model. `low` and `high` bound
    the 95 % interval of the paired difference.
    """
    rows = {}
    for index, row in enumerate(document["sweep"]):
        if task in row["scores"]:
            groups, sizes = row["plan"]["groups"], ModelSizes.from_json(row["sizes"]).of(denominator)
            method, style_key = _method(groups[0])
            grouping = ALONE if all(len(group["modules"]) == 1 for group in groups) else STACKED
            setting = method, style_key, grouping, groups[0]["ratio"], groups[0]["unit"]
            ratios = sizes.byte_ratio, sizes.parameter_ratio
            rows[index] = (*setting, *ratios, *_figures(row, task), *_task_values(document, task))
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(SWEEP_COLUMNS))


def sensitivity_table(document: Document, task: str) -> pd.DataFrame:
    """One row per matrix that was compressed individually. `layer` is missing for matrices outside the layers.

    `told_apart` is True if the 95 % interval of the paired difference excludes zero.
    """
    rows = {}
    for index, row in enumerate(document.get("sensitivity", ())):
        if task in row["scores"]:
            (group,) = row["plan"]["groups"]
            (module,) = group["modules"]
            interval = Score.from_json(row["scores"][task]).paired.interval
            beyond_noise = interval is not None and not within_noise(interval)
            setting = _method(group)[0], group["ratio"]
            matrix = module, *stem_and_layer(module)
            rows[index] = (*matrix, *setting, *_figures(row, task), beyond_noise, *_task_values(document, task))
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(SENSITIVITY_COLUMNS)).astype({"layer": "Int64"})


def _method(group: Mapping[str, Any]) -> tuple[str, str]:
    """Title and style key of a group's method."""
    style_key = style_key_in_plan(group["method"], group["options"])
    return TITLES.get(style_key, group["method"]), style_key


def _figures(row: Mapping[str, Any], task: str) -> tuple[Any, ...]:
    """The values of FIGURES for one row; standard error and interval are NaN if there are too few examples."""
    score = Score.from_json(row["scores"][task])
    value, paired = score.compressed, score.paired
    error = nan if value.standard_error is None else value.standard_error
    low, high = paired.interval or (nan, nan)
    return row["relative_error"], value.value, error, paired.difference, low, high, value.n


def _task_values(document: Document, task: str) -> tuple[Any, ...]:
    """The values of TASK_COLUMNS, which are the same for all rows of a task."""
    original = OriginalScore.from_json(document["originals"][task])
    name, value = baseline_of(original) or ("", nan)
    return original.value, value, name, task_title(task, original), metric_of(original).name


def exported(table: pd.DataFrame, document: Document, purpose: str) -> pd.DataFrame:
    """Add the model, seed, versions, date and plan to each row of a `sweep` or `sensitivity` table."""
    environment = document["environment"]
    origin = {"origin": "bundled", "model": document["model"], "fingerprint": document["fingerprint"], "seed": document["seed"]}
    machine = {"measured": document["measured"], "machine": environment["machine"], "threads": environment["threads"]}
    versions = {f"version_{name}": environment.get(name, "") for name in VERSIONS}
    plans = [json.dumps(document[purpose][index]["plan"]) for index in table.index]
    return table.assign(**origin, **machine, **versions, plan=plans)


def score_words(table: pd.DataFrame) -> str:
    """Phrase describing what the scores in a table measure: "accuracy on sentiment"."""
    return f"{METRICS[table['metric'].iloc[0]].word} on {within_sentence(table['title'].iloc[0])}"


def sweep_answer(table: pd.DataFrame) -> str:
    """Summarise the best setting at the typical ratio, its difference from the original, and the worst setting."""
    ratio = min(table["requested_ratio"], key=lambda requested: abs(log(requested / TYPICAL_RATIO)))
    settings = table[table["requested_ratio"] == ratio]
    metric = METRICS[table["metric"].iloc[0]]
    ordered = settings.sort_values("score", key=lambda scores: scores.map(metric.ranked), kind="stable")
    worst, best = ordered.iloc[0], ordered.iloc[-1]
    change = change_text(metric, best["difference"], best["low"], best["high"])
    start = f"At a requested ratio of {ratio:g}x, {_setting(best)} has the best {score_words(table)}: "
    start += f"{metric.number(best['score'])}, {change}"
    if len(settings) == 1:
        return f"{start}."
    unchanged = int(((settings["low"] <= 0) & (settings["high"] >= 0)).sum())
    return (
        f"{start}; {unchanged or 'none'} of {len(settings)} settings {'is' if unchanged < 2 else 'are'} within noise of the "
        f"original, and {_setting(worst)} is the worst with {metric.number(worst['score'])}."
    )


def _setting(row: pd.Series) -> str:
    return f"{row['method']} ({row['grouping']})"


def sensitivity_answer(table: pd.DataFrame) -> str:
    """State how many matrices change the score by more than noise when compressed individually, and which changes it most."""
    metric, count, beyond_noise = METRICS[table["metric"].iloc[0]], len(table), table[table["told_apart"]]
    setting = f"{table['method'].iloc[0]} at {table['requested_ratio'].iloc[0]:g}x"
    changes = f"changes the {score_words(table)} by more than noise for {len(beyond_noise) or 'none'} of {count} matrices"
    start = f"Compressing one matrix at a time with {setting} {changes}"
    chance = f"about {0.05 * count:.0f} would be expected by chance alone"
    if beyond_noise.empty:
        return f"{start}; {chance}."
    largest = beyond_noise.iloc[beyond_noise["difference"].abs().argmax()]
    return f"{start}, most strongly for {largest['module']} ({metric.change(largest['difference'])}); {chance}."


def provenance(document: Document) -> str:
    """One-line provenance of the measurements: model, seed, date, versions and machine."""
    environment = document["environment"]
    versions = ", ".join(f"{name} {environment[name]}" for name in ("offcomp", "torch", "transformers"))
    machine = f"{environment['machine']}, {environment['device']}, {environment['threads']} threads"
    return f"{document['model']}, seed {document['seed']}, {document['measured'][:10]}, {versions}, {machine}"
