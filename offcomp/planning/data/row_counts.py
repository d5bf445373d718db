"""Count and report the rows of user-supplied data that were read, used and left out, and the texts that were truncated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

EMPTY = "empty"
OTHER_SPLIT = "in a split that is not used"
NOT_PUBLISHED = "without a published answer"
REPEATED = "repeated in a later split"
NOT_LEARNT = "of a class that is not learnt or tested"
TOO_MANY = "beyond the maximum size of a split"
NOT_DRAWN = "not drawn"


@dataclass(frozen=True)
class RowCounts:
    """Numbers of rows read, used and left out. The rows used and the rows left out add up to the rows read.

    left_out    reason -> number of rows
    notes       adjustments made while reading the data, one clause each
    """

    read: int = 0
    used: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; `notes` is omitted if it is empty."""
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {"read": self.read, "used": self.used, "left_out": dict(self.left_out)} | notes


def rows_text(rows: Mapping[str, Any] | None, what: str = "row") -> str:
    """Format the counts, as in "300 rows read, 298 used: 2 empty"; "" if they are unknown, as in runs from older versions."""
    if not rows:
        return ""
    read, used = rows["read"], rows["used"]
    counts = f"{read:,} {what if read == 1 else what + 's'} read, {'all' if used == read else f'{used:,}'} used"
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in rows["left_out"].items() if count)
    return "; ".join([f"{counts}: {left_out}" if left_out else counts, *rows.get("notes", ())])


def cut_text(cut: Mapping[str, Any] | None) -> str:
    """Format the number of truncated texts, as in "40 of 40 texts truncated to 126 tokens"; "" if it is zero or unknown."""
    if not cut or not cut["texts"]:
        return ""
    return f"{cut['texts']:,} of {cut['of']:,} texts truncated to {cut['tokens']:,} tokens"


def reading_text(score: Mapping[str, Any], what: str = "row") -> str:
    """Describe how a score's examples were read: rows used and texts truncated; "" if the counts are unknown."""
    return "; ".join(filter(None, (rows_text(score.get("rows"), what), cut_text(score.get("cut")))))


def calibration_reading(groups: Iterable[Mapping[str, Any]]) -> str:
    """Describe how a run read its calibration text, as in "60 texts read, all used"; "" if no group needed any."""
    return next(filter(None, (reading_text(group.get("calibration", {}), "text") for group in groups)), "")
