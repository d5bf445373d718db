"""Plans of several methods at the same stored size in bytes, so that their errors and scores can be compared. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from offcomp.models.catalogue import ModelInfo
from offcomp.planning.plan import Plan
from offcomp.planning.sizes import Prediction, predict

K = TypeVar("K")
HALVINGS = 18
"""Bisection steps for a ratio; enough for a precision of one part in ten thousand."""
ALIKE = 1.05
"""Sizes within this factor are considered equal."""
DIGITS = 6


def equalised(plans: Mapping[K, Plan], info: ModelInfo) -> dict[K, Plan]:
    """Give all plans about the same size, at most that of the smallest plan, with one ratio for all groups of a plan.

    Some methods support only a few sizes, such as whole numbers of bits. The common size is therefore that of the plan
    which ends up furthest below this limit, and larger plans are reduced until they exceed it by at most 5 %. If a plan cannot
    be made as small as the smallest one, its smallest size is the limit for all.
    """
    sizes = {key: predict(plan, info) for key, plan in plans.items() if plan.groups}
    if not sizes:
        return dict(plans)
    smallest = {key: _smallest(plans[key], info) for key in sizes}
    requested = [_bytes(each) for each in sizes.values() if each.feasible]
    limit = max(min(requested, default=0), *smallest.values())
    fitted = {key: _largest_within(plans[key], limit, info) for key in sizes}
    stored = {key: _bytes(predict(plan, info)) for key, plan in fitted.items()}
    common = int(ALIKE * min(stored.values()))
    return {
        key: _largest_within(plan, common, info) if stored.get(key, 0) > common else fitted.get(key, plan)
        for key, plan in plans.items()
    }


def _bytes(prediction: Prediction) -> int:
    """Stored size of the chosen modules."""
    return prediction.model.chosen.bytes_after


def _at(plan: Plan, ratio: float) -> Plan:
    return plan.replace(groups=tuple(group.at_ratio(float(f"{ratio:.{DIGITS}g}"), "bytes") for group in plan.groups))


def _smallest(plan: Plan, info: ModelInfo) -> int:
    """The smallest size of the plan if every group has the same ratio."""
    return _bytes(predict(_at(plan, _largest_ratio(plan, info)), info))


def _largest_ratio(plan: Plan, info: ModelInfo) -> float:
    return max(1.0, min(group.largest_ratio for group in predict(_at(plan, 1.0), info).groups) * (1 - 10.0 ** (1 - DIGITS)))


def _largest_within(plan: Plan, limit: int, info: ModelInfo) -> Plan:
    """The plan at the smallest ratio at which its groups together take at most `limit` bytes."""
    low, high = 1.0, _largest_ratio(plan, info)
    if _bytes(predict(_at(plan, low), info)) <= limit:
        return _at(plan, low)
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        if _bytes(predict(_at(plan, middle), info)) <= limit:
            high = middle
        else:
            low = middle
    return _at(plan, high)
