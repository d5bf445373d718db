"""What is known about relative errors besides SVD's exact ones: errors that finished runs measured, and estimates from them.

    error(ratio) ≈ svd(ratio) · f(ratio)

Here svd is SVD's exact error on the chosen groups, and f is the method's error divided by SVD's. log f is interpolated linearly
in log ratio between measured ratios, and held constant slightly beyond them. f comes from measurements with the same options,
unit, storage dtype and calibration text: on the same groups if a nearby ratio was measured, and otherwise on other groups of
the same model for which SVD was also measured, such as those in the bundled sweep. Ratios are achieved ratios, not requested
ones. This module does not need torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from offcomp.errors import InputError
from offcomp.methods import stated_options
from offcomp.planning.data.scores import Score
from offcomp.planning.model_sizes import ModelSizes
from offcomp.planning.plan import Plan
from offcomp.results.atlas import Document, read_measurements
from offcomp.results.bundled import FOLDER, bundled_runs, origin
from offcomp.results.runs import fingerprint_of, method_title, model_of, modules_title, plan_as_stored, result_of, style_key_of
from offcomp.results.sentences import origin_text
from offcomp.runs.inputs import calibration_digest, run_id
from offcomp.runs.result import Environment, GroupResult, Inputs, ModelResult, RunResult, overall_error
from offcomp.runs.store import Run

ROWS = ("sweep", "sensitivity", "subsets")
"""The lists of measurements in a bundled document."""
ESTIMATED = "estimated"
"""The value of `origin` for a point that was not measured."""
BEYOND = 1.5
"""Estimates extend beyond the range of measured ratios by up to this factor."""
NO_ERROR = 1e-3
"""SVD errors below this are too small to divide by: the quotient would not carry over to other compression ratios."""
PLAIN_SVD = ("svd", json.dumps(stated_options("svd", {}), sort_keys=True))
"""SVD with its default options, as (method, options)."""
POINT_COLUMNS = ("method", "style_key", "origin", "requested_ratio", "ratio", "relative_error", "run", "seed", "about")


@dataclass(frozen=True)
class Measured:
    """A finished run with its relative error over all chosen weights."""

    run: Run
    relative_error: float

    @cached_property
    def groups(self) -> frozenset[Any]:
        """See `groups_of`."""
        return groups_of(self.run.plan)

    @cached_property
    def sizes(self) -> dict[frozenset[str], float]:
        """See `_sizes`."""
        return _sizes(self.run.plan)

    @cached_property
    def settings(self) -> tuple[str, ...] | None:
        """Like `settings_of`, but with the calibration text that the run used, not its current version."""
        return _settings(plan_as_stored(self.run), self._calibration)

    @property
    def _calibration(self) -> str:
        inputs = result_of(self.run).inputs
        return _calibration(self.run.plan, inputs.calibration if inputs else None)

    @cached_property
    def key(self) -> str:
        """A key shared by runs with the same plan, dtypes and calibration text, wherever the model is stored."""
        plan = plan_as_stored(self.run).to_dict() | {"model": ""}
        return json.dumps([plan, self._calibration], sort_keys=True)

    def ratio(self, unit: str) -> float:
        """Compression ratio (original / stored) of the chosen modules, with sizes measured in `unit`."""
        return model_of(self.run).sizes.chosen.ratio(unit)


@dataclass(frozen=True)
class Estimated:
    """An estimate of a plan's relative error at the ratio it will achieve, and a sentence that explains its basis."""

    plan: Plan
    ratio: float
    relative_error: float
    basis: str


def groups_of(plan: Plan) -> frozenset[Any]:
    """The sets of modules that are compressed together, regardless of group names and order."""
    return frozenset((frozenset(g.modules), g.stack if len(g.modules) > 1 else "") for g in plan.groups)


def settings_of(plan: Plan) -> tuple[str, ...] | None:
    """Method, options, unit and dtype of a resolved plan, and its current calibration text: everything except the ratio.

    Returns None if the settings differ between the groups of the plan.
    """
    return _settings(plan, _calibration(plan, calibration_digest(plan)))


def _settings(plan: Plan, calibration: str) -> tuple[str, ...] | None:
    groups = plan.to_dict()["groups"]
    settings = {(g["method"], json.dumps(g["options"], sort_keys=True), g["unit"], g["dtype"], calibration) for g in groups}
    return settings.pop() if len(settings) == 1 else None


def _calibration(plan: Plan, digest: str | None) -> str:
    """A plan's calibration settings, text `digest` (None if unknown) and corrections, as JSON; empty if it needs no text."""
    try:
        calibrated = plan.needs_text
    except InputError:  # the plan was made by a version with different methods or options
        calibrated = True
    corrected = [plan.correct] if plan.corrects else []
    return json.dumps([plan.calibration.model_dump(), digest, *corrected], sort_keys=True) if calibrated else ""


def measured_of(runs: Iterable[Run], fingerprint: str) -> list[Measured]:
    """Every finished run on these weights that compressed something, one per plan; the user's own runs take precedence."""
    fitting = [run for run in (*runs, *bundled_runs()) if _fits(run, fingerprint)]
    single_runs = [Measured(run, overall_error(result_of(run).groups)) for run in fitting]
    sweeps = [m for m in _of_documents(_stamps(), fingerprint) if _fits(m.run, fingerprint)]
    measurements: dict[str, Measured] = {}
    for m in (*single_runs, *sweeps):
        measurements.setdefault(m.key, m)
    return list(measurements.values())


def _fits(run: Run, fingerprint: str) -> bool:
    return run.status == "done" and bool(run.plan.groups) and fingerprint_of(run) == fingerprint


def _stamps() -> tuple[tuple[str, int], ...]:
    """Names and modification times of the bundled measurement files."""
    return tuple((file.name, file.stat().st_mtime_ns) for file in sorted(FOLDER.glob("*.json")))


@lru_cache(maxsize=2)
def _of_documents(stamps: tuple[tuple[str, int], ...], fingerprint: str) -> tuple[Measured, ...]:
    """The rows of one model's bundled sweeps as runs, cached until the files change."""
    documents = [document for document in read_measurements().values() if document["fingerprint"] == fingerprint]
    return tuple(m for document in documents for part in ROWS for m in _of_rows(document, part)) if stamps else ()


def _of_rows(document: Document, part: str) -> list[Measured]:
    """The rows of a document as finished runs, each with its own id."""
    weights, environment = document["fingerprint"], Environment.from_json(document["environment"])
    submitted = datetime.fromisoformat(document["measured"]).timestamp()
    measurements = []
    for row in document.get(part, ()):
        plan = Plan.from_dict(row["plan"])
        result = RunResult.model_construct(  # the rows contain only some fields of a run
            groups=tuple(GroupResult.model_construct(**group) for group in row["groups"]),
            model=ModelResult.model_construct(fingerprint=weights, sizes=ModelSizes.from_json(row["sizes"])),
            scores={task: Score.from_json(score) for task, score in row["scores"].items()},
            environment=environment,
            started=document["measured"],
        )
        run = Run(run_id(plan, Inputs(model=weights)), FOLDER, plan, "done", submitted, result=result)
        measurements.append(Measured(run, row["relative_error"]))
    return measurements


def measurement_of(plan: Plan, measured: Sequence[Measured]) -> Measured | None:
    """The first of `measurements_of`, or None."""
    return next(measurements_of(plan, measured), None)


def measurements_of(plan: Plan, measured: Sequence[Measured]) -> Iterator[Measured]:
    """The entries in `measured` with exactly the groups, settings, sizes and seed of the plan; the tasks may differ.

    The plan must be resolved (see `planning.sizes.resolved`).
    """
    groups, settings, sizes = groups_of(plan), settings_of(plan), _sizes(plan)
    for m in measured if settings is not None else ():
        if m.run.plan.seed == plan.seed and m.groups == groups and m.settings == settings and m.sizes == sizes:
            yield m


def _sizes(plan: Plan) -> dict[frozenset[str], float]:
    """The requested ratio of each group, by its modules."""
    return {frozenset(group.modules): group.ratio for group in plan.groups}


def estimated(plan: Plan, ratio: float, measured: Sequence[Measured], curve: pd.DataFrame) -> Estimated | None:
    """Estimate the error of a resolved plan at the `ratio` that it achieves; None if no measurement is close enough.

    `curve` contains SVD's exact error on the same groups in the columns `ratio` (in the plan's unit) and `relative_error`.
    """
    settings, groups, unit = settings_of(plan), groups_of(plan), plan.groups[0].unit
    alike = [m for m in measured if m.settings == settings and m.relative_error > 0] if settings else []
    elsewhere, reference = _compared_with_svd([m for m in alike if m.groups != groups], plan, measured, unit)
    sources = (
        ([m for m in alike if m.groups == groups], curve, "these groups at other ratios"),
        (elsewhere, reference, f"{_named(elsewhere)} in the same model, each compared with SVD on the same modules"),
    )
    for used, svd, basis in sources if len(curve) else ():
        exact = [(m, at(svd, m.ratio(unit))) for m in used]
        factors = {m.ratio(unit): m.relative_error / error for m, error in exact if error > NO_ERROR}
        if factors and min(factors) / BEYOND <= ratio <= max(factors) * BEYOND:
            ratios = sorted(factors)
            factor = np.exp(np.interp(np.log(ratio), np.log(ratios), np.log([factors[each] for each in ratios])))
            count = f"{len(factors)} measurement{'s' * (len(factors) != 1)}"
            return Estimated(plan, ratio, min(1.0, float(factor) * at(curve, ratio)), f"Estimated from {count} of {basis}.")
    return None


def at(curve: pd.DataFrame, ratio: float) -> float:
    """The error on a curve at a given ratio, interpolated between its points and constant beyond both ends."""
    ordered = curve.sort_values("ratio")
    return float(np.interp(np.log(ratio), np.log(ordered["ratio"]), ordered["relative_error"]))


def _compared_with_svd(
    alike: Sequence[Measured], plan: Plan, measured: Sequence[Measured], unit: str
) -> tuple[list[Measured], pd.DataFrame]:
    """The measurements in `alike` on the most informative groups, and SVD's errors on those groups.

    Measurements that agree with the plan on whether each module is compressed separately are preferred. Ties go to the groups
    measured most often. Groups without an SVD measurement are skipped; both results are empty if no groups remain.
    """
    dtypes = ("float32", *{m.settings[3] for m in alike if m.settings})
    svd = [m for m in measured if m.settings is not None and m.settings[:2] == PLAIN_SVD and m.settings[3] in dtypes]
    counts = Counter(m.groups for m in alike if any(other.groups == m.groups for other in svd))
    alone = _alone(groups_of(plan))
    best = max(counts, key=lambda groups: (_alone(groups) == alone, counts[groups]), default=None)
    rows = [(m.ratio(unit), m.relative_error) for m in svd if m.groups == best and m.relative_error > 0]
    return [m for m in alike if m.groups == best] if rows else [], pd.DataFrame(rows, columns=["ratio", "relative_error"])


def _alone(groups: frozenset[Any]) -> bool:
    return all(len(modules) == 1 for modules, _ in groups)


def _named(measured: Sequence[Measured]) -> str:
    """A short description of the groups that these measurements share."""
    if not measured:
        return ""
    run = measured[0].run
    return f"{modules_title(run)} {'(separately)' if _alone(measured[0].groups) else f'(in {len(run.plan.groups)} groups)'}"


def error_point_table(measured: Sequence[Measured], estimates: Iterable[Estimated], unit: str) -> pd.DataFrame:
    """One row per measurement or estimate, with its origin. `ratio` is the compression ratio in `unit`.

    `style_key` determines colour and shape; `requested_ratio` is missing if it differs between groups.
    """
    rows = [_row(m.run, origin(m.run), m.ratio(unit), m.relative_error, origin_text(m.run)) for m in measured]
    for e in estimates:
        run = Run("", FOLDER, e.plan, "", 0.0)
        rows.append(_row(run, ESTIMATED, e.ratio, e.relative_error, e.basis))
    return pd.DataFrame(rows, columns=list(POINT_COLUMNS))


def _row(run: Run, source: str, ratio: float, error: float, description: str) -> tuple[Any, ...]:
    ratios = {group.ratio for group in run.plan.groups}
    requested = ratios.pop() if len(ratios) == 1 else nan
    return method_title(run), style_key_of(run), source, requested, ratio, error, run.id, run.plan.seed, description
