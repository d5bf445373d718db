"""Caveats about the sizes in predictions and finished runs, one sentence each. No torch.

For example, a ratio may be smaller in bytes than in parameters, savings in bytes may come from a narrower dtype rather than the
method, and a method with few possible sizes may store much less than requested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Group = Mapping[str, Any]
"""The values of one group: a `GroupPrediction` as a dictionary, or an entry of `groups` in run.json."""

NOTICEABLE = 1.05
"""Byte and parameter ratios that differ by less than this factor are treated as equal."""
MUCH_SMALLER = 1.1
"""A note is shown if the actual ratio exceeds the requested ratio by more than this factor."""
MOST_NAMED = 3


def size_notes(groups: Sequence[Group]) -> list[str]:
    """Notes on these groups, one sentence per kind of note. Groups from older runs are skipped if they lack a required key."""
    kept = [group for group in groups if group["form"] != "infeasible"]
    notes = (_sentence([g for g in kept if needed <= g.keys()], applies, words) for needed, applies, words in NOTES)
    return [note for note in notes if note]


def unlisted_note(unlisted: int, num_parameters: int) -> str:
    """A sentence stating how many of the model's parameters are in unlisted tensors; empty if there are no such tensors."""
    if not unlisted:
        return ""
    share = 100 * unlisted / num_parameters
    return (
        f"{unlisted:,} parameters, {share:.2g} % of the model, are in tensors that are not matrices (convolutions, "
        "stacked experts and so on) and stay unchanged; they count only towards the size of the whole model."
    )


def _sentence(groups: Sequence[Group], applies: Callable[[Group], bool], words: Callable[[Sequence[Group]], str]) -> str:
    """A note prefixed with the names of the groups to which it applies; empty if it applies to none."""
    concerned = [group for group in groups if applies(group)]
    if not concerned:
        return ""
    names = ", ".join(group["name"] for group in concerned[:MOST_NAMED])
    more = f" and {len(concerned) - MOST_NAMED} more" if len(concerned) > MOST_NAMED else ""
    return f"{names}{more}: {words(concerned)}."


def _ratio(groups: Sequence[Group], what: str, stored: str = "") -> float:
    """Ratio of original to stored size over all of these groups, in "parameters" or "bytes"."""
    return float(sum(group[f"original_{what}"] for group in groups) / sum(group[stored or f"num_{what}"] for group in groups))


def _dtypes(groups: Sequence[Group]) -> tuple[str, str]:
    """The dtypes in which these groups are stored, and their original dtypes in the checkpoint."""
    stored, own = (" and ".join(dict.fromkeys(group[key] for group in groups)) for key in ("dtype", "original_dtypes"))
    return stored, own


def _fewer_bytes(groups: Sequence[Group]) -> str:
    stored, own = _dtypes(groups)
    less = f"{_ratio(groups, 'parameters'):.3g}x in parameters is {_ratio(groups, 'bytes'):.3g}x in bytes"
    return f"{less}, because weights are stored as {stored}, but the checkpoint uses {own}"


def _narrower(groups: Sequence[Group]) -> str:
    stored, own = _dtypes(groups)
    whole, compressed = _ratio(groups, "bytes"), _ratio(groups, "bytes", "bytes_in_own_dtype")
    return (
        f"of the {whole:.3g}x reduction in bytes, {whole / compressed:.3g}x comes from storing {stored} instead of {own}, "
        f"and only {compressed:.3g}x from the method"
    )


def _smaller_than_requested(groups: Sequence[Group]) -> str:
    requested, stored = (_range([group[key] for group in groups]) for key in ("requested_ratio", "compression_ratio"))
    return f"the requested ratio is {requested}, but the actual ratio is {stored}: the method has no size closer to the budget"


def _range(ratios: Sequence[float]) -> str:
    low, high = f"{min(ratios):.3g}x", f"{max(ratios):.3g}x"
    return low if low == high else f"{low} to {high}"


def _worse_than_zeros(groups: Sequence[Group]) -> str:
    worst = max(group["relative_error"] for group in groups)
    return f"the relative error is {worst:.3g}; above 1, a matrix of zeros would be closer to the original"


SIZES = {"original_parameters", "original_bytes", "num_parameters", "num_bytes", "bytes_in_own_dtype"}
NOTES: tuple[tuple[set[str], Callable[[Group], bool], Callable[[Sequence[Group]], str]], ...] = (
    (
        {"unit", "dtype", "original_dtypes"} | SIZES,
        lambda g: g["unit"] == "parameters" and _ratio([g], "bytes") * NOTICEABLE < _ratio([g], "parameters"),
        _fewer_bytes,
    ),
    ({"dtype", "original_dtypes"} | SIZES, lambda g: g["bytes_in_own_dtype"] > NOTICEABLE * g["num_bytes"], _narrower),
    (
        {"compression_ratio", "requested_ratio"},
        lambda g: g["compression_ratio"] > MUCH_SMALLER * g["requested_ratio"],
        _smaller_than_requested,
    ),
    ({"relative_error"}, lambda g: g["relative_error"] > 1, _worse_than_zeros),
)
"""(required keys, predicate that selects the groups, function that returns the text) for each kind of note."""
