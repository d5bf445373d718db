"""Many plans measured on one model, as `assets/runs/MODEL-sweep.json` holds them: tables of what came out, and what they say.

A document has a `sweep` (every linear weight by each method, grouping and ratio) and a `sensitivity` (each matrix alone), a row
a compressed model, written by `python -m benchmarks.measurements`. Reading it computes nothing and loads no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from math import log, nan
from pathlib import Path
from typing import Any

import pandas as pd

from offcomp.files import changed, read_json
from offcomp.methods import role_in_plan
from offcomp.resources import assets_folder
from offcomp.results import TITLES, VERSIONS
from offcomp.scores import METRICS, baseline_of, difference_text, metric_of, task_title, within_noise, within_sentence

Document = Mapping[str, Any]
FOLDER = assets_folder() / "runs"
PATTERN = "*-sweep.json"
SCHEMA = 1
DENOMINATORS = ("chosen", "matrices", "whole")
ALONE, STACKED = "each alone", "stacked by kind"
TYPICAL_RATIO = 4.0
"""The requested ratio of which the answer speaks, or the nearest to it that was measured."""

FIGURES = ("relative_error", "score", "standard_error", "difference", "low", "high", "n")
ABOUT_SCORE = ("original", "baseline", "baseline_name", "title", "metric")
SWEEP_COLUMNS = (
    *("method", "role", "grouping", "requested_ratio", "unit", "byte_ratio", "parameter_ratio"),
    *FIGURES,
    *ABOUT_SCORE,
)
SENSITIVITY_COLUMNS = (
    *("module", "kind", "layer", "method", "requested_ratio"),
    *FIGURES,
    "told_apart",
    *ABOUT_SCORE,
)


def read_measurements(folder: Path = FOLDER) -> dict[str, Document]:
    """Model -> its document, for every file of the folder that has one."""
    found = (document for file in sorted(folder.glob(PATTERN)) if (document := _read(file)) is not None)
    return {document["model"]: document for document in found}


def unreadable_files(folder: Path = FOLDER) -> list[str]:
    """The names of the files that hold no measurements, or not all that belongs to them."""
    return [file.name for file in sorted(folder.glob(PATTERN)) if _read(file) is None]


def _read(file: Path) -> Document | None:
    return _document(file, changed(file))


@lru_cache(maxsize=16)
def _document(file: Path, seen: tuple[int, int] | None) -> Document | None:
    """The document in a file as it was last changed, None unless all its tables can be made."""
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
    """Task -> its title, of those that some row of the sweep was scored on."""
    scored = {task for row in document["sweep"] for task in row["scores"]}
    return {task: task_title(task, score) for task, score in document["originals"].items() if task in scored}


def sweep_table(document: Document, task: str, denominator: str = "chosen") -> pd.DataFrame:
    """One row a method, grouping and ratio that the task was scored on; its index is the row's place in the document.

    `byte_ratio` and `parameter_ratio` are original / stored, of the chosen modules, of all linear and embedding weights
    (`matrices`), or of the `whole` model. `low` and `high` end the 95 % interval of the paired difference.
    """
    rows = {}
    for place, row in enumerate(document["sweep"]):
        if task in row["scores"]:
            groups, sizes = row["plan"]["groups"], row["sizes"][denominator]
            role = role_in_plan(groups[0]["method"], groups[0]["options"])
            grouping = ALONE if all(len(group["modules"]) == 1 for group in groups) else STACKED
            made = TITLES.get(role, groups[0]["method"]), role, grouping, groups[0]["ratio"], groups[0]["unit"]
            rows[place] = (*made, sizes["byte_ratio"], sizes["parameter_ratio"], *_figures(row, task), *_about(document, task))
    return _table(rows, SWEEP_COLUMNS)


def sensitivity_table(document: Document, task: str) -> pd.DataFrame:
    """One row a matrix that was compressed alone. `layer` is missing where the matrix belongs to none.

    `told_apart` is whether the 95 % interval of the paired difference leaves zero out.
    """
    rows = {}
    for place, row in enumerate(document.get("sensitivity", ())):
        if task in row["scores"]:
            (group,) = row["plan"]["groups"]
            (module,) = group["modules"]
            kind, _, layer = module.rpartition(".")
            where = (module, kind, int(layer)) if layer.isdigit() else (module, module, None)
            method = TITLES.get(role_in_plan(group["method"], group["options"]), group["method"])
            interval = row["scores"][task]["paired"]["interval"]
            apart = interval is not None and not within_noise(interval)
            rows[place] = (*where, method, group["ratio"], *_figures(row, task), apart, *_about(document, task))
    return _table(rows, SENSITIVITY_COLUMNS).astype({"layer": "Int64"})


def _figures(row: Mapping[str, Any], task: str) -> tuple[Any, ...]:
    """The FIGURES of a row; NaN where there are too few examples for an error or an interval."""
    score = row["scores"][task]
    value, paired = score["compressed"], score["paired"]
    error = nan if value["standard_error"] is None else value["standard_error"]
    low, high = paired["interval"] or (nan, nan)
    return row["relative_error"], value["value"], error, paired["difference"], low, high, value["n"]


def _about(document: Document, task: str) -> tuple[Any, ...]:
    """What all rows of a task have in common: ABOUT_SCORE."""
    original = document["originals"][task]
    name, value = baseline_of(original) or ("", nan)
    return original["value"], value, name, task_title(task, original), metric_of(original).name


def _table(rows: dict[int, tuple[Any, ...]], columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(list(rows.values()), index=list(rows), columns=list(columns))


def exported(table: pd.DataFrame, document: Document, purpose: str) -> pd.DataFrame:
    """A table of the `sweep` or of the `sensitivity`, each row with model, seed, versions, date and its plan."""
    environment = document["environment"]
    about = {"origin": "bundled", "model": document["model"], "fingerprint": document["fingerprint"], "seed": document["seed"]}
    about |= {"measured": document["measured"], "machine": environment["machine"], "threads": environment["threads"]}
    about |= {f"version_{name}": environment.get(name, "") for name in VERSIONS}
    plans = [json.dumps(document[purpose][place]["plan"]) for place in table.index]
    return table.assign(**about, plan=plans)


def score_words(table: pd.DataFrame) -> str:
    """What a table's scores are, within a sentence: "accuracy on sentiment"."""
    return f"{METRICS[table['metric'].iloc[0]].word} on {within_sentence(table['title'].iloc[0])}"


def sweep_answer(table: pd.DataFrame) -> str:
    """Which setting keeps most at the typical ratio, how sure that is, and which keeps least: one sentence."""
    ratio = min(table["requested_ratio"], key=lambda asked: abs(log(asked / TYPICAL_RATIO)))
    asked = table[table["requested_ratio"] == ratio]
    metric = METRICS[table["metric"].iloc[0]]
    ordered = asked.sort_values("score", key=lambda scores: scores.map(metric.ranked), kind="stable")
    worst, best = ordered.iloc[0], ordered.iloc[-1]
    change = metric.change(best["difference"]) + " from the original"
    if not pd.isna(best["low"]):
        change = difference_text(metric, best["difference"], best["low"], best["high"], against=" from the original")
    start = f"Asked for {ratio:g}x, {_setting(best)} is best in {score_words(table)}: {metric.number(best['score'])}, {change}"
    if len(asked) == 1:
        return f"{start}."
    alike = int(((asked["low"] <= 0) & (asked["high"] >= 0)).sum())
    return (
        f"{start}; {alike or 'none'} of {len(asked)} settings {'is' if alike < 2 else 'are'} within noise of the original, "
        f"and {_setting(worst)} is last with {metric.number(worst['score'])}."
    )


def _setting(row: pd.Series) -> str:
    return f"{row['method']} ({row['grouping']})"


def sensitivity_answer(table: pd.DataFrame) -> str:
    """How many matrices change the score by more than noise when compressed alone, and which most: one sentence."""
    metric, count, apart = METRICS[table["metric"].iloc[0]], len(table), table[table["told_apart"]]
    how = f"{table['method'].iloc[0]} at {table['requested_ratio'].iloc[0]:g}x"
    start = (
        f"With one matrix stored by {how}, {len(apart) or 'none'} of {count} change the {score_words(table)} by more than noise"
    )
    chance = f"by chance alone about {0.05 * count:.0f} would seem to"
    if apart.empty:
        return f"{start}; {chance}."
    most = apart.iloc[apart["difference"].abs().argmax()]
    return f"{start}, {most['module']} most ({metric.change(most['difference'])}); {chance}."


def provenance(document: Document) -> str:
    """Where the measurements come from, in a line."""
    environment = document["environment"]
    versions = ", ".join(f"{name} {environment[name]}" for name in ("offcomp", "torch", "transformers"))
    machine = f"{environment['machine']}, {environment['device']}, {environment['threads']} threads"
    return f"{document['model']}, seed {document['seed']}, {document['measured'][:10]}, {versions}, {machine}"
