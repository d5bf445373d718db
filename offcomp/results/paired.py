"""Compares two models on the same examples: which predictions flipped or changed, and how certain a difference is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from offcomp.numerics.paired_tests import accuracy_interval, mcnemar_p
from offcomp.planning.data.scores import Score
from offcomp.results.originals import original_of
from offcomp.results.runs import result_of, scored_tasks
from offcomp.runs.store import Run

FLIP_COLUMNS = ["run", "name", "task", "change", "text", "label", "before", "after", "difference", "predicted"]
CHANGES = {"right to wrong": -1, "wrong to right": 1}
"""Direction of a flip -> its effect on the number of right answers."""
CHANGE_COLUMNS = ["run", "name", "task", "text", "truth", "before", "after", "difference"]


def flip_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per flipped prediction, with the largest change in the true label's probability first."""
    rows = [
        {**flip.to_dict(), "predicted": flip.predicted, "run": run.id, "name": name, "task": task, "change": change}
        for run, name, task, score in scored_tasks(runs)
        if score.flips
        for change in CHANGES
        for flip in score.flips.of(change)
    ]
    return _largest_first(rows, FLIP_COLUMNS, {"before": "original_probability", "after": "compressed_probability"})


def change_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per example that a run lists as most changed, on tasks without classes; the largest change comes first.

    before, after    the outputs of the models: a similarity, a predicted score, or a loss in nats per token
    """
    rows = [
        {**change.to_dict(), "truth": change.truth, "run": run.id, "name": name, "task": task}
        for run, name, task, score in scored_tasks(runs)
        for change in score.changes
    ]
    return _largest_first(rows, CHANGE_COLUMNS, {"before": "original", "after": "compressed"})


def _largest_first(rows: list[dict[str, Any]], columns: list[str], keys: dict[str, str]) -> pd.DataFrame:
    """Table of `rows` with the difference `after - before`, largest first; `keys` maps renamed columns to keys of `rows`."""
    table = pd.DataFrame(rows, columns=[keys.get(name, name) for name in columns]).set_axis(columns, axis="columns")
    table["difference"] = table["after"] - table["before"]
    return table.sort_values("difference", key=abs, ascending=False, kind="stable", ignore_index=True)


def flip_count_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run and task with classes: how many predictions flipped each way, and McNemar's p-value."""
    rows = []
    for run, name, task, score in scored_tasks(runs):
        if score.flips:
            wrong, right = score.paired.right_to_wrong or 0, score.paired.wrong_to_right or 0
            rows.append((run.id, name, task, wrong, right, mcnemar_p(wrong, right)))
    return pd.DataFrame(rows, columns=["run", "name", "task", "right_to_wrong", "wrong_to_right", "p"])


def comparison_key(run: Run, task: str) -> tuple[Any, ...] | None:
    """Key shared by scores of the same original on the same examples; None if the task was not scored."""
    score = result_of(run).scores.get(task)
    if score is None:
        return None
    test = score.family, score.metric, score.version, score.split, score.digest, score.probe, score.embedding
    return (original_of(run), *test, repr(score.settings), score.original.value, score.original.n)


def same_test(first: Run, second: Run, task: str) -> bool:
    """Whether two runs started from the same weights and were scored on the same examples."""
    key = comparison_key(first, task)
    return key is not None and key == comparison_key(second, task)


def paired_difference(first: Run, second: Run, task: str) -> tuple[float, float, float] | None:
    """Accuracy of `first` minus accuracy of `second` on the same examples, with its 95 % interval: (value, low, high).

    Both runs start from the same original, so they only differ on predictions that exactly one of them flipped.
    Returns None if the interval cannot be computed because a run does not list every flip, as is the case
    for tasks without classes.
    """
    scores = [result_of(run).scores[task] for run in (first, second)]
    ours, theirs = map(_changes, scores)
    if ours is None or theirs is None:
        return None
    differences = [ours.get(text, 0) - theirs.get(text, 0) for text in ours | theirs]
    behind, ahead, n = differences.count(-1), differences.count(1), scores[0].compressed.n
    return (ahead - behind) / n, *accuracy_interval(behind, ahead, n)


def _changes(score: Score) -> dict[str, int] | None:
    """Direction of each flip by text: -1 for right to wrong, +1 for wrong to right. None if the list of flips is incomplete."""
    if score.flips is None:
        return None
    changes = {flip.text: sign for change, sign in CHANGES.items() for flip in score.flips.of(change)}
    counted = (score.paired.right_to_wrong or 0) + (score.paired.wrong_to_right or 0)
    return changes if len(changes) == counted else None
