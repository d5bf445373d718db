"""What is known about a plan's scores before it runs: scores from an earlier run of exactly the same plan, or estimates.

A score counts only if it was measured on the same weights and on the same version of the same task. Estimates are described in
`offcomp.results.score_curve`. Scores of calibrated methods, and of plans with corrections, are estimated only from runs of the
same method with the same options and corrections, because the error of the weights says little about them.

Does not import torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import exp, log
from typing import Any

import numpy as np

from offcomp.methods import SVD, make_method
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.data.metrics import METRICS
from offcomp.planning.data.scores import Score
from offcomp.planning.data.tasks import Task, find_task
from offcomp.planning.plan import Group, Plan
from offcomp.results.bundled import FOLDER, origin
from offcomp.results.known_errors import ESTIMATED, Measured, measurements_of
from offcomp.results.runs import result_of
from offcomp.results.score_curve import Evidence, ScoreCurve, Vector
from offcomp.results.scores import Z_95, metric_of, task_title, within_noise, within_sentence
from offcomp.results.sentences import origin_text
from offcomp.runs.inputs import task_digests
from offcomp.runs.store import Run

LEAST_MEASUREMENTS = 12
"""Fewer measurements than this are not enough for an estimate."""
ESTIMATED_ERROR = 0.1
"""Relative standard deviation of errors from `known_errors.estimated`, measured on the bundled sweeps by leaving out ratios."""
Errors = float | Mapping[str, float]
"""A relative error over all chosen weights, or one for each group, by name."""


@dataclass(frozen=True)
class KnownScore:
    """The score of a plan on a task.

    direction       whether "higher" or "lower" values are better
    original        the score of the original model
    low, high       measured: the 95 % interval of the paired difference, added to the original's score;
                    estimated: the band that should contain the measured score in nine out of ten cases
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

    def to_dict(self) -> dict[str, Any]:
        """The score as JSON values; `run` is the id of the run."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return fields | {"loss": self.loss, "run": self.run.id if self.run else None}

    def __str__(self) -> str:
        metric, about = METRICS[self.metric], "about " if self.run is None else ""
        noise = ", within noise" if self.within_noise else ""
        kind = "90 % band" if self.run is None else "95 % interval"
        original, value, low, high = map(metric.number, (self.original, self.value, self.low, self.high))
        return f"{metric.word} on {within_sentence(self.title)}: {original} -> {about}{value} ({kind} {low} to {high}){noise}"


def known_scores(
    plan: Plan, info: ModelInfo, error: Errors | None, measured: Sequence[Measured], tasks: Sequence[str | Task]
) -> dict[str, KnownScore]:
    """Scores of a resolved plan, by task name. Tasks without a measurement or a sound estimate are left out.

    error       the plan's relative error, exact or estimated; None if unknown, in which case only measured scores are given
    measured    all measurements on these weights, from `known_errors.measured_of`
    """
    same = list(measurements_of(plan, measured))
    known = {}
    for task in (find_task(each) if isinstance(each, str) else each for each in tasks):
        score = _measured(same, task)
        if score is None and error is not None:
            exact = bool(same) or all(make_method(group.method, group.options) == SVD() for group in plan.groups)
            score = _estimated(plan, info, error, measured, task, uncertainty=0.0 if exact else ESTIMATED_ERROR)
        if score is not None:
            known[task.name] = score
    return known


def _measured(same: Sequence[Measured], task: Task) -> KnownScore | None:
    for m in same:
        score = score_on(m, task)
        if score is not None:
            low, high = score.paired.interval or (0.0, 0.0)
            original = score.original.value
            known = _known(task, score, score.compressed.value, (original + low, original + high))
            noise, basis = within_noise(score.paired.interval), f"Measured. {origin_text(m.run)}"
            return replace(known, origin=origin(m.run), run=m.run, basis=basis, within_noise=noise)
    return None


def _known(task: Task, score: Score, value: float, interval: tuple[float, float]) -> KnownScore:
    """A score marked as estimated, without its basis; the interval is clipped to the metric's range."""
    metric, original = metric_of(score), score.original.value
    low, high = (min(max(end, metric.least), metric.most) for end in interval)
    title, noise = task_title(task.name, score), low <= original <= high
    return KnownScore(task.name, title, metric.name, metric.direction, original, value, low, high, ESTIMATED, None, "", noise)


def score_on(m: Measured, task: Task) -> Score | None:
    """The score of a measurement on exactly this task and this version of its data, or None if it has no such score."""
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
    """What a fitted curve depends on. Two instances are equal if their keys are equal."""

    key: tuple[Any, ...]
    info: ModelInfo = field(compare=False)
    task: Task = field(compare=False)
    measured: Sequence[Measured] = field(compare=False)
    calibrated: str = field(compare=False)


@dataclass(frozen=True, eq=False)
class FittedScores:
    """A curve fitted to the measurements of one task, an example of their scores, and the number of measurements by origin."""

    curve: ScoreCurve
    example: Score
    origins: Mapping[str, int]

    def basis(self, settings: str) -> str:
        """One sentence on what an estimate is based on."""
        total = sum(self.origins.values())
        same = sum(each.settings == settings for each in self.curve.curve.evidence)
        own = f", {self.origins['yours']} of them yours" if self.origins.get("yours") else ""
        return (
            f"Estimated from {total} measurements of this model on this task{own}, {same or 'none'} with the same method and "
            "options; nine in ten measured scores should lie within the band."
        )


def _estimated(
    plan: Plan, info: ModelInfo, error: Errors, measured: Sequence[Measured], task: Task, *, uncertainty: float
) -> KnownScore | None:
    fitted = fitted_scores(plan, info, measured, task)
    settings = _settings(plan)
    if fitted is None:
        return None
    estimate = fitted.curve.estimate(module_errors(plan.groups, info, error), settings, uncertainty)
    if estimate is None:
        return None
    score = fitted.example
    value, *ends = (_with_loss(score, loss) for loss in (estimate.loss, estimate.least, estimate.most))
    return replace(_known(task, score, value, (min(ends), max(ends))), basis=fitted.basis(settings))


def fitted_scores(plan: Plan, info: ModelInfo, measured: Sequence[Measured], task: Task) -> FittedScores | None:
    """The curve of a task for plans like this one; None if there are too few measurements. Cached until `measured` changes."""
    calibrated = _settings(plan) if plan.needs_text else ""
    runs = tuple((m.run.id, m.run.submitted) for m in measured)
    return _fitted(
        _Question(
            (info.fingerprint, json.dumps(task.to_dict(), sort_keys=True), calibrated, runs), info, task, measured, calibrated
        )
    )


@lru_cache(maxsize=32)
def _fitted(question: _Question) -> FittedScores | None:
    info, task = question.info, question.task
    used = scored(question.measured, task, question.calibrated)
    if len(used) < LEAST_MEASUREMENTS:
        return None
    curve = ScoreCurve.fit([evidence_of(m, score, info) for m, score in used], info.modules)
    return FittedScores(curve, used[0][1], Counter(origin(m.run) for m, _ in used))


def scored(measured: Sequence[Measured], task: Task, calibrated: str = "") -> list[tuple[Measured, Score]]:
    """The measurements that an estimate is based on: those of runs that compressed something and were scored on the task.

    calibrated      restricts them to runs with these methods, options and corrections; if empty, to runs that need no text
    """
    found = []
    for m in measured:
        score = score_on(m, task) if m.relative_error > 0 else None
        alike = _settings(m.run.plan) == calibrated if calibrated else not m.run.plan.needs_text
        if alike and score is not None and score.paired.interval is not None:
            found.append((m, score))
    return found


def evidence_of(m: Measured, score: Score, info: ModelInfo) -> Evidence:
    """Convert a measurement and its score to the form that a score curve is fitted to."""
    groups = m.run.plan.groups
    return Evidence(module_errors(groups, info, errors_of(m.run.plan, m)), *_loss_of(score), _settings(m.run.plan))


def errors_of(plan: Plan, m: Measured) -> dict[str, float]:
    """The relative error of each group of a plan, by name, in a measurement of the same groups."""
    modules = {group.name: frozenset(group.modules) for group in m.run.plan.groups}
    by_modules = {modules[group.name]: group.relative_error for group in result_of(m.run).groups}
    return {group.name: by_modules[frozenset(group.modules)] for group in plan.groups}


def module_errors(groups: Sequence[Group], info: ModelInfo, error: Errors) -> Vector:
    """The relative errors of all modules of the model, as a vector; 0 for those that are not compressed."""
    of_group = error if isinstance(error, Mapping) else {group.name: error for group in groups}
    by_module = {module: of_group[group.name] for group in groups for module in group.modules}
    return np.array([by_module.get(spec.name, 0.0) for spec in info.modules])


def _settings(plan: Plan) -> str:
    """The methods and options of the groups, and what is corrected, as text."""
    used = {json.dumps([group["method"], group["options"]], sort_keys=True) for group in map(Group.to_dict, plan.groups)}
    return " ".join([*sorted(used), *([plan.correct] if plan.corrects else [])])


def _loss_of(score: Score) -> tuple[float, float]:
    """The loss and its standard error. A loss is a difference of scores or, for perplexity, the logarithm of their quotient."""
    low, high = score.paired.interval or (0.0, 0.0)
    noise = (high - low) / (2 * Z_95)
    if _is_quotient(score):
        return log(score.compressed.value / score.original.value), noise / score.compressed.value
    sign = 1.0 if metric_of(score).direction == "higher" else -1.0
    return -sign * score.paired.difference, noise


def _with_loss(score: Score, loss: float) -> float:
    """The score of a model that has lost this much compared with the original; the inverse of `_loss_of`."""
    original = score.original.value
    if _is_quotient(score):
        return original * exp(loss)
    return original - loss if metric_of(score).direction == "higher" else original + loss


def _is_quotient(score: Score) -> bool:
    return metric_of(score).least > 0
