"""How large a table may be that a person gives: asked of what a file says of itself, before memory is taken for it."""

from __future__ import annotations

from offcomp.errors import InputError

MOST_COLUMNS = 2_000
MOST_CELLS = 6_000_000
"""Some sixty bytes of memory each."""


def check_columns(count: int) -> None:
    """Raises InputError for more columns than are read."""
    if count > MOST_COLUMNS:
        raise InputError(f"it has {count:,} columns, more than {MOST_COLUMNS:,}; leave out those that no task reads")


def check_cells(count: int) -> None:
    """Raises InputError for more cells than are read."""
    if count > MOST_CELLS:
        raise InputError(f"it has more than {MOST_CELLS:,} cells; give a part of it")


def line_ends(text: str) -> int:
    """How many lines end in a text, whichever way."""
    return max(text.count("\n"), text.count("\r"))
