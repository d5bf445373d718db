"""Which groups of a plan are compressed in one call, because their method is faster on several matrices at once. No torch.

These are groups of equal shape, with the same method, options and budget. The results equal those of compressing each
group alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from offcomp.errors import BudgetTooSmall
from offcomp.methods import make_method
from offcomp.methods.base import choose_size
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.grouping import group_shape
from offcomp.planning.plan import Group, members
from offcomp.planning.sizes import group_budget

MAX_NUMBERS = 1 << 24
"""Maximum number of weights compressed together, 64 MB in float32: larger groups keep all cores busy on their own."""


def sets_of_groups(groups: Iterable[Group], info: ModelInfo) -> list[list[Group]]:
    """The groups, in sets that are compressed together. Sets and the groups in them are in the order of the plan."""
    sets: list[list[Group]] = []
    unfilled: dict[Any, list[Group]] = {}
    for group in groups:
        key, most = _key(group, info)
        found = unfilled.get(key)
        if key is None or found is None or len(found) >= most:
            found = []
            sets.append(found)
            unfilled[key] = found
        found.append(group)
    return sets


def _key(group: Group, info: ModelInfo) -> tuple[Any, int]:
    """A key shared by the groups of a set (None for a group that is compressed alone), and how many groups fit into the set."""
    method = make_method(group.method, group.options)
    if not method.trains_together:
        return None, 1
    rows, cols = group_shape(members(group, info), group.stack)
    budget = group_budget(group, info)
    try:
        size = choose_size(method, rows, cols, budget)
    except BudgetTooSmall:
        return None, 1  # reported when the group itself is compressed
    return ((method, rows, cols, budget) if size else None), MAX_NUMBERS // (rows * cols)
