"""Allocate a budget across groups, uniformly or by water-filling over their error curves. Requires only NumPy.

    minimise Σ_g w_g E_g(s_g)   over stored sizes s_g with   Σ_g s_g <= total

E_g(s) is the squared error of group g at stored size s, read from its `ErrorCurve`. For SVD, it is known in closed form at
every rank; for other methods, it is measured at a few sizes. The weights w_g make errors comparable across groups: 1
("frobenius") or 1 / ‖W_g‖² ("relative"), optionally multiplied by a measured sensitivity. If the errors on the curves are
predicted losses of the whole model (`offcomp.runs.sensitivity`), all weights are 1.

Water-filling repeatedly takes the step that reduces the error most per unit of stored size. For convex curves this is optimal
up to the last step, so each curve is first replaced by its lower convex hull. A hull may jump straight from a rank below
break-even to the dense matrix, whose error is 0. Any remaining budget is then spent on points that are not on the hulls. A
second allocation is computed without the dense matrices, and a third starts from the uniform allocation and spends the
remaining budget. The best of the three is returned, so the weighted error is never larger than that of the uniform allocation.

Water-filling over spectra has been proposed in many forms, recently in SVD-LLM V2, Swift-SVD and ROCKET. Three features are
specific to offcomp: dense matrices as candidates, minimum sizes (floors), and different methods within one budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
MAX_RATIO_LENGTH = 18  # exclusive: 17 significant digits uniquely identify any float
Choice = NDArray[np.int64]
"""One index into `ErrorCurve.sizes` for each curve."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """The stored size and error chosen for each group.

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
    """One weight per group: 1 for "frobenius" or 1 / ‖W‖² for "relative", multiplied by the group's sensitivity if provided.

    Raises InputError if the weighting is unknown, or if a sensitivity is missing or not a positive number.
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


def uniform(curves: Sequence[ErrorCurve], total: int, weights: NDArray[np.float64]) -> Allocation:
    """Apply the same ratio to every group: each gets the largest size within its share of `total`.

    Raises BudgetTooSmall, naming the first group whose smallest size exceeds its share.
    """
    return _allocation(curves, _uniform(curves, total), weights)


def of_sizes(curves: Sequence[ErrorCurve], sizes: Sequence[int], weights: NDArray[np.float64]) -> Allocation:
    """An allocation with given sizes, such as those from other curves: each group gets the largest point that fits its size.

    Raises BudgetTooSmall, naming the first group whose smallest point exceeds the given size.
    """
    choice = [curve.largest_within(size) for curve, size in zip(curves, sizes, strict=True)]
    for curve, size, index in zip(curves, sizes, choice, strict=True):
        if index < 0:
            raise BudgetTooSmall(f"group {curve.name!r} needs at least {curve.sizes[0]}, but its size is {size}")
    return _allocation(curves, np.array(choice, dtype=np.int64), weights)


def _uniform(curves: Sequence[ErrorCurve], total: int) -> Choice:
    original = sum(curve.original for curve in curves)
    choice = []
    for curve in curves:
        share = total * curve.original // original
        choice.append(curve.largest_within(share))
        if choice[-1] < 0:
            raise BudgetTooSmall(
                f"group {curve.name!r} needs at least {curve.sizes[0]}, but its share of the total is {share}; "
                "lower the overall ratio or the group's floor"
            )
    return np.array(choice, dtype=np.int64)


def waterfill(curves: Sequence[ErrorCurve], total: int, weights: NDArray[np.float64]) -> Allocation:
    """Minimise the weighted error for a stored size of at most `total` (optimal up to the last step).

    The error is never larger than that of `uniform` for the same total, if the uniform allocation is feasible. Raises
    BudgetTooSmall if the smallest sizes of all groups add up to more than the total.
    """
    least = sum(int(curve.sizes[0]) for curve in curves)
    if least > total:
        raise BudgetTooSmall(
            f"the groups together need at least {least}, but the total is {total}; lower the ratio or the floors"
        )
    starts = [_greedy(curves, total, weights), _greedy([curve.without_dense for curve in curves], total, weights)]
    with suppress(BudgetTooSmall):  # uniform may be infeasible even if water-filling is not
        starts.append(_uniform(curves, total))
    filled = [_allocation(curves, _fill(curves, start, total, weights), weights) for start in starts]
    return min(filled, key=lambda allocation: (allocation.objective, allocation.total))


def _greedy(curves: Sequence[ErrorCurve], total: int, weights: NDArray[np.float64]) -> Choice:
    """Take hull steps across all curves, steepest first; each group stops at its first step that does not fit the budget."""
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
    """Repeatedly take the step with the largest gain per unit of size, on or off the hulls, until no step fits the budget."""
    choice = choice.copy()
    left = total - sum(int(curve.sizes[index]) for curve, index in zip(curves, choice, strict=True))
    while True:
        best, best_gain, best_target = -1, 0.0, 0
        for number, (curve, index, weight) in enumerate(zip(curves, choice.tolist(), weights.tolist(), strict=True)):
            reach = slice(index + 1, curve.largest_within(curve.sizes[index] + left) + 1)
            costs = curve.sizes[reach] - curve.sizes[index]
            if costs.size:
                gains = weight * (curve.errors[index] - curve.errors[reach]) / costs
                steepest = int(gains.argmax())
                if gains[steepest] > best_gain:
                    best, best_gain, best_target = number, float(gains[steepest]), index + 1 + steepest
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


def smallest_total_for_error(curves: Sequence[ErrorCurve], relative_error: float, weights: NDArray[np.float64]) -> Allocation:
    """The smallest water-filled allocation whose weighted relative error is at most `relative_error`.

    Found by bisection, which assumes that a larger total never increases the error. Raises InputError if the error is negative
    or NaN, or if it cannot be reached.
    """
    best = waterfill(curves, sum(int(curve.sizes[-1]) for curve in curves), weights)
    if not relative_error >= best.relative_error:
        raise InputError(
            f"a relative error of {relative_error:g} cannot be reached; the smallest possible is {best.relative_error:.3g}"
        )
    too_small = sum(int(curve.sizes[0]) for curve in curves) - 1
    while best.total - too_small > 1:
        middle = (too_small + best.total) // 2
        allocation = waterfill(curves, middle, weights)
        if allocation.relative_error <= relative_error:
            best = allocation
        else:
            too_small = middle
    return best


def allocated_plan(plan: Plan, allocation: Allocation, info: ModelInfo, unit: str) -> Plan:
    """A copy of the plan in which each group has the ratio, measured in `unit`, that yields exactly its allocated size.

    Raises InputError if the plan and the allocation have different groups, or if a method cannot produce an allocated size.
    """
    if allocation.names != tuple(group.name for group in plan.groups):
        raise InputError(f"the allocation is for groups {', '.join(allocation.names)}, which do not match those in the plan")
    groups = (_with_size(group, size, info, unit) for group, size in zip(plan.groups, allocation.sizes, strict=True))
    return plan.replace(groups=tuple(groups))


def _with_size(group: Group, size: int, info: ModelInfo, unit: str) -> Group:
    """A copy of the group with the shortest decimal ratio for which the predicted stored size is `size`."""
    whole = predict_group(group.at_ratio(1.0, unit), info)
    exact = Size(whole.original_parameters, whole.original_bytes).in_unit(unit) / size
    for digits in range(3, MAX_RATIO_LENGTH):
        step = Decimal(1).scaleb(Decimal(exact).adjusted() + 1 - digits)
        ratio = max(1.0, float(Decimal(exact).quantize(step, ROUND_DOWN)))
        candidate = group.at_ratio(ratio, unit)
        stored = predict_group(candidate, info)
        if stored.form != "infeasible" and Size(stored.num_parameters, stored.num_bytes).in_unit(unit) == size:
            return candidate
    raise InputError(f"group {group.name!r} cannot be stored in exactly {size} {unit}; use the error curve of its method")


def error_for_loss(measured: Sequence[tuple[float, float]], loss: float) -> float:
    """The largest relative error whose expected accuracy loss is at most `loss`.

    `measured` contains (relative error, accuracy loss) pairs from the user's own runs, scored on validation examples, never
    on test examples. Losses are made monotonic by isotonic regression and interpolated linearly. Raises InputError if fewer
    than two distinct errors were measured, or if `loss` is outside the measured range.
    """
    errors, losses = _isotonic(measured)
    if not losses[0] <= loss <= losses[-1]:
        raise InputError(
            f"an accuracy loss of {loss:g} is outside the measured range, {losses[0]:.3g} to {losses[-1]:.3g}; "
            "add runs with smaller or larger losses"
        )
    return float(np.interp(loss, losses, errors))  # the largest of the errors with this loss


def _isotonic(measured: Sequence[tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sorted errors and monotonic losses (isotonic regression, Ayer et al., 1955); losses at equal errors are averaged."""
    from scipy.optimize import isotonic_regression

    points = np.array(measured, dtype=np.float64).reshape(-1, 2)
    errors, inverse = np.unique(points[:, 0], return_inverse=True)
    if len(errors) < 2 or not np.isfinite(points).all():
        raise InputError(f"{len(errors)} distinct relative errors were measured; at least two with finite losses are needed")
    counts = np.bincount(inverse).astype(np.float64)
    return errors, isotonic_regression(np.bincount(inverse, points[:, 1]) / counts, weights=counts).x
