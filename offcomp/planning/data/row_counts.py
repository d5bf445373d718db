"""Count and report the rows of user-supplied data that were read, used and left out, and the texts that were truncated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Protocol

from pydantic import Field

from offcomp.planning.document import Count, Document, Items, Name, Named

EMPTY = "empty"
OTHER_SPLIT = "in a split that is not used"
NOT_PUBLISHED = "without a published answer"
REPEATED = "repeated in a later split"
NOT_LEARNT = "of a class that is not learnt or tested"
TOO_MANY = "beyond the maximum size of a split"
NOT_DRAWN = "not drawn"


class RowCounts(Document):
    """Numbers of rows read, used and left out. The rows used and the rows left out add up to the rows read."""

    read: Count
    used: Count
    left_out: Named[Name, Count]
    """Reason -> number of rows."""
    notes: Annotated[Items[str], Field(exclude_if=lambda notes: not notes)] = ()
    """Adjustments made while reading the data, one clause each."""


class Truncation(Document):
    """Texts (or pairs of texts) that were truncated because they have too many tokens."""

    texts: Count
    """Number of truncated texts."""
    of: Count
    """Total number of texts."""
    tokens: Count
    """The maximum number of tokens per text."""


class Reading(Protocol):
    """A score or a calibration, with counts of how its texts were read; these are None if unknown, as in older runs."""

    @property
    def rows(self) -> RowCounts | None: ...
    @property
    def cut(self) -> Truncation | None: ...


def rows_text(rows: RowCounts | None, what: str = "row") -> str:
    """Format the counts, as in "300 rows read, 298 used: 2 empty"; "" if they are unknown."""
    if rows is None:
        return ""
    read, used = rows.read, rows.used
    counts = f"{read:,} {what if read == 1 else what + 's'} read, {'all' if used == read else f'{used:,}'} used"
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in rows.left_out.items() if count)
    return "; ".join([f"{counts}: {left_out}" if left_out else counts, *rows.notes])


def cut_text(cut: Truncation | None) -> str:
    """Format the number of truncated texts, as in "40 of 40 texts truncated to 126 tokens"; "" if it is zero or unknown."""
    if cut is None or not cut.texts:
        return ""
    return f"{cut.texts:,} of {cut.of:,} texts truncated to {cut.tokens:,} tokens"


def reading_text(reading: Reading, what: str = "row") -> str:
    """Describe how a score's examples were read: rows used and texts truncated; "" if the counts are unknown."""
    return "; ".join(filter(None, (rows_text(reading.rows, what), cut_text(reading.cut))))


def calibration_reading(calibrations: Iterable[Reading | None]) -> str:
    """Describe how a run read its calibration text, as in "60 texts read, all used"; "" if no group needed any."""
    return next(filter(None, (reading_text(each, "text") for each in calibrations if each)), "")
