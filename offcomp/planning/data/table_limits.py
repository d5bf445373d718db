"""Size limits for user-supplied tables, checked before memory is allocated for them."""

from __future__ import annotations

from offcomp.errors import InputError

MAX_COLUMNS = 2_000
MAX_CELLS = 6_000_000
"""Maximum number of cells; each takes about sixty bytes of memory."""


def check_columns(count: int) -> None:
    """Raise InputError if a table has too many columns."""
    if count > MAX_COLUMNS:
        raise InputError(f"it has {count:,} columns, but the limit is {MAX_COLUMNS:,}; remove those that no task uses")


def check_cells(count: int) -> None:
    """Raise InputError if a table has too many cells."""
    if count > MAX_CELLS:
        raise InputError(f"it has more than {MAX_CELLS:,} cells; use fewer rows or columns")


def line_ends(text: str) -> int:
    """Number of line breaks in a text, for any of the common line-ending conventions."""
    return max(text.count("\n"), text.count("\r"))
