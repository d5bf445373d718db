"""Versions of a plan at other sizes, with what is known about each before it runs: sizes, errors and scores.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from offcomp.errors import BudgetTooSmall
from offcomp.methods import SVD, make_method
from offcomp.models.catalogue import ModelInfo
from offcomp.numerics.accounting import Size
from offcomp.planning import allocation
from offcomp.planning.allocation import allocated_plan, waterfill
from offcomp.planning.data.tasks import Task
from offcomp.planning.error_curves import ErrorCurve, svd_curve, with_floor
from offcomp.planning.plan import Plan, members
from offcomp.planning.sizes import Prediction, predict, resolved
from offcomp.planning.spectra import find
from offcomp.planning.spectrum import MatrixSpectrum, Spectrum, relative_error
from offcomp.results.error_curve import error_curve_table
from offcomp.results.known_errors import Measured, estimated, measurement_of
from offcomp.results.known_scores import Errors, KnownScore, errors_of, fitted_scores, known_scores
from offcomp.results.restored import in_dtype
from offcomp.results.sentences import smaller
from offcomp.runs.sensitivity import Sensitivities, basis, loss_curves

SMALLEST_RATIO = 1.0
STEPS, REFINEMENTS = 48, 14
DIGITS = 5
"""Significant digits of a ratio that a search finds."""
FLOOR = 0.1
"""Water-filling keeps at least this share of each group if the total permits, since few scores were measured below it."""
CURVE_RATIOS = tuple(np.geomspace(1.0, 50.0, 25).round(3).tolist())


@dataclass(frozen=True, eq=False)
class Family:
    """A plan at any size.

    unit            "parameters" or "bytes": what ratios and totals are measured in
    sensitivities   measured sensitivities of all groups, or empty to allocate by weight errors or scores
    """

    plan: Plan
    info: ModelInfo
    home: Path
    measured: Sequence[Measured]
    unit: str
    sensitivities: Sensitivities = field(default_factory=dict)

    @cached_property
    def spectra(self) -> list[Spectrum] | None:
        """The singular values of all groups; None if some are not known."""
        found = [find(self.info, members(group, self.info), group.stack, self.home) for group in self.plan.groups]
        known = [spectrum for spectrum in found if spectrum is not None]
        return known if len(known) == len(found) else None

    @cached_property
    def is_plain_svd(self) -> bool:
        """Whether the singular values determine the error of every group."""
        return all(make_method(group.method, group.options) == SVD() for group in self.plan.groups)

    @cached_property
    def curve(self) -> pd.DataFrame:
        """SVD's error on these groups at several ratios, from which errors of other methods are estimated."""
        groups = tuple(group.at_ratio(2.0, self.unit).replace(method="svd", options={}) for group in self.plan.groups)
        ratios = CURVE_RATIOS if self.spectra else ()
        return error_curve_table(self.info, self.plan.replace(groups=groups), self.spectra or [], ratios)

    def at_ratio(self, ratio: float) -> Candidate:
        """All groups at the same requested ratio."""
        rounded = max(SMALLEST_RATIO, float(f"{ratio:.{DIGITS}g}"))
        groups = tuple(group.at_ratio(rounded, self.unit) for group in self.plan.groups)
        return self.candidate(self.plan.replace(groups=groups))

    def candidate(self, plan: Plan) -> Candidate:
        """A version of the plan."""
        return Candidate(self, plan)

    @cached_property
    def largest_ratio(self) -> float:
        """The largest ratio that every group can reach."""
        return min(group.largest_ratio for group in self.at_ratio(SMALLEST_RATIO).prediction.groups)

    def ratios(self) -> list[float]:
        """Ratios to search, from the largest (the smallest size) to 1."""
        return np.geomspace(max(SMALLEST_RATIO, self.largest_ratio * (1 - 1e-6)), SMALLEST_RATIO, STEPS).tolist()

    # ------------------------------------------------------------------------------------------------------- allocation

    @property
    def can_allocate(self) -> bool:
        """Whether there are several groups, and their error is known at every size."""
        return len(self.plan.groups) > 1 and (bool(self.sensitivities) or (self.is_plain_svd and self.spectra is not None))

    @cached_property
    def curves(self) -> list[ErrorCurve]:
        """The error curve of each group: exact for plain SVD with known singular values, otherwise from its sensitivity."""
        curves = []
        spectra = self.spectra if self.is_plain_svd and self.spectra is not None else [None] * len(self.plan.groups)
        for group, spectrum, sizes in zip(
            self.plan.groups, spectra, self.at_ratio(SMALLEST_RATIO).prediction.groups, strict=True
        ):
            if spectrum is None:
                curves.append(self.sensitivities[group.name].curve(group, self.info, self.unit))
                continue
            matrix = MatrixSpectrum(sizes.rows, sizes.cols, spectrum)
            curve = svd_curve(group.name, matrix, unit=self.unit, dtype=sizes.dtype, original_bytes=sizes.original_bytes)
            curves.append(curve)
        return curves

    @cached_property
    def losses(self) -> list[ErrorCurve]:
        """The curves that are minimised: predicted losses if sensitivities are known, otherwise weight errors."""
        return loss_curves(self.sensitivities, self.curves, self.unit) if self.sensitivities else self.curves

    def knows_scores(self, task: Task) -> bool:
        """Whether enough scores on the task have been measured to estimate further scores."""
        return fitted_scores(self.plan, self.info, self.measured, task) is not None

    def weights(self, task: Task | None) -> np.ndarray:
        """Weight of each group's squared error: how much the task depends on the group if known, otherwise the same for all.

        With sensitivities, all weights are 1, since the curves are those of the predicted loss.
        """
        if self.sensitivities:
            return allocation.weights_for(self.losses, "frobenius")
        fitted = fitted_scores(self.plan, self.info, self.measured, task) if task else None
        if fitted is None:
            return allocation.weights_for(self.curves, "frobenius")
        of_module = dict(zip((spec.name for spec in self.info.modules), fitted.curve.curve.weights, strict=True))
        shares = [sum(of_module[module] for module in group.modules) for group in self.plan.groups]
        return np.array(shares) / [max(curve.energy, 1e-30) for curve in self.curves]

    def with_total(self, total: float, weights: np.ndarray) -> Candidate | None:
        """The candidate of at most this total size (in `unit`) with the smallest weighted error; None if impossible."""
        floored = [] if self.sensitivities else [[with_floor(curve, FLOOR) for curve in self.curves]]
        for curves in (*floored, self.losses):
            with suppress(BudgetTooSmall):  # without the floors, it may still be possible
                found = waterfill(curves, int(total), weights)
                return self.candidate(allocated_plan(self.plan, found, self.info, self.unit))
        return None

    def totals(self) -> list[float]:
        """Total sizes to search, from the smallest to the original."""
        smallest = sum(int(curve.sizes[0]) for curve in self.losses)
        return np.geomspace(smallest, sum(curve.original for curve in self.curves), STEPS).tolist()


@dataclass(frozen=True, eq=False)
class Candidate:
    """A plan of a family, and what is known about it."""

    family: Family
    plan: Plan

    @cached_property
    def prediction(self) -> Prediction:
        """Predicted sizes."""
        return predict(self.plan, self.family.info)

    @property
    def whole_bytes(self) -> int:
        """Stored size of the whole model in bytes."""
        return self.prediction.model.whole.bytes_after

    @property
    def smaller_text(self) -> str:
        """How much smaller the chosen weights are, in words."""
        return smaller(self.prediction.model.chosen.ratio(self.family.unit))

    @property
    def saves(self) -> bool:
        """Whether the chosen weights take up less space than in the original."""
        chosen = self.prediction.model.chosen
        return chosen.after(self.family.unit) < chosen.before(self.family.unit)

    @cached_property
    def errors(self) -> Errors | None:
        """The relative error of each group (exact, measured or interpolated), or one estimate for all groups, or None."""
        family, groups = self.family, self.prediction.groups
        if not self.prediction.feasible:
            return None
        if family.is_plain_svd and family.spectra is not None:
            ranks = [group.size if group.form != "dense" else None for group in groups]
            pairs = zip(groups, family.spectra, ranks, strict=True)
            return {group.name: relative_error([spectrum], [rank]) for group, spectrum, rank in pairs}
        plan = resolved(self.plan, family.info)
        measurement = measurement_of(plan, family.measured)
        if measurement is not None:
            return errors_of(plan, measurement)
        if family.sensitivities:
            return dict(zip((group.name for group in groups), self._interpolated.tolist(), strict=True))
        achieved = self.prediction.model.chosen.ratio(family.unit)
        measured = in_dtype(family.measured, plan.groups[0].dtype, family.info)
        estimate = estimated(plan, achieved, measured, family.curve)
        return estimate.relative_error if estimate else None

    @cached_property
    def _interpolated(self) -> np.ndarray:
        """The relative error of each group, read from the family's curves."""
        found = self._on(self.family.curves)
        energies = [max(curve.energy, 1e-30) for curve in self.family.curves]
        return np.sqrt(np.array(found.errors) / energies)

    def _on(self, curves: Sequence[ErrorCurve]) -> allocation.Allocation:
        """The plan's sizes on these curves; a group that is smaller than every point of its curve gets the smallest point."""
        unit = self.family.unit
        stored = [Size(group.num_parameters, group.num_bytes).in_unit(unit) for group in self.prediction.groups]
        sizes = [max(size, int(curve.sizes[0])) for size, curve in zip(stored, curves, strict=True)]
        return allocation.of_sizes(curves, sizes, allocation.weights_for(curves, "frobenius"))

    @property
    def predicted_loss(self) -> float | None:
        """The predicted loss of the whole model; None without sensitivities."""
        return self._on(self.family.losses).objective if self.family.sensitivities else None

    @property
    def loss_sentence(self) -> str:
        """States the predicted loss, what it would be with equal ratios, and what it measures; empty without sensitivities."""
        loss, family = self.predicted_loss, self.family
        if loss is None:
            return ""
        alike = family.at_ratio(self.prediction.model.chosen.ratio(family.unit)).predicted_loss
        return (
            f"Sizes are allocated so that the model's outputs change least: the predicted loss is {loss:.3g}, and {alike:.3g} "
            f"with equal ratios. It is the {basis(family.sensitivities)}, summed over the groups."
        )

    @cached_property
    def error(self) -> float | None:
        """The relative error over all chosen weights."""
        if self.errors is None or isinstance(self.errors, float):
            return self.errors
        spectra = self.family.spectra
        if not self.family.is_plain_svd or spectra is None:
            measurement = measurement_of(resolved(self.plan, self.family.info), self.family.measured)
            if measurement is None and self.family.sensitivities:
                return self._on(self.family.curves).relative_error
            return measurement.relative_error if measurement else None
        groups = self.prediction.groups
        return relative_error(spectra, [group.size if group.form != "dense" else None for group in groups])

    def score(self, task: Task) -> KnownScore | None:
        """The measured or expected score on a task."""
        family = self.family
        return known_scores(resolved(self.plan, family.info), family.info, self.errors, family.measured, [task]).get(task.name)


Acceptable = Callable[[Candidate], bool]


def smallest(
    candidates: Callable[[float], Candidate | None], positions: Sequence[float], acceptable: Acceptable
) -> Candidate | None:
    """The smallest acceptable candidate; `positions` (ratios or totals) are ordered from the smallest candidate to the largest.

    The positions are tried in order; the search then continues between the first acceptable one and the one before it.
    """
    before: float | None = None
    for position in positions:
        found = candidates(position)
        if found is not None and acceptable(found):
            return _refined(candidates, before, position, found, acceptable)
        before = position
    return None


def _refined(
    candidates: Callable[[float], Candidate | None],
    before: float | None,
    position: float,
    found: Candidate,
    acceptable: Acceptable,
) -> Candidate:
    """Bisect between a position that is not acceptable and one that is."""
    for _ in range(REFINEMENTS if before is not None else 0):
        middle = (before * position) ** 0.5  # type: ignore[operator]
        candidate = candidates(middle)
        if candidate is not None and acceptable(candidate):
            found, position = candidate, middle
        else:
            before = middle
    return found
