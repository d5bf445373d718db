"""Plans that meet a target: the smallest that loses no more than allowed, or the most accurate that fits.

    propose(plan, parse_target("lose 1 point of similarity"), info, home, measured)

The plan keeps its groups, methods and dtypes; only sizes change. With `allocate`, sizes differ between the groups: they are
water-filled (`offcomp.planning.allocation`). The weighting SCORE needs plain SVD with known singular values, and weights groups
by how much the task depends on them if enough scores have been measured. SENSITIVITY suits every method, and minimises the
loss of the whole model as predicted from sensitivities. If sizes cannot be allocated, every group gets the same ratio.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from offcomp.errors import InputError, shortly
from offcomp.methods import SVD, make_method
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.allocation import smallest_total_for_error, weights_for
from offcomp.planning.data.metrics import METRICS
from offcomp.planning.data.tasks import Task
from offcomp.planning.plan import Plan
from offcomp.planning.ranks import with_known_ranks
from offcomp.planning.sizes import GroupPrediction, predict_group
from offcomp.planning.spectrum import Spectrum
from offcomp.results.candidates import Candidate, Family, smallest
from offcomp.results.known_errors import Measured
from offcomp.results.known_scores import KnownScore
from offcomp.results.runs import group_title
from offcomp.results.sentences import smaller
from offcomp.results.smaller_choices import what_could_fit
from offcomp.results.targets import SCORE, SENSITIVITY, Target, task_of
from offcomp.runs.sensitivity import Sensitivities, find

MB = 1e6
ABOUT = 1.15
"""Groups whose ratio is within this factor of the overall ratio are kept at about that ratio."""
TYPICAL_RATIO = 4.0


@dataclass(frozen=True)
class Proposal:
    """A plan that meets a target.

    reasons     group name -> one sentence on its size
    error       relative error over all chosen weights, exact, measured or estimated; None if unknown
    expected    the score on the target's task or, if it names none, on the plan's first task; None if unknown
    notes       sentences on the whole plan
    """

    plan: Plan
    reasons: dict[str, str]
    error: float | None
    expected: KnownScore | None
    notes: tuple[str, ...] = field(default=())


def propose(
    plan: Plan,
    target: Target,
    info: ModelInfo,
    home: Path,
    measured: Sequence[Measured],
    *,
    allocate: bool = False,
    weighting: str = SCORE,
) -> Proposal:
    """The plan that meets a target with the smallest stored size; if the target is a size, the largest plan that fits.

    home        where singular values and sensitivities are cached; the former must be known for targets of error or loss
    measured    all measurements on these weights, from `known_errors.measured_of`
    allocate    spend the budget where it matters most, instead of using the same ratio for every group
    weighting   with `allocate`, one of `targets.WEIGHTINGS`; SENSITIVITY needs the sensitivities of all groups

    Raises InputError if the target cannot be reached, naming the nearest value that can, or if something is missing.
    """
    if not plan.groups:
        raise InputError("the plan has no groups whose size can be chosen; add at least one")
    by_sensitivity = allocate and weighting == SENSITIVITY and len(plan.groups) > 1
    sensitivities = _sensitivities(plan, info, home) if by_sensitivity else {}
    family = Family(plan, info, home, measured, _unit(plan, target, info), sensitivities)
    task = task_of(target, plan, info) if target.kind == "loss" else next(iter(plan.resolved_tasks), None)
    weights = family.weights(task) if allocate and family.can_allocate else None
    found = _found(family, target, task, weights)
    notes = _notes(found, target, task, allocate=allocate, weighted=weights is not None)
    expected = found.score(task) if task else None
    return Proposal(found.plan, _reasons(found, allocated=weights is not None), found.error, expected, notes)


def _sensitivities(plan: Plan, info: ModelInfo, home: Path) -> Sensitivities:
    """The cached sensitivities of all groups. Raises InputError if some are missing."""
    found = find(plan, info, home)
    if unknown := [group.name for group in plan.groups if group.name not in found]:
        raise InputError(
            f"the sensitivity of {shortly(unknown)} has not been measured yet; measure it with 'offcomp sensitivity' first"
        )
    return found


def _unit(plan: Plan, target: Target, info: ModelInfo) -> str:
    """Bytes for a target in megabytes, and for methods that do not save parameters; otherwise the unit of the plan."""
    unit = plan.groups[0].unit
    saves = (predict_group(group.at_ratio(1.0, unit), info).largest_ratio > 1 for group in plan.groups)
    return unit if target.kind != "megabytes" and all(saves) else "bytes"


def _found(family: Family, target: Target, task: Task | None, weights: np.ndarray | None) -> Candidate:
    if target.kind == "error":
        return _for_error(family, target, weights)
    if target.kind == "loss" and task is not None:
        return _for_loss(family, target, task, weights)
    if target.kind == "megabytes":
        return _for_megabytes(family, target, weights)
    found = _as_requested(family, target)
    if weights is None:
        return found
    total = found.prediction.model.chosen.after(family.unit)
    return family.with_total(total, weights) or found


def _as_requested(family: Family, target: Target) -> Candidate:
    """Every group at the same ratio, rank or share of the energy."""
    if target.kind == "ratio":
        found = family.at_ratio(target.value)
    else:
        value = int(target.value) if target.kind == "rank" else target.value
        groups = tuple(group.at_ratio(group.ratio, family.unit).replace(**{target.kind: value}) for group in family.plan.groups)
        found = family.candidate(with_known_ranks(family.plan.replace(groups=groups), family.info, family.home))
    if not found.prediction.feasible:
        raise InputError(f"{target} cannot be reached: the largest ratio of these groups is {family.largest_ratio:.4g}x")
    return found


def _for_megabytes(family: Family, target: Target, weights: np.ndarray | None) -> Candidate:
    """The largest candidate that keeps the whole model within the target size."""
    whole = family.at_ratio(1.0).prediction.model
    rest = whole.whole.bytes_before - whole.chosen.bytes_before
    limit = int(target.value * MB) - rest
    found = family.with_total(limit, weights) if weights is not None and limit > 0 else None
    if found is None:
        positions = family.ratios()[::-1]
        fitting = [(ratio, each) for ratio in positions if (each := family.at_ratio(ratio)).whole_bytes <= target.value * MB]
        found = _largest_fitting(family, target.value * MB, *fitting[0]) if fitting else None
    if found is None:
        raise InputError(what_could_fit(family, target))
    return found


def _largest_fitting(family: Family, limit: float, ratio: float, found: Candidate) -> Candidate:
    """Lower the ratio of a candidate as far as possible while it still fits."""
    positions = [each for each in family.ratios() if each <= ratio]
    below = positions[1] if len(positions) > 1 else ratio
    for _ in range(20):
        middle = (below * ratio) ** 0.5
        candidate = family.at_ratio(middle)
        if candidate.prediction.feasible and candidate.whole_bytes <= limit:
            found, ratio = candidate, middle
        else:
            below = middle
    return found


def _for_error(family: Family, target: Target, weights: np.ndarray | None) -> Candidate:
    """The smallest candidate whose relative error is at most the target's."""
    if weights is not None and not family.sensitivities:
        equal = weights_for(family.curves, "frobenius")  # the error over all chosen weights counts, not that of a task
        total = smallest_total_for_error(family.curves, target.value, equal).total
        found = family.with_total(total, equal)
    else:
        candidates = family.at_ratio if weights is None else lambda total: family.with_total(total, weights)
        positions = family.ratios() if weights is None else family.totals()
        found = smallest(candidates, positions, lambda each: each.error is not None and each.error <= target.value)
    if found is None or not found.saves:
        _need_errors(family)
        known = [each for ratio in family.ratios() if (each := family.at_ratio(ratio)).saves and each.error is not None]
        nearest = min(known, key=lambda each: each.error or 0.0)
        raise InputError(
            f"no size below that of the original reaches a relative error of {target.value:g}; the nearest is "
            f"{nearest.error:.3g}, with the chosen weights {nearest.smaller_text}"
        )
    return found


def _for_loss(family: Family, target: Target, task: Task, weights: np.ndarray | None) -> Candidate:
    """The smallest candidate whose expected loss is at most the target's."""
    metric = METRICS[task.kind.metric]
    if not target.relative and metric.least > 0:
        raise InputError(
            f"a {metric.word} is not measured in points; give the loss as a percentage, such as 'lose 5 % of {task.name}'"
        )

    def loss(candidate: Candidate) -> float | None:
        score = candidate.score(task) if candidate.errors is not None else None
        return None if score is None else score.loss / (score.original if target.relative else 1.0)

    candidates = family.at_ratio if weights is None else lambda total: family.with_total(total, weights)
    positions = family.ratios() if weights is None else family.totals()
    tried = positions if weights is None else [positions[0], positions[-1]]  # with SVD, a larger size never increases the loss
    found = smallest(candidates, tried, lambda each: (lost := loss(each)) is not None and lost <= target.value)
    if found is None or not found.saves:
        _need_errors(family)
        saving = [each for position in positions if (each := candidates(position)) is not None and each.saves]
        losses = [(lost, each) for each in saving if (lost := loss(each)) is not None]
        if not losses:
            raise InputError(
                f"the score on {task.name} cannot be estimated for these groups, since too few plans for this model have been "
                "scored on it; run some plans at different ratios with this task first"
            )
        least, nearest = min(losses, key=lambda pair: pair[0])
        raise InputError(
            f"no size below that of the original meets '{target}': the smallest expected loss is {_loss_text(least, target)}, "
            f"with the chosen weights {nearest.smaller_text}; allow a larger loss, choose fewer groups or another method, or "
            "allocate sizes per group"
        )
    return found


def _loss_text(loss: float, target: Target) -> str:
    return f"{100 * loss:.2g} {'%' if target.relative else 'points'}"


def _need_errors(family: Family) -> None:
    """Raise InputError if no error of the family is known, since every search needs one."""
    if family.spectra is None:
        raise InputError("the singular values of these groups are not known yet; compute them with 'offcomp spectra' first")
    if all(family.at_ratio(ratio).errors is None for ratio in family.ratios()):
        title = group_title(family.plan.groups[0])
        ratio = min(TYPICAL_RATIO, round(family.largest_ratio / 2, 1))
        raise InputError(
            f"this target needs a measured error of {title} on these groups or on others of this model; "
            f"run this plan once at {max(1.0, ratio):g}x, then try again"
        )


# ---------------------------------------------------------------------------------------------------------------- sentences


def _reasons(found: Candidate, *, allocated: bool) -> dict[str, str]:
    overall = found.prediction.model.chosen.ratio(found.family.unit) if allocated else None
    spectra: Sequence[Spectrum | None] = found.family.spectra or [None] * len(found.plan.groups)
    plain = [make_method(group.method, group.options) == SVD() for group in found.plan.groups]
    return {
        group.name: _reason(group, spectrum if exact else None, overall)
        for group, spectrum, exact in zip(found.prediction.groups, spectra, plain, strict=True)
    }


def _reason(group: GroupPrediction, spectrum: Spectrum | None, overall: float | None) -> str:
    """One sentence on the size of a group; `overall` is the ratio of all groups together if sizes were allocated."""
    if group.form == "dense":
        kept = "left as it is"
        return f"{kept}: compressing it would cost more accuracy per byte than compressing the others" if overall else kept
    size = f"kept at {group.size_name} {group.size}"
    if spectrum is not None:
        energy = np.square(spectrum, dtype=np.float64)
        size += f" of {len(energy)}: {100 * energy[: group.size].sum() / energy.sum():.0f} % of its energy"
    if overall is None:
        return size
    if group.compression_ratio * ABOUT < overall:
        return f"{size}; larger than most, since its error costs most per byte"
    if group.compression_ratio > ABOUT * overall:
        return f"{size}; smaller than most, since its error costs least per byte"
    return f"{size}; about as small as the others"


def _notes(found: Candidate, target: Target, task: Task | None, *, allocate: bool, weighted: bool) -> tuple[str, ...]:
    model, notes = found.prediction.model, list[str]()
    after, before = model.whole.bytes_after / MB, model.whole.bytes_before / MB
    parameters, num_bytes = smaller(model.chosen.parameter_ratio), smaller(model.chosen.byte_ratio)
    notes.append(
        f"The whole model takes {after:.2f} MB instead of {before:.2f} MB; the chosen weights are {parameters} in parameters "
        f"and {num_bytes} in bytes."
    )
    if allocate and not weighted:
        notes.append(
            "Every group has the same ratio: sizes are allocated only if there are at least two groups, and if these use plain "
            "SVD or have measured sensitivities."
        )
    if found.loss_sentence:
        notes.append(found.loss_sentence)
    elif weighted:
        by_score = target.kind != "error" and task is not None and found.family.knows_scores(task)
        cost = f"the score on {task.name}, as estimated from measured scores" if by_score and task else "the energy"
        notes.append(f"Sizes are allocated so that each byte is spent where it does most to preserve {cost}.")
    if found.error is not None:
        notes.append(f"The relative error over all chosen weights is {found.error:.3f}.")
    return tuple(notes)
