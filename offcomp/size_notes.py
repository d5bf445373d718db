"""What a size does not say of itself, a sentence each: for predictions and for finished runs alike. No torch.

A ratio in parameters may save less in bytes; bytes may be saved by narrower numbers and not by the method; a method whose sizes
come in steps may store much less than was asked for; and a relative error above 1 is worse than no matrix at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from offcomp.models.catalogue import ModelInfo

Group = Mapping[str, Any]
"""Figures of one group: a `GroupPrediction` as a dictionary, or an entry of `groups` in run.json."""

NOTICEABLE = 1.05
"""Ratios of bytes and of parameters that differ by less are as good as equal."""
FAR = 1.1
"""A ratio that is so many times the one asked for is worth a word."""
NAMED = 3


def size_notes(groups: Sequence[Group]) -> list[str]:
    """The notes on these groups, those of a kind in one sentence. Runs from before a figure was written go without its note."""
    kept = [group for group in groups if group["form"] != "infeasible"]
    notes = (_sentence([g for g in kept if needed <= g.keys()], applies, words) for needed, applies, words in NOTES)
    return [note for note in notes if note]


def unlisted_note(info: ModelInfo) -> str:
    """How much of a model is in tensors that are not listed; empty where nothing is."""
    return unlisted_words(info.unlisted, info.num_parameters)


def unlisted_words(unlisted: int, num_parameters: int) -> str:
    """See `unlisted_note`."""
    if not unlisted:
        return ""
    share = 100 * unlisted / num_parameters
    return (
        f"{unlisted:,} parameters, {share:.2g} % of the model, are in tensors that are no matrix (convolutions, stacked "
        "experts and the like) and stay as they are; they count in the whole model alone."
    )


def _sentence(groups: Sequence[Group], applies: Callable[[Group], bool], words: Callable[[Sequence[Group]], str]) -> str:
    """A note on those groups to which it applies, under their names."""
    found = [group for group in groups if applies(group)]
    if not found:
        return ""
    names = ", ".join(group["name"] for group in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"{names}{more}: {words(found)}."


def _ratio(groups: Sequence[Group], what: str, stored: str = "") -> float:
    """original / stored of these groups together, in "parameters" or "bytes"."""
    return float(sum(group[f"original_{what}"] for group in groups) / sum(group[stored or f"num_{what}"] for group in groups))


def _saves_less_in_bytes(group: Group) -> bool:
    return group["unit"] == "parameters" and _ratio([group], "bytes") * NOTICEABLE < _ratio([group], "parameters")


def _fewer_bytes(groups: Sequence[Group]) -> str:
    stored = " and ".join(dict.fromkeys(group["dtype"] for group in groups))
    own = " and ".join(dict.fromkeys(group["original_dtypes"] for group in groups))
    less = f"{_ratio(groups, 'parameters'):.3g}x in parameters is {_ratio(groups, 'bytes'):.3g}x in bytes"
    return f"{less}, since numbers are stored as {stored} where the checkpoint has {own}"


def _is_narrower(group: Group) -> bool:
    return bool(group["bytes_in_own_dtype"] > NOTICEABLE * group["num_bytes"])


def _narrower(groups: Sequence[Group]) -> str:
    stored, own = (" and ".join(dict.fromkeys(group[key] for group in groups)) for key in ("dtype", "original_dtypes"))
    whole, compressed = _ratio(groups, "bytes"), _ratio(groups, "bytes", "bytes_in_own_dtype")
    return (
        f"of {whole:.3g}x in bytes, {whole / compressed:.3g}x are {stored} numbers in place of {own}, and only "
        f"{compressed:.3g}x are the method's"
    )


def _is_far_from_asked(group: Group) -> bool:
    return bool(group["compression_ratio"] > FAR * group["requested_ratio"])


def _asked(groups: Sequence[Group]) -> str:
    asked, stored = (_range([group[key] for group in groups]) for key in ("requested_ratio", "compression_ratio"))
    return f"asked for {asked}, stored {stored} smaller, since no size lies between that and the budget"


def _range(ratios: Sequence[float]) -> str:
    low, high = f"{min(ratios):.3g}x", f"{max(ratios):.3g}x"
    return low if low == high else f"{low} to {high}"


def _is_worse_than_nothing(group: Group) -> bool:
    return bool(group["relative_error"] > 1)


def _worse_than_nothing(groups: Sequence[Group]) -> str:
    errors = [group["relative_error"] for group in groups]
    return f"relative error {max(errors):.3g}, and above 1 a matrix of zeros would be nearer to the original"


SIZES = {"original_parameters", "original_bytes", "num_parameters", "num_bytes", "bytes_in_own_dtype"}
NOTES: tuple[tuple[set[str], Callable[[Group], bool], Callable[[Sequence[Group]], str]], ...] = (
    ({"unit", "dtype", "original_dtypes"} | SIZES, _saves_less_in_bytes, _fewer_bytes),
    ({"dtype", "original_dtypes"} | SIZES, _is_narrower, _narrower),
    ({"compression_ratio", "requested_ratio"}, _is_far_from_asked, _asked),
    ({"relative_error"}, _is_worse_than_nothing, _worse_than_nothing),
)
"""The figures that a note needs, to which groups it applies, and its words."""
