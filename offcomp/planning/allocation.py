"""Allocate one budget across groups: uniformly, or by water-filling over their error curves. NumPy only.

    minimise Σ_g w_g E_g(s_g)   over stored sizes s_g with   Σ_g s_g <= total

E_g(s) is the squared error of group g at stored size s, taken from an `ErrorCurve`: every rank of an SVD in closed form, or
a few measured points for any other method. w_g makes errors comparable: 1 ("frobenius"), 1 / ‖W_g‖² ("relative"), or a
measured sensitivity times either.

Water-filling repeatedly takes the step that reduces the error most per stored unit. For convex curves this is optimal up to the
last step, so each curve is first replaced by its lower convex hull. A hull may jump from some rank below break-even straight to
the dense matrix, whose error is 0. The remaining budget is then spent on points off the hulls. This is repeated without the
dense candidates, and the uniform allocation is filled up in the same way; the best of the three results is returned, so it is
never worse than uniform in the metric it minimises.

Water-filling over spectra has been proposed in many forms, recently in SVD-LLM V2, Swift-SVD and ROCKET. The dense candidate,
the floors, and mixing methods in one budget are additions made here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal

import numpy as np
from numpy.typing import NDArray

from offcomp.errors import BudgetTooSmall, InputError
from offcomp.models.catalogue import ModelInfo
from offcomp.numerics.accounting import Size
from offcomp.planning.error_curves import ErrorCurve
from offcomp.planning.plan import Group, Plan
from offcomp.planning.sizes import predict_group

WEIGHTINGS = ("relative", "frobenius")
LONGEST_RATIO = 18  # significant digits of a float
Choice = NDArray[np.int64]
"""One index into `ErrorCurve.sizes` for each curve."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """The point chosen on each curve.

    names           group names
    sizes           stored size of each group, in the unit of the budget
    errors          squared error of each group
    objective       Σ w E
    relative_error  sqrt(Σ w E / Σ w ‖W‖²): the weighted relative error over all groups
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    errors: tuple[float, ...]
    objective: float
    relative_error: float

    @property
    def total(self) -> int:
        """Total stored size of all groups."""
        return sum(self.sizes)


def weights_for(
    curves: Sequence[ErrorCurve], weighting: str = "relative", sensitivities: Mapping[str, float] | None = None
) -> NDArray[np.float64]:
    """One weight per group: 1 for "frobenius", 1 / ‖W‖² for "relative"; multiplied by the group's sensitivity, if given.

    Raises InputError if the weighting is unknown, or a sensitivity is missing or not a positive number.
    """
    if weighting not in WEIGHTINGS:
        raise InputError(f"unknown weighting {weighting!r}; choose one of {', '.join(WEIGHTINGS)}")
    weights = np.array([1.0 if weighting == "frobenius" or curve.energy == 0 else 1 / curve.energy for curve in curves])
    if sensitivities is None:
        return weights
    for curve in curves:
        value = sensitivities.get(curve.name)
        if value is None or not (np.isfinite(value) and value > 0):
            raise InputError(f"the sensitivity of {curve.name!r} is {value!r}; it must be a positive number")
    return weights * [sensitivities[curve.name] for curve in curves]


def uniform(curves: Sequence[ErrorCurve], total: int, weights: NDArray[np.float64] | None = None) -> Allocation:
    """The same ratio for every group: each gets the largest point within its share of `total`.

    Raises BudgetTooSmall naming the first group whose smallest point exceeds its share.
    """
    return _allocation(curves, _uniform(curves, total), _default(curves, weights))


def _default(curves: Sequence[ErrorCurve], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    return weights_for(curves) if weights is None else np.asarray(weights, dtype=np.float64)


def _uniform(curves: Sequence[ErrorCurve], total: int) -> Choice:
    original = sum(curve.original for curve in curves)
    shares = [total * curve.original // original for curve in curves]
    choice = np.array([curve.largest_within(share) for curve, share in zip(curves, shares, strict=True)], dtype=np.int64)
    for curve, share, index in zip(curves, shares, choice, strict=True):
        if index < 0:
            raise BudgetTooSmall(
                f"group {curve.name!r} stores at least {curve.sizes[0]}, but its share of the total is {share}; "
                "lower the total ratio or its floor"
            )
    return choice


def waterfill(curves: Sequence[ErrorCurve], total: int, weights: NDArray[np.float64] | None = None) -> Allocation:
    """Minimise the weighted error within `total` (optimal up to the last step); `weights` default to "relative".

    Never worse than `uniform` at the same total, if that is feasible. Raises BudgetTooSmall if even the smallest points
    exceed the total.
    """
    weights = _default(curves, weights)
    least = sum(int(curve.sizes[0]) for curve in curves)
    if least > total:
        raise BudgetTooSmall(
            f"the groups store at least {least} together, but the total is {total}; lower the ratio or the floors"
        )
    starts = [_greedy(curves, total, weights), _greedy([curve.without_dense for curve in curves], total, weights)]
    with suppress(BudgetTooSmall):  # uniform may be infeasible even if water-filling is not
        starts.append(_uniform(curves, total))
    filled = [_fill(curves, start, total, weights) for start in starts]
    return min((_allocation(curves, choice, weights) for choice in filled), key=lambda found: (found.objective, found.total))


def _greedy(curves: Sequence[ErrorCurve], total: int, weights: NDArray[np.float64]) -> Choice:
    """Walk the hulls of all curves together, steepest step first; a group stops at its first step that does not fit."""
    hulls = [curve.hull for curve in curves]
    owner = np.repeat(np.arange(len(curves)), [len(hull) - 1 for hull in hulls])
    target = np.concatenate([hull[1:] for hull in hulls])
    cost = np.concatenate([np.diff(curve.sizes[hull]) for curve, hull in zip(curves, hulls, strict=True)])
    gain = np.concatenate(
        [-np.diff(curve.errors[hull]) * weight for curve, hull, weight in zip(curves, hulls, weights, strict=True)]
    )
    order = np.argsort(-gain / cost, kind="stable")
    left = total - sum(int(curve.sizes[0]) for curve in curves)
    choice = np.zeros(len(curves), dtype=np.int64)
    fitting = int(np.searchsorted(np.cumsum(cost[order]), left, side="right"))
    np.maximum.at(choice, owner[order[:fitting]], target[order[:fitting]])
    left -= int(cost[order[:fitting]].sum())
    stopped = np.zeros(len(curves), dtype=bool)
    for step in order[fitting:].tolist():
        if not stopped[owner[step]]:
            if cost[step] <= left:
                choice[owner[step]] = target[step]
                left -= int(cost[step])
            else:
                stopped[owner[step]] = True
    return choice


def _fill(curves: Sequence[ErrorCurve], choice: Choice, total: int, weights: NDArray[np.float64]) -> Choice:
    """Spend the remaining budget on the step with the largest gain per unit, on or off the hulls, until nothing fits."""
    choice = choice.copy()
    left = total - sum(int(curve.sizes[index]) for curve, index in zip(curves, choice, strict=True))
    while True:
        best, best_gain, best_target = -1, 0.0, 0
        for number, (curve, index, weight) in enumerate(zip(curves, choice.tolist(), weights.tolist(), strict=True)):
            reach = slice(index + 1, curve.largest_within(curve.sizes[index] + left) + 1)
            costs = curve.sizes[reach] - curve.sizes[index]
            if costs.size:
                gains = weight * (curve.errors[index] - curve.errors[reach]) / costs
                at = int(gains.argmax())
                if gains[at] > best_gain:
                    best, best_gain, best_target = number, float(gains[at]), index + 1 + at
        if best < 0:
            return choice
        left -= int(curves[best].sizes[best_target] - curves[best].sizes[choice[best]])
        choice[best] = best_target


def _allocation(curves: Sequence[ErrorCurve], choice: Choice, weights: NDArray[np.float64]) -> Allocation:
    sizes = tuple(int(curve.sizes[index]) for curve, index in zip(curves, choice, strict=True))
    errors = tuple(float(curve.errors[index]) for curve, index in zip(curves, choice, strict=True))
    objective = float(np.dot(weights, errors))
    energy = float(np.dot(weights, [curve.energy for curve in curves]))
    relative = float(np.sqrt(objective / energy)) if energy else 0.0
    return Allocation(tuple(curve.name for curve in curves), sizes, errors, objective, relative)


def smallest_total_for_error(
    curves: Sequence[ErrorCurve], relative_error: float, weights: NDArray[np.float64] | None = None
) -> Allocation:
    """The water-filled allocation with the smallest total whose weighted relative error is at most `relative_error`.

    Raises InputError if the error is negative or not a number, or no total reaches it.
    """
    weights = _default(curves, weights)
    largest = waterfill(curves, sum(int(curve.sizes[-1]) for curve in curves), weights)
    if not relative_error >= largest.relative_error:
        raise InputError(
            f"a relative error of {relative_error:g} is out of reach: at the largest sizes it is {largest.relative_error:.3g}"
        )
    return _bisect_total(
        lambda total: waterfill(curves, total, weights),
        lambda found: found.relative_error <= relative_error,
        sum(int(curve.sizes[0]) for curve in curves),
        largest,
    )


def _bisect_total(
    allocate: Callable[[int], Allocation], enough: Callable[[Allocation], bool], least: int, largest: Allocation
) -> Allocation:
    """Bisect for the smallest sufficient total. `largest` must be sufficient; larger totals are assumed never to be worse."""
    low, best = least - 1, largest
    while best.total - low > 1:
        found = allocate((low + best.total) // 2)
        if enough(found):
            best = found
        else:
            low = (low + best.total) // 2
    return best


def allocated_plan(plan: Plan, found: Allocation, info: ModelInfo, unit: str) -> Plan:
    """The plan with each group's ratio, in `unit`, set so that the group stores exactly its allocated size.

    Raises InputError if the groups are not those of the allocation, or a method cannot store exactly the allocated size.
    """
    if found.names != tuple(group.name for group in plan.groups):
        raise InputError(f"the allocation is for the groups {', '.join(found.names)}, which are not those of the plan")
    groups = (_with_size(group, size, info, unit) for group, size in zip(plan.groups, found.sizes, strict=True))
    return replace(plan, groups=tuple(groups))


def _with_size(group: Group, size: int, info: ModelInfo, unit: str) -> Group:
    """The group with the ratio of fewest digits at which it is predicted to store `size`."""
    whole = predict_group(replace(group, ratio=1.0, unit=unit), info)
    exact = Size(whole.original_parameters, whole.original_bytes).in_unit(unit) / size
    for digits in range(3, LONGEST_RATIO):
        step = Decimal(1).scaleb(Decimal(exact).adjusted() + 1 - digits)
        ratio = max(1.0, float(Decimal(exact).quantize(step, ROUND_DOWN)))
        asked = replace(group, ratio=ratio, unit=unit)
        stored = predict_group(asked, info)
        if stored.form != "infeasible" and Size(stored.num_parameters, stored.num_bytes).in_unit(unit) == size:
            return asked
    raise InputError(f"group {group.name!r} cannot store exactly {size} {unit}; allocate with the curve of its own method")


def error_for_loss(measured: Sequence[tuple[float, float]], loss: float) -> float:
    """The largest relative error whose expected accuracy loss is at most `loss`.

    `measured` holds (relative error, accuracy loss) pairs of the user's own runs, scored on validation examples and never on
    test examples. Losses are made monotonic by isotonic regression and interpolated linearly. Raises InputError if fewer than
    two different errors were measured, or the loss lies outside the measured range.
    """
    errors, losses = _isotonic(measured)
    if not losses[0] <= loss <= losses[-1]:
        raise InputError(
            f"an accuracy loss of {loss:g} is outside the measured range, {losses[0]:.3g} to {losses[-1]:.3g}; "
            "measure runs on both sides of it"
        )
    right = int(np.searchsorted(losses, loss, side="right"))
    if right == len(losses):
        return float(errors[-1])
    share = (loss - losses[right - 1]) / (losses[right] - losses[right - 1])
    return float(errors[right - 1] + share * (errors[right] - errors[right - 1]))


def _isotonic(measured: Sequence[tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(errors, losses), ascending, by pool adjacent violators (Ayer et al. 1955). Runs of equal error are averaged first."""
    points = np.array(measured, dtype=np.float64).reshape(-1, 2)
    errors, inverse = np.unique(points[:, 0], return_inverse=True)
    if len(errors) < 2 or not np.isfinite(points).all():
        raise InputError(f"{len(errors)} different relative errors were measured; give two or more with finite losses")
    counts = np.bincount(inverse).astype(np.float64)
    pools: list[list[float]] = []  # mean loss, runs, errors
    for mean, count in zip(np.bincount(inverse, points[:, 1]) / counts, counts, strict=True):
        pools.append([float(mean), float(count), 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            last, before = pools.pop(), pools.pop()
            runs = before[1] + last[1]
            pools.append([(before[0] * before[1] + last[0] * last[1]) / runs, runs, before[2] + last[2]])
    return errors, np.repeat([pool[0] for pool in pools], [int(pool[2]) for pool in pools])
