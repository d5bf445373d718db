"""Caveats about the sizes in predictions and finished runs, one sentence each. No torch.

For example, a ratio may be smaller in bytes than in parameters, savings in bytes may come from a narrower dtype rather than
from the method, and a method with few possible sizes may store much less than requested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from offcomp.models.catalogue import ModelInfo

NOTICEABLE = 1.05
"""Byte and parameter ratios that differ by less than this factor are treated as equal."""
MUCH_SMALLER = 1.1
"""A note is shown if the actual ratio exceeds the requested ratio by more than this factor."""
MAX_NAMED = 3


class SizedGroup(Protocol):
    """The figures of one group, predicted or measured. Those that older runs lack, or that are not known yet, are None."""

    @property
    def name(self) -> str: ...
    @property
    def form(self) -> str: ...
    @property
    def unit(self) -> str | None: ...
    @property
    def dtype(self) -> str | None: ...
    @property
    def original_dtypes(self) -> str | None: ...
    @property
    def num_parameters(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def bytes_in_own_dtype(self) -> int | None: ...
    @property
    def original_parameters(self) -> int: ...
    @property
    def original_bytes(self) -> int: ...
    @property
    def requested_ratio(self) -> float | None: ...
    @property
    def compression_ratio(self) -> float: ...
    @property
    def relative_error(self) -> float | None: ...


def size_notes(groups: Sequence[SizedGroup]) -> list[str]:
    """Notes on these groups, one sentence per kind of note. Groups that lack a figure are left out of notes that need it."""
    kept = [group for group in groups if group.form != "infeasible"]
    notes = (_sentence([group for group in kept if applies(group)], words) for applies, words in NOTES)
    return [note for note in notes if note]


def structure_note(info: ModelInfo) -> str:
    """Say that kinds were recognised by structure; empty if the family of the model is known."""
    if not info.by_structure:
        return ""
    return (
        f"The family of this model (type {info.model_type!r}) is not known: kinds are recognised by structure. "
        "Correct them with `offcomp modules MODEL --kinds FILE` if they are wrong."
    )


def structure_answer(info: ModelInfo, by_structure: int) -> str:
    """Say of how many matrices only the structure tells the kind; empty if there are none."""
    if not by_structure:
        return ""
    kinds, was = ("The kind of 1 matrix", "was") if by_structure == 1 else (f"Kinds of {by_structure:,} matrices", "were")
    return f"{kinds} {was} recognised by structure, since offcomp does not know the family {info.model_type}."


def unlisted_note(unlisted: int, num_parameters: int) -> str:
    """A sentence stating how many of the model's parameters are in unlisted tensors; empty if there are no such tensors."""
    if not unlisted:
        return ""
    share = 100 * unlisted / num_parameters
    return (
        f"{unlisted:,} parameters, {share:.2g} % of the model, are in tensors that are not matrices, such as convolutions, "
        "and stay unchanged; they count only towards the size of the whole model."
    )


def _sentence(groups: Sequence[SizedGroup], words: Callable[[Sequence[SizedGroup]], str]) -> str:
    """A note prefixed with the names of the groups to which it applies; empty if it applies to none."""
    if not groups:
        return ""
    names = ", ".join(group.name for group in groups[:MAX_NAMED])
    more = f" and {len(groups) - MAX_NAMED} more" if len(groups) > MAX_NAMED else ""
    return f"{names}{more}: {words(groups)}."


def _parameter_ratio(groups: Sequence[SizedGroup]) -> float:
    """Ratio of original to stored parameters over all of these groups."""
    return sum(group.original_parameters for group in groups) / sum(group.num_parameters for group in groups)


def _byte_ratio(groups: Sequence[SizedGroup]) -> float:
    """Ratio of original to stored bytes over all of these groups."""
    return sum(group.original_bytes for group in groups) / sum(group.num_bytes for group in groups)


def _byte_ratio_in_own_dtype(groups: Sequence[SizedGroup]) -> float:
    """What the ratio in bytes would be if the groups were stored in the checkpoint's own dtype."""
    return sum(group.original_bytes for group in groups) / sum(group.bytes_in_own_dtype or group.num_bytes for group in groups)


def _dtypes(groups: Sequence[SizedGroup]) -> tuple[str, str]:
    """The dtypes in which these groups are stored, and their original dtypes in the checkpoint."""
    stored, own = [group.dtype for group in groups], [group.original_dtypes for group in groups]
    return _joined(stored), _joined(own)


def _joined(names: Sequence[str | None]) -> str:
    return " and ".join(dict.fromkeys(filter(None, names)))


def _is_less_in_bytes(group: SizedGroup) -> bool:
    known = group.unit == "parameters" and group.dtype is not None and group.original_dtypes is not None
    return known and _byte_ratio([group]) * NOTICEABLE < _parameter_ratio([group])


def _less_in_bytes(groups: Sequence[SizedGroup]) -> str:
    stored, own = _dtypes(groups)
    less = f"{_parameter_ratio(groups):.3g}x in parameters is {_byte_ratio(groups):.3g}x in bytes"
    return f"{less}, because weights are stored as {stored}, but the checkpoint uses {own}"


def _is_narrower(group: SizedGroup) -> bool:
    known = group.dtype is not None and group.original_dtypes is not None and group.bytes_in_own_dtype is not None
    return known and (group.bytes_in_own_dtype or 0) > NOTICEABLE * group.num_bytes


def _narrower(groups: Sequence[SizedGroup]) -> str:
    stored, own = _dtypes(groups)
    whole, compressed = _byte_ratio(groups), _byte_ratio_in_own_dtype(groups)
    return (
        f"of the {whole:.3g}x reduction in bytes, {whole / compressed:.3g}x comes from storing {stored} instead of {own}, "
        f"and only {compressed:.3g}x from the method"
    )


def _is_smaller_than_requested(group: SizedGroup) -> bool:
    return group.requested_ratio is not None and group.compression_ratio > MUCH_SMALLER * group.requested_ratio


def _smaller_than_requested(groups: Sequence[SizedGroup]) -> str:
    requested = _range([group.requested_ratio for group in groups if group.requested_ratio is not None])
    stored = _range([group.compression_ratio for group in groups])
    return f"the requested ratio is {requested}, but the actual ratio is {stored}: the method has no size closer to the budget"


def _range(ratios: Sequence[float]) -> str:
    low, high = f"{min(ratios):.3g}x", f"{max(ratios):.3g}x"
    return low if low == high else f"{low} to {high}"


def _is_worse_than_zeros(group: SizedGroup) -> bool:
    return group.relative_error is not None and group.relative_error > 1


def _worse_than_zeros(groups: Sequence[SizedGroup]) -> str:
    worst = max(group.relative_error or 0.0 for group in groups)
    return f"the relative error is {worst:.3g}; above 1, a matrix of zeros would be closer to the original"


NOTES: tuple[tuple[Callable[[SizedGroup], bool], Callable[[Sequence[SizedGroup]], str]], ...] = (
    (_is_less_in_bytes, _less_in_bytes),
    (_is_narrower, _narrower),
    (_is_smaller_than_requested, _smaller_than_requested),
    (_is_worse_than_zeros, _worse_than_zeros),
)
"""(predicate that selects the groups, function that returns the text) for each kind of note."""
