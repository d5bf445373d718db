"""Compare two outputs of `lm_eval --log_samples` on the same documents, with paired statistics per task and metric.

Each output is a folder with files `samples_TASK_DATE.jsonl` and `results_DATE.json`, or one such samples file. Documents are
matched by their number and by the hash of their content. If one output has more documents than the other, only the common ones
count, and a note says so. A metric is resampled as lm-evaluation-harness aggregates it by default (a mean, or a perplexity over
words or bytes); if that does not give the score in the results file, the score of the file is shown without an interval.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from typing import Any

from offcomp.errors import InputError, shortly
from offcomp.evaluation.harness_comparison import compare_items, without_interval
from offcomp.planning.data.metrics import LOWER_NAMES
from offcomp.planning.data.scores import Comparison

SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[^/]*)\.jsonl")
NEEDED = ("doc_id", "doc_hash", "filter", "metrics")
AGGREGATED_AS = {
    "perplexity": "perplexity",
    "word_perplexity": "weighted_perplexity",
    "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte",
}
"""Metric -> how it is aggregated by default; all others are means."""
Key = tuple[int, str]
"""Number and hash of a document."""


@dataclass(frozen=True)
class Samples:
    """The samples of one task.

    values     metric and filter -> document -> value
    prompts    document -> hash of its prompt
    scores     "METRIC,FILTER" -> score according to the results file; empty if there is none
    higher     metric -> whether higher is better, according to the results file
    """

    file: Path
    values: Mapping[tuple[str, str], Mapping[Key, Any]]
    prompts: Mapping[Key, str]
    scores: Mapping[str, Any] = field(default_factory=dict)
    higher: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """The comparison of two outputs by one metric of a task; `first` is the `original` of `compared`."""

    task: str
    metric: str
    better: str
    compared: Comparison


def compare_samples(first: Path, second: Path) -> tuple[list[Row], list[str]]:
    """Compare all tasks that both outputs have. Also returns notes, one sentence each.

    Raises InputError if there are no samples, if they cannot be read, or if no task or document is in both.
    """
    files = [samples_files(path) for path in (first, second)]
    tasks = [task for task in files[0] if task in files[1]]
    if not tasks:
        named = " and ".join(f"{path} has {shortly(sorted(found))}" for path, found in zip((first, second), files, strict=True))
        raise InputError(f"the outputs have no task in common: {named}; evaluate both models on the same tasks")
    alone = [
        f"{path} alone has {shortly(names)}."
        for path, here, there in ((first, files[0], files[1]), (second, files[1], files[0]))
        if (names := sorted(here.keys() - there.keys()))
    ]
    rows, notes = [], alone
    for task in tasks:
        found, said = _of_task(task, *(read_samples(each[task], task) for each in files))
        rows += found
        notes += said
    return rows, notes


def samples_files(path: Path) -> dict[str, Path]:
    """Task -> its newest samples file, in this folder or its subfolders, or this file itself. Raises InputError."""
    if not path.exists():
        raise InputError(f"{path} does not exist; enter the folder given to lm_eval as --output_path")
    newest: dict[str, tuple[str, Path]] = {}
    for file in [path] if path.is_file() else sorted(path.rglob("samples_*.jsonl")):
        match = SAMPLES.fullmatch(file.name)
        if match is None:
            if path.is_file():
                raise InputError(f"{path} must have a name such as samples_TASK_DATE.jsonl, which lm_eval gives its files")
            continue
        known = newest.get(match["task"])
        if known and known[1].parent != file.parent:
            raise InputError(
                f"{path} has samples of the task {match['task']} in {known[1].parent.name} and {file.parent.name}; "
                "enter the folder of one model"
            )
        newest[match["task"]] = max(known or ("", file), (match["date"], file))
    if not newest:
        raise InputError(f"{path} has no file samples_TASK_DATE.jsonl; run lm_eval with --log_samples and --output_path")
    return {task: file for task, (_, file) in newest.items()}


def read_samples(file: Path, task: str) -> Samples:
    """Read a samples file, and the results file of the same date if there is one. Raises InputError."""
    values: dict[tuple[str, str], dict[Key, Any]] = {}
    prompts: dict[Key, str] = {}
    for sample in _lines(file):
        key = (sample["doc_id"], sample["doc_hash"])
        prompts[key] = str(sample.get("prompt_hash"))
        for metric in sample["metrics"]:
            values.setdefault((metric, sample["filter"]), {})[key] = sample.get(metric)
    match = SAMPLES.fullmatch(file.name)
    results = _results(file.with_name(f"results_{match['date']}.json")) if match else {}
    scores, higher = ((results.get(name) or {}).get(task) or {} for name in ("results", "higher_is_better"))
    return Samples(file, values, prompts, scores, higher)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the samples in a file. Raises InputError."""
    number = 0
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                sample = json.loads(line) if line.strip() else None
                if sample is None:
                    continue
                if not isinstance(sample, dict) or not all(name in sample for name in NEEDED):
                    raise InputError(
                        f"line {number} of {file} lacks one of {', '.join(NEEDED)}; write the samples again with a newer "
                        "lm-evaluation-harness (0.4.9 or later)"
                    )
                yield sample
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number} of {file} is not valid JSON ({error}); write the samples again") from None


def _results(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _of_task(task: str, first: Samples, second: Samples) -> tuple[list[Row], list[str]]:
    common = first.prompts.keys() & second.prompts.keys()
    if not common:
        raise InputError(
            f"the samples of the task {task} in {first.file} and {second.file} have no document in common; evaluate both "
            "models on the same version of the task and its data"
        )
    notes = []
    counts = [len(each.prompts) for each in (first, second)]
    complete = counts == [len(common)] * 2
    if not complete:
        notes.append(
            f"{task}: only the {len(common)} documents that both outputs contain are compared (of {counts[0]} and {counts[1]})."
        )
    if any(first.prompts[key] != second.prompts[key] for key in common):
        notes.append(f"{task}: the prompts differ between the outputs, for example in the number of few-shot examples.")
    rows = []
    for metric, chosen in [key for key in first.values if key in second.values]:
        row, note = _of_metric((task, metric, chosen), first, second, complete=complete)
        rows += [row] if row else []
        notes += [f"{task}: {note}"] if note else []
    return rows, notes


def _of_metric(where: tuple[str, str, str], first: Samples, second: Samples, *, complete: bool) -> tuple[Row | None, str]:
    """The row of one metric, if there is anything to compare, and what is special about it."""
    task, metric, chosen = where
    one, two = (each.values[metric, chosen] for each in (first, second))
    keys = sorted(key for key in one if key in two)
    items = [one[key] for key in keys], [two[key] for key in keys]
    label = metric if chosen == "none" else f"{metric},{chosen}"
    aggregation = AGGREGATED_AS.get(metric, "mean")
    compared = compare_items(items[0], items[1], aggregation) if keys else None
    given = [each.scores.get(f"{metric},{chosen}") for each in (first, second)]
    known = [float(value) for value in given if isinstance(value, (int, float))] if complete else []
    higher = first.higher.get(metric, metric not in LOWER_NAMES)
    note = ""
    if compared is not None and len(known) == 2:
        found = compared.original.value, compared.compressed.value
        if not all(isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12) for ours, theirs in zip(found, known, strict=True)):
            compared = None
    if compared is None and len(known) == 2:
        compared, note = (
            without_interval(known[0], known[1], max(1, len(keys))),
            f"{label} is not a mean over documents, so it has no interval.",
        )
    if compared is None:
        return None, f"{label} is left out, since its values per document are not numbers."
    return Row(task, label, "higher" if higher else "lower", compared), note


def as_documents(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON objects."""
    return [
        {
            "task": row.task,
            "metric": row.metric,
            "better": row.better,
            "first": row.compared.original.to_dict(),
            "second": row.compared.compressed.to_dict(),
            "paired": row.compared.paired.to_dict(),
        }
        for row in rows
    ]
