"""What finished runs measured about compressing modules separately and together, with methods other than SVD.

The exact errors of the Groups page are those of SVD. The errors of other methods are known only where a run has measured them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from offcomp.methods import style_key_in_plan
from offcomp.planning.merge_survey import Survey
from offcomp.planning.plan import Group, Plan
from offcomp.results.known_errors import Measured
from offcomp.results.runs import result_of, title_of_style_key
from offcomp.runs.result import overall_error

ALIKE = 1.1
"""Ratios within this factor are considered equal."""
SEPARATE = "separately"
COLUMNS = ("method", "style_key", "grouping", "ratio", "relative_error", "run")
NEEDED = ("rmse", "rows", "cols", "squared_norm", "original_parameters", "num_parameters")


def grouping_table(measured: Sequence[Measured], survey: Survey) -> pd.DataFrame:
    """One row per method (except SVD) and per way of grouping exactly the surveyed modules, at about the survey's ratio.

    Bundled and finished runs count, including those that compressed more modules; newer runs take precedence.
    """
    rows: dict[tuple[str, str], tuple[Any, ...]] = {}
    for each in measured:
        groups = _groups_of(each.run.plan, frozenset(survey.modules))
        style_keys = {style_key_in_plan(group.method, group.options) for group in groups}
        figures = _figures(each, groups) if len(style_keys) == 1 and style_keys != {"svd"} else None
        if figures is None:
            continue
        (style_key,), (ratio, error), grouping = style_keys, figures, _grouping(groups)
        if 1 / ALIKE <= ratio / survey.ratio <= ALIKE:
            row = (title_of_style_key(style_key), style_key, grouping, ratio, error, each.run.id)
            rows.setdefault((style_key, grouping), row)
    table = pd.DataFrame(list(rows.values()), columns=list(COLUMNS))
    return table.sort_values(["style_key", "relative_error"]).reset_index(drop=True)


def _groups_of(plan: Plan, modules: frozenset[str]) -> list[Group]:
    """The groups of a plan that contain exactly these modules and nothing else; empty if there are none."""
    groups = [group for group in plan.groups if modules.issuperset(group.modules)]
    return groups if {name for group in groups for name in group.modules} == modules else []


def _figures(measured: Measured, groups: Sequence[Group]) -> tuple[float, float] | None:
    """Parameter ratio and relative error of some groups of a run; None if the run lacks the figures, as parts of sweeps do."""
    if len(groups) == len(measured.run.plan.groups):
        return measured.ratio("parameters"), measured.relative_error
    names = {group.name for group in groups}
    results = [group for group in result_of(measured.run).groups if group.name in names]
    if len(results) < len(groups) or not all(hasattr(group, name) for group in results for name in NEEDED):
        return None
    original, stored = (sum(getattr(group, name) for group in results) for name in NEEDED[-2:])
    return original / stored, overall_error(results)


def _grouping(groups: Sequence[Group]) -> str:
    """How modules were grouped: "separately", "one group by rows", "3 groups"."""
    if all(len(group.modules) == 1 for group in groups):
        return SEPARATE
    return f"one group by {groups[0].stack}" if len(groups) == 1 else f"{len(groups)} groups"


def grouping_answer(table: pd.DataFrame, survey: Survey) -> str:
    """State for each method its error with the modules separate and grouped, or that no run has compared this."""
    clauses = list(_clauses(table))
    if not clauses:
        return (
            f"No finished run compresses exactly these modules with another method at about {survey.ratio:g}x. "
            "Use the groups above and run them with any method to find out."
        )
    return f"{'; '.join(clauses)} (measured at about {survey.ratio:g}x)."


def _clauses(table: pd.DataFrame) -> Iterator[str]:
    for method, rows in table.groupby("method", sort=False):
        errors = dict(zip(rows["grouping"], rows["relative_error"], strict=True))
        separate = errors.pop(SEPARATE, None)
        grouped = ", ".join(f"{error:.3f} in {grouping}" for grouping, error in errors.items())
        if separate is None:
            yield f"{method}: relative error {grouped}, not measured separately"
        else:
            yield f"{method}: relative error {separate:.3f} separately, {grouped or 'not measured in groups'}"
