"""Suggests changes that make a whole model small enough when the chosen groups and methods cannot.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator

from offcomp.methods import method_of_style_key, own_options
from offcomp.planning.plan import Group, Plan, make_groups
from offcomp.planning.sizes import predict
from offcomp.results.candidates import Family
from offcomp.results.targets import Target

MB = 1e6
NARROWER = ("float16", "int8")
OTHER_METHODS = ("trellis", "quantization")
"""Style keys of methods that store few bits per weight."""


def what_could_fit(family: Family, target: Target) -> str:
    """One sentence: the smallest whole model that the plan can reach, and a change that would reach the target."""
    smallest = smallest_bytes(family.plan, family)
    start = (
        f"the whole model takes at least {smallest / MB:.2f} MB with these groups and methods, because "
        f"{_rest(family) / MB:.2f} MB of it is not chosen; {target} could be reached"
    )
    sizes = [(words, smallest_bytes(plan, family)) for words, plan in _alternatives(family)]
    enough = [f"with {words} (at least {least / MB:.2f} MB)" for words, least in sizes if least <= target.value * MB]
    if not enough:
        words, least = min(sizes, key=lambda each: each[1])
        return f"{start.removesuffix(' could be reached')} is out of reach; the nearest is {least / MB:.2f} MB, with {words}"
    return f"{start} {' or '.join(enough)}"


def smallest_bytes(plan: Plan, family: Family) -> int:
    """Bytes of the whole model with every group at its smallest size."""
    prediction = predict(plan.replace(groups=tuple(group.at_ratio(1.0, "bytes") for group in plan.groups)), family.info)
    saved = sum(round(g.original_bytes - g.original_bytes / max(1.0, g.largest_ratio)) for g in prediction.groups)
    return prediction.model.whole.bytes_before - saved


def _rest(family: Family) -> int:
    """Bytes of the model outside the chosen groups."""
    sizes = family.at_ratio(1.0).prediction.model
    return sizes.whole.bytes_before - sizes.chosen.bytes_before


def _alternatives(family: Family) -> Iterator[tuple[str, Plan]]:
    """Plans that can compress the model further, each with a description: narrower storage, other methods, and more weights."""
    plan, info = family.plan, family.info
    for dtype in NARROWER:
        yield f"these groups stored in {dtype}", plan.replace(groups=tuple(g.replace(dtype=dtype) for g in plan.groups))
    chosen = {module for group in plan.groups for module in group.modules}
    others = [spec for spec in info.modules if spec.default and spec.name not in chosen]
    kinds = ", ".join(dict.fromkeys(spec.kind for spec in others))
    settings = {name: getattr(plan.groups[0], name) for name in ("method", "options", "dtype")}
    more = make_groups(others, "kind", **settings)
    if others:
        yield f"{kinds} compressed as well", plan.replace(groups=_together(plan.groups, more))
    for style_key in OTHER_METHODS:
        method = method_of_style_key(style_key)
        settings = {"method": method.name, "options": own_options(method), "unit": "bytes"}
        changed = tuple(group.at_ratio(2.0, "bytes").replace(**settings) for group in plan.groups)
        yield f"{method.title} instead of these methods", plan.replace(groups=changed)
        if others:
            extended = _together(changed, make_groups(others, "kind", **settings))
            yield f"{method.title} on these groups and on {kinds}", plan.replace(groups=extended)


def _together(first: tuple[Group, ...], second: tuple[Group, ...]) -> tuple[Group, ...]:
    """The groups of both lists, renamed where necessary so that names are unique."""
    taken = {group.name for group in first}
    return (*first, *(g.replace(name=f"{g.name}-too") if g.name in taken else g for g in second))
