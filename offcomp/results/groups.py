"""Results of a survey on compressing modules together: tables of pairs and merges, the merge tree, and summaries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import nan
from typing import Any

import pandas as pd

from offcomp.models.families import KIND_TITLES
from offcomp.planning.merge_survey import BEST, Merge, Suggestion, Survey, best_cut, groups_after
from offcomp.results.scores import sentence_start

MARGIN = 0.08
"""Free space at each end of the tree's axis, as a fraction of its length."""
VERSIONS = ("offcomp", "torch", "numpy")
PAIR_COLUMNS = ("first", "second", "stack", "gain", "separate_error", "joint_error", "stored_parameters")
MERGE_COLUMNS = (
    *("merge", "one", "other", "stack", "modules", "gain", "error"),
    *("group_gain", "separate_error", "joint_error", "stored_parameters"),
)


def stem_and_layer(name: str) -> tuple[str, int | None]:
    """Split a module name: "query.3" becomes ("query", 3). The layer is None for a module outside the layers."""
    stem, _, layer = name.rpartition(".")
    return (stem, int(layer)) if stem and layer.isdecimal() else (name, None)


def stem_title(stem: str) -> str:
    """The display title of a kind, prefixed with the part of the model it belongs to, if any."""
    part, _, kind = stem.rpartition(".")
    return f"{part} {KIND_TITLES[kind]}".strip() if kind in KIND_TITLES else stem


def module_words(names: Iterable[str]) -> str:
    """Module names for display: "query 0-3 and key 1"."""
    layers_of: dict[str, list[int]] = {}
    for stem, layer in map(stem_and_layer, names):
        layers_of.setdefault(stem, []).extend([] if layer is None else [layer])
    return " and ".join(f"{stem_title(stem)} {', '.join(ranges(sorted(layers)))}".strip() for stem, layers in layers_of.items())


def ranges(numbers: Iterable[int]) -> list[str]:
    """Ranges of consecutive numbers, as text: ["0-3", "5"]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [f"{first}-{rest[-1]}" if rest else str(first) for first, *rest in runs]


def kinds_words(names: Iterable[str]) -> str:
    """The kinds of these modules, for display: "query and key"."""
    titles = list(dict.fromkeys(stem_title(stem_and_layer(name)[0]) for name in names))
    return " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)


def _all_words(names: Sequence[str]) -> str:
    """Phrase covering all of these modules: "attention output of all 6 layers" or "all 12 query and key modules"."""
    if len({stem_and_layer(name)[0] for name in names}) == 1 and len(names) > 1:
        return f"{kinds_words(names)} of all {len(names)} layers"
    return f"all {len(names)} {kinds_words(names)} modules"


def pair_table(survey: Survey, stack: str = BEST) -> pd.DataFrame:
    """One row per pair of modules, for this stacking or each pair's best. Values are NaN for pairs that cannot be stacked."""
    best: dict[frozenset[str], Suggestion] = {}
    for pair in sorted(survey.pairs, key=lambda pair: pair.gain, reverse=True):
        if stack in (BEST, pair.stack):
            best.setdefault(frozenset(pair.modules), pair)
    rows = []
    for first, second in combinations(survey.modules, 2):
        known = best.get(frozenset((first, second)))
        figures = (known.stack, *_gain_and_errors(known)) if known else ("", nan, nan, nan, None)
        rows.append((first, second, *figures))
    return pd.DataFrame(rows, columns=list(PAIR_COLUMNS)).astype({"stored_parameters": "Int64"})


def merge_table(survey: Survey, stack: str = BEST) -> pd.DataFrame:
    """One row per merge, in order: the merged parts, the gain, and the resulting relative error over all modules.

    `group_gain` and the columns after it compare the whole merged group with its modules compressed individually.
    """
    merges = survey.merges.get(stack, ())
    rows = []
    for number, merge in enumerate(merges, 1):
        first, second = (" ".join(_members(survey, merges, part)) for part in merge.parts)
        step = number, first, second, merge.joint.stack, len(merge.joint.modules), merge.gain, merge.error
        rows.append((*step, *_gain_and_errors(merge.joint)))
    return pd.DataFrame(rows, columns=list(MERGE_COLUMNS))


def _gain_and_errors(group: Suggestion) -> tuple[float, float, float, int]:
    return group.gain, group.separate_error, group.joint_error, group.stored_parameters


def _members(survey: Survey, merges: Sequence[Merge], node: int) -> tuple[str, ...]:
    count = len(survey.modules)
    return (survey.modules[node],) if node < count else merges[node - count].joint.modules


def tree_table(survey: Survey, stack: str = BEST) -> pd.DataFrame:
    """Coordinates of the tree's nodes, numbered as in `Merge.parts`: first the modules, then the merges.

    `x` is the smallest gain up to and including a merge, in thousandths, so it decreases from the leaves to the roots, and a
    vertical line can cut the tree after any number of merges. `y` is the row; merged modules are in adjacent rows.
    """
    merges, count = survey.merges.get(stack, ()), len(survey.modules)
    gains = [1000 * step.gain for step in merges]
    start = max([*gains, 0.0]) + MARGIN * spread_of(gains) * 2
    inner = {part for step in merges for part in step.parts}
    trees = [_leaves(node, merges, count) for node in range(count + len(merges)) if node not in inner]
    order = [leaf for leaves in sorted(trees, key=min) for leaf in leaves]
    x, y = [start] * count, [float(order.index(leaf)) for leaf in range(count)]
    for step, gain in zip(merges, gains, strict=True):
        x.append(min(gain, *x[count:]) if len(x) > count else gain)
        y.append(sum(y[part] for part in step.parts) / 2)
    names = [*survey.modules, *("" for _ in merges)]
    return pd.DataFrame({"node": range(len(x)), "module": names, "x": x, "y": y})


def spread_of(gains: Sequence[float]) -> float:
    """Length of the gain axis, which covers all gains and zero."""
    return (max([*gains, 0.0]) - min([*gains, 0.0])) or 1.0


def _leaves(node: int, merges: Sequence[Merge], count: int) -> list[int]:
    """Indices of the modules below a node; the part that contains the first module comes first."""
    if node < count:
        return [node]
    below = [_leaves(part, merges, count) for part in merges[node - count].parts]
    return [leaf for part in sorted(below, key=min) for leaf in part]


def survey_answer(survey: Survey, stack: str = BEST) -> str:
    """Describe how stacking all modules changes the error, starting with this stacking (or the best one)."""
    by_stack = {group.stack: group for group in survey.together}
    words = _all_words(survey.modules)
    if not by_stack or (stack != BEST and stack not in by_stack):
        return _pair_answer(survey, stack, words)
    chosen = by_stack[stack] if stack != BEST else max(by_stack.values(), key=lambda group: group.gain)
    others = [group for group in by_stack.values() if abs(group.joint_error - chosen.joint_error) > 1e-6]
    distinct = {round(group.joint_error, 6): group for group in reversed(others)}
    more = "".join(f"; with stacking by {group.stack}, it {_stacked(group, brief=True)}" for group in distinct.values())
    answer = f"With stacking by {chosen.stack}, the relative error of {words} {_stacked(chosen)} at the same size{more}."
    return answer + _smaller_groups(survey, stack, chosen.joint_error)


def _smaller_groups(survey: Survey, stack: str, error: float) -> str:
    """State whether the best cut of the tree, or no stacking at all, beats stacking all modules."""
    cut = best_cut(survey, stack)
    least = survey.merges[stack][cut - 1].error if cut else survey.error
    if cut and round(least, 3) < round(min(error, survey.error), 3):
        return f" With the best groups in the tree, the error falls to {least:.3f}."
    if round(survey.error, 3) >= round(error, 3):
        return ""
    if stack == BEST:
        return " Compressing each module separately is best."
    return f" No group stacked by {stack} has a lower error than separate matrices."


def _pair_answer(survey: Survey, stack: str, words: str) -> str:
    """Name the best pair, if any, for modules that cannot all be stacked into one matrix."""
    stacking = "in any way" if stack == BEST else f"by {stack}"
    start = f"{sentence_start(words)} cannot be stacked into one matrix {stacking}"
    pairs = [pair for pair in survey.pairs if stack in (BEST, pair.stack)]
    if not pairs:
        return f"{start}, and neither can any two of them."
    best = max(pairs, key=lambda pair: pair.gain)
    pair = f"{module_words(best.modules)}, stacked by {best.stack}"
    return f"{start}; the best pair is {pair}: its relative error {_stacked(best)}."


def _stacked(group: Suggestion, *, brief: bool = False) -> str:
    """Describe how stacking changes the error of a group; see `_change`."""
    return _change(group.separate_error, group.joint_error, brief=brief)


def _change(before: float, after: float, *, brief: bool = False) -> str:
    """Describe a change: "falls from 0.519 to 0.500", "falls to 0.500" if `brief`, or "stays at 0.500" if both round to it."""
    if f"{before:.3f}" == f"{after:.3f}":
        return f"stays at {before:.3f}"
    start = "" if brief else f"from {before:.3f} "
    return f"{'falls' if after < before else 'rises'} {start}to {after:.3f}"


def cut_answer(survey: Survey, stack: str, kept: int) -> str:
    """State in one sentence how the groups at the cut change the error over all modules."""
    merges = survey.merges[stack]
    if not kept:
        return f"No merges: with each module compressed separately, the overall relative error is {survey.error:.3f}."
    quantity = "all" if kept == len(merges) else "the first"
    number = f"{quantity} {kept} merges" if kept > 1 else f"the {'only' if kept == len(merges) else 'first'} merge"
    return f"With {number}, the relative error of {_all_words(survey.modules)} {_change(survey.error, merges[kept - 1].error)}."


def groups_at(survey: Survey, stack: str, kept: int) -> tuple[list[Suggestion], list[str]]:
    """The groups of two or more modules after `kept` merges, largest gain first, and the remaining modules."""
    groups = groups_after(survey.merges.get(stack, ()), kept, len(survey.modules))
    grouped = {name for group in groups for name in group.modules}
    return groups, [name for name in survey.modules if name not in grouped]


def group_words(group: Suggestion) -> str:
    """Describe how much a group gains or loses, and why."""
    verdict = f"gain {group.gain:.3f}" if group.gain > 0 else f"loss {-group.gain:.3f}"
    return f"{verdict}. {group.reason}"


def provenance(survey: Survey, origin: str) -> str:
    """One-line provenance of a survey: origin, model, ratio, versions and date."""
    versions = ", ".join(f"{name} {survey.environment[name]}" for name in VERSIONS if name in survey.environment)
    return f"{origin.capitalize()}: {survey.model} at {survey.ratio:g}x, {versions}, {survey.measured[:10]}"


def exported(table: pd.DataFrame, survey: Survey, origin: str) -> pd.DataFrame:
    """Add the model, ratio, versions and date to each row of a table of pairs or merges."""
    identity: dict[str, Any] = {"origin": origin, "model": survey.model, "fingerprint": survey.fingerprint}
    versions = {f"version_{name}": survey.environment.get(name, "") for name in VERSIONS}
    return table.assign(**identity, requested_ratio=survey.ratio, measured=survey.measured, **versions)
