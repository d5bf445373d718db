"""Compares two models on the same examples: which predictions flipped or changed, and how certain a difference is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from offcomp.numerics.paired_tests import accuracy_interval, mcnemar_p
from offcomp.results.originals import original_of
from offcomp.results.runs import result_of, scored_tasks
from offcomp.results.scores import Score
from offcomp.runs.store import Run

FLIP_COLUMNS = ["run", "name", "task", "change", "text", "label", "before", "after", "difference", "predicted"]
CHANGE_COLUMNS = ["run", "name", "task", "text", "truth", "before", "after", "difference"]


def flip_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per flipped prediction, with the largest change in the true label's probability first."""
    rows = [
        {"predicted": ""} | flip | {"run": run.id, "name": name, "task": task, "change": change.replace("_", " ")}
        for run, name, task, score in scored_tasks(runs)
        for change, flips in score.get("flips", {}).items()
        for flip in flips
    ]
    return _largest_first(rows, FLIP_COLUMNS, {"before": "original_probability", "after": "compressed_probability"})


def change_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per example listed as most changed on a task without classes, with the largest change first.

    before, after    the outputs of the models: a similarity, a predicted score, or a loss in nats per token
    """
    return _largest_first(listed_in(runs, "changes"), CHANGE_COLUMNS, {"before": "original", "after": "compressed"})


def listed_in(runs: Sequence[Run], field: str) -> list[dict[str, Any]]:
    """The entries of the list `field` (such as `changes`) in all scores that contain it, each with its run and task."""
    return [
        entry | {"run": run.id, "name": name, "task": task}
        for run, name, task, score in scored_tasks(runs)
        for entry in score.get(field, [])
    ]


def _largest_first(rows: list[dict[str, Any]], columns: list[str], keys: dict[str, str]) -> pd.DataFrame:
    """Table of `rows` with the difference `after - before`, largest first; `keys` maps renamed columns to keys of `rows`."""
    table = pd.DataFrame(rows, columns=[keys.get(name, name) for name in columns]).set_axis(columns, axis="columns")
    table["difference"] = table["after"] - table["before"]
    return table.sort_values("difference", key=abs, ascending=False, kind="stable", ignore_index=True)


def flip_count_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run and task with classes: how many predictions flipped each way, and McNemar's p-value."""
    rows = []
    for run, name, task, score in scored_tasks(runs):
        if "flips" in score:
            wrong, right = score["paired"]["right_to_wrong"], score["paired"]["wrong_to_right"]
            rows.append((run.id, name, task, wrong, right, mcnemar_p(wrong, right)))
    return pd.DataFrame(rows, columns=["run", "name", "task", "right_to_wrong", "wrong_to_right", "p"])


def comparison_key(run: Run, task: str) -> tuple[Any, ...] | None:
    """Key shared by scores of the same original on the same examples; None if the task was not scored."""
    result = result_of(run)
    score = result["scores"].get(task)
    if score is None:
        return None
    names = ("family", "metric", "version", "split", "digest", "probe", "embedding")
    test = (*map(score.get, names), repr(score.get("settings")))
    return (original_of(run), *test, score["original"]["value"], score["original"]["n"])


def same_test(first: Run, second: Run, task: str) -> bool:
    """Whether two runs started from the same weights and were scored on the same examples."""
    key = comparison_key(first, task)
    return key is not None and key == comparison_key(second, task)


def paired_difference(first: Run, second: Run, task: str) -> tuple[float, float, float] | None:
    """Accuracy of `first` minus accuracy of `second` on the same examples, with its 95 % interval: (value, low, high).

    Both runs start from the same original, so they only differ on predictions that exactly one of them flipped.
    Returns None if the interval cannot be computed because a run does not list every flip, as on tasks without classes.
    """
    scores = [result_of(run)["scores"][task] for run in (first, second)]
    ours, theirs = map(_changes, scores)
    if ours is None or theirs is None:
        return None
    differences = [ours.get(text, 0) - theirs.get(text, 0) for text in ours | theirs]
    behind, ahead, n = differences.count(-1), differences.count(1), scores[0]["compressed"]["n"]
    return (ahead - behind) / n, *accuracy_interval(behind, ahead, n)


def _changes(score: Score) -> dict[str, int] | None:
    """Direction of each flip by text: -1 for right to wrong, +1 for wrong to right. None if the list of flips is incomplete."""
    if "flips" not in score:
        return None
    signs = {"right_to_wrong": -1, "wrong_to_right": 1}
    changes = {flip["text"]: sign for change, sign in signs.items() for flip in score["flips"][change]}
    return changes if len(changes) == sum(score["paired"][change] for change in signs) else None
