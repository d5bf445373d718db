"""What is known of a plan's scores before it runs: measured by a finished run of exactly this plan, or estimated. No torch.

A score counts only if it was measured on the same weights and on the same version of the same task. Estimates are described in
`offcomp.results.score_curve`. Scores of calibrated methods are estimated from runs of the same method with the same options
alone, because the error of the weights says little about a method that minimises something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import exp, log
from typing import Any

import numpy as np

from offcomp.files import assets_folder, read_json
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.data.metrics import METRICS
from offcomp.planning.data.scores import Score
from offcomp.planning.data.tasks import Task, find_task
from offcomp.planning.plan import Group, Plan
from offcomp.results.bundled import FOLDER, origin
from offcomp.results.known_errors import ESTIMATED, Measured, measurements_of
from offcomp.results.runs import plan_as_stored, result_of
from offcomp.results.score_curve import Evidence, ScoreCurve
from offcomp.results.scores import Z_95, metric_of, task_title, within_noise
from offcomp.results.sentences import origin_text
from offcomp.runs.inputs import task_digests
from offcomp.runs.store import Run

CHECKED = assets_folder() / "measurements" / "score-estimates.json"
LEAST_MEASUREMENTS = 12
"""Fewer measurements than this are not enough for an estimate."""
Errors = float | Mapping[str, float]
"""A relative error over all chosen weights, or one for each group, by name."""


@dataclass(frozen=True)
class KnownScore:
    """The score of a plan on a task.

    direction       whether "higher" or "lower" values are better
    original        the score of the original model
    low, high       measured: the 95 % interval of the paired difference, added to the original's score;
                    estimated: the band that should contain the measured score in nine of ten cases
    origin          "yours", "bundled" or "estimated"
    run             the run that measured it; None if it is estimated
    basis           one sentence on where the value comes from
    within_noise    whether the original's score lies within `low` and `high`
    """

    task: str
    title: str
    metric: str
    direction: str
    original: float
    value: float
    low: float
    high: float
    origin: str
    run: Run | None
    basis: str
    within_noise: bool

    @property
    def loss(self) -> float:
        """How much worse than the original the score is, in units of the metric; negative if it is better."""
        return self.original - self.value if self.direction == "higher" else self.value - self.original


def known_scores(
    plan: Plan, info: ModelInfo, error: Errors | None, measured: Sequence[Measured], tasks: Sequence[str | Task]
) -> dict[str, KnownScore]:
    """Scores of a resolved plan, by name of the task. Tasks without a measurement or a sound estimate are left out.

    error       the plan's relative error, exact or estimated; None if unknown, in which case only measured scores are given
    measured    all measurements on these weights, from `known_errors.measured_of`
    """
    same = list(measurements_of(plan, measured))
    known = {}
    for task in (find_task(each) if isinstance(each, str) else each for each in tasks):
        score = _measured(same, task) or (None if error is None else _estimated(plan, info, error, measured, task))
        if score is not None:
            known[task.name] = score
    return known


def _measured(same: Sequence[Measured], task: Task) -> KnownScore | None:
    for m in same:
        score = score_on(m, task)
        if score is not None:
            low, high = score.paired.interval or (0.0, 0.0)
            original, noise = score.original.value, within_noise(score.paired.interval)
            value, basis = score.compressed.value, f"Measured. {origin_text(m.run)}"
            return _known(task, score, value, (original + low, original + high), origin(m.run), m.run, basis, noise)
    return None


def _known(
    task: Task,
    score: Score,
    value: float,
    interval: tuple[float, float],
    source: str,
    run: Run | None,
    basis: str,
    noise: bool,
) -> KnownScore:
    metric = metric_of(score)
    low, high = (min(max(end, metric.least), metric.most) for end in interval)
    title, original = task_title(task.name, score), score.original.value
    return KnownScore(
        task.name, title, metric.name, metric.direction, original, value, low, high, source, run, basis, noise
    )


def score_on(m: Measured, task: Task) -> Score | None:
    """The score of a measurement on exactly this task and version of its data; None if there is none."""
    score = result_of(m.run).scores.get(task.name)
    if score is None or (score.version or "1") != task.version or score.family not in (None, task.family):
        return None
    if task.bundled:
        own = next((each for each in m.run.plan.tasks if not isinstance(each, str) and each.name == task.name), task)
        return score if own == task else None
    if m.run.folder == FOLDER:
        return None
    inputs = result_of(m.run).inputs
    read = (inputs.tasks or {}).get(task.name) if inputs else None
    same_data = read is not None and list(read) == [task.version, task_digests(task)]
    return score if same_data and task in m.run.plan.resolved_tasks else None


# ---------------------------------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True)
class _Question:
    """What a score curve depends on. Two questions are equal if their `key` is."""

    key: tuple[Any, ...]
    info: ModelInfo = field(compare=False)
    task: Task = field(compare=False)
    measured: Sequence[Measured] = field(compare=False)
    calibrated: str = ""


@dataclass(frozen=True)
class _Answer:
    """A score curve, a score of the original, and how many of the measurements are the user's own."""

    curve: ScoreCurve
    example: Score
    own: int
    total: int


def _estimated(
    plan: Plan, info: ModelInfo, error: Errors, measured: Sequence[Measured], task: Task
) -> KnownScore | None:
    answer = score_curve(info, measured, task, calibrated=_calibrated(plan))
    if answer is None:
        return None
    errors = module_errors(plan.groups, info, error)
    settings = settings_of_groups(plan.groups)
    estimate = answer.curve.estimate(errors, settings)
    if estimate is None:
        return None
    original, metric = answer.example.original.value, metric_of(answer.example)
    value, *ends = (_from_loss(loss, original, metric.name) for loss in (estimate.loss, estimate.least, estimate.most))
    low, high = sorted(ends)
    basis = _basis(answer, estimate)
    return _known(task, answer.example, value, (low, high), ESTIMATED, None, basis, low <= original <= high)
