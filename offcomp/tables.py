"""Plain text tables for the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned columns under a header; numbers to the right, empty columns left out."""
    if not rows:
        return ""
    keys = [key for key in rows[0] if any(row[key] not in ("", None) for row in rows)]
    numeric = {key: all(isinstance(row[key], (int, float)) for row in rows) for key in keys}
    cells = [[_cell(row[key]) for key in keys] for row in rows]
    widths = [max(len(key), *(len(line[i]) for line in cells)) for i, key in enumerate(keys)]
    lines = [keys, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numeric[key] else cell.ljust(width)
            for cell, width, key in zip(line, widths, keys, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
