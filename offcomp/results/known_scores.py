"""What is known of a plan's scores before it runs: measured by a finished run of exactly this plan, or estimated. No torch.

A score counts only if it was measured on the same weights and on the same version of the same task. Estimates are described in
`offcomp.results.score_curve`. Scores of calibrated methods are estimated from runs of the same method with the same options
alone, because the error of the weights says little about a method that minimises something else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
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
from offcomp.results.runs import result_of
from offcomp.results.score_curve import Evidence, ScoreCurve, Vector
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
    """What a fitted curve depends on. Two questions are equal if their `key` is."""

    key: tuple[Any, ...]
    info: ModelInfo = field(compare=False)
    task: Task = field(compare=False)
    measured: Sequence[Measured] = field(compare=False)
    calibrated: str = field(compare=False)


@dataclass(frozen=True, eq=False)
class FittedScores:
    """A curve fitted to the measurements of one task, one of its scores, and the number of measurements by origin."""

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
            "options; nine of ten measured scores should lie within the band."
        )


def _estimated(plan: Plan, info: ModelInfo, error: Errors, measured: Sequence[Measured], task: Task) -> KnownScore | None:
    fitted = fitted_scores(plan, info, measured, task)
    settings = _settings(plan.groups)
    estimate = fitted.curve.estimate(module_errors(plan.groups, info, error), settings) if fitted else None
    if fitted is None or estimate is None:
        return None
    score = fitted.example
    value, *ends = (_with_loss(score, loss) for loss in (estimate.loss, estimate.least, estimate.most))
    low, high = sorted(ends)
    noise = low <= score.original.value <= high
    return _known(task, score, value, (low, high), ESTIMATED, None, fitted.basis(settings), noise)


def fitted_scores(plan: Plan, info: ModelInfo, measured: Sequence[Measured], task: Task) -> FittedScores | None:
    """The curve of a task for plans like this one; None if there are too few measurements. Cached until these change."""
    calibrated = _settings(plan.groups) if plan.calibrated_groups else ""
    runs = tuple((m.run.id, m.run.submitted) for m in measured)
    return _fitted(_Question((info.fingerprint, json.dumps(task.to_dict(), sort_keys=True), calibrated, runs), info, task, measured, calibrated))


@lru_cache(maxsize=32)
def _fitted(question: _Question) -> FittedScores | None:
    info, used = question.info, []
    for m in question.measured:
        score, settings = score_on(m, question.task), _settings(m.run.plan.groups)
        alike = settings == question.calibrated if question.calibrated else not m.run.plan.calibrated_groups
        if alike and score is not None and score.paired.interval is not None and m.relative_error > 0:
            errors = module_errors(m.run.plan.groups, info, errors_of(m.run.plan, m))
            used.append((m, score, Evidence(errors, *_loss_of(score), settings)))
    if len(used) < LEAST_MEASUREMENTS:
        return None
    curve = ScoreCurve.fit([evidence for _, _, evidence in used], info.modules)
    return FittedScores(curve, used[0][1], Counter(origin(m.run) for m, _, _ in used))


def errors_of(plan: Plan, m: Measured) -> dict[str, float]:
    """The relative error of each group of a plan, by name, in a measurement of the same groups."""
    modules = {group.name: frozenset(group.modules) for group in m.run.plan.groups}
    by_modules = {modules[group.name]: group.relative_error for group in result_of(m.run).groups}
    return {group.name: by_modules[frozenset(group.modules)] for group in plan.groups}


def module_errors(groups: Sequence[Group], info: ModelInfo, error: Errors) -> Vector:
    """(modules of the model,) the relative error of each module; 0 for those that are not compressed."""
    of_group = error if isinstance(error, Mapping) else {group.name: error for group in groups}
    by_module = {module: of_group[group.name] for group in groups for module in group.modules}
    return np.array([by_module.get(spec.name, 0.0) for spec in info.modules])


def _settings(groups: Sequence[Group]) -> str:
    """The methods and options of these groups, as text."""
    used = {json.dumps([group["method"], group["options"]], sort_keys=True) for group in map(Group.to_dict, groups)}
    return " ".join(sorted(used))


def _loss_of(score: Score) -> tuple[float, float]:
    """The loss and its standard error: a difference, or for a perplexity the logarithm of a quotient."""
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


# ---------------------------------------------------------------------------------------------------------------- the check


@dataclass(frozen=True)
class EstimateCheck:
    """How estimates compared with measurements on plans that they were not fitted to (`benchmarks/score_estimates.py`).

    plans, within       number of plans, and of those whose measured score lay within the band
    mean_errors         model -> its task, metric, and the mean absolute difference between estimate and measurement
    """

    plans: int
    within: int
    mean_errors: Mapping[str, tuple[str, str, float]]

    def __str__(self) -> str:
        share = 100 * self.within / self.plans
        errors = ", ".join(
            f"{METRICS[metric].margin(error)}{' points' * METRICS[metric].percent} on {task} ({model})"
            for model, (task, metric, error) in self.mean_errors.items()
        )
        return (
            f"In a check on {self.plans} other plans, {share:.0f} % of the measured scores lay within the 90 % band; "
            f"mean error {errors}."
        )


def accuracy_of_estimates() -> EstimateCheck | None:
    """The bundled check of the estimates; None if its file is missing."""
    summary = (read_json(CHECKED) or {}).get("summary")
    if not summary:
        return None
    errors = {model: (row["task"], row["metric"], row["mean_error"]) for model, row in summary["models"].items()}
    return EstimateCheck(summary["plans"], summary["within"], errors)
