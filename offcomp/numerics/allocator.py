"""Freed memory back to the system.

The C library keeps freed blocks of up to 32 MB for the next request, and what it keeps counts as memory of the process: after
some work with parts of a large matrix this can be several times the matrix.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def give_back_free_memory() -> None:
    """Return every free page (glibc's malloc_trim); where the C library has no such call, do nothing. Takes milliseconds."""
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # another system, or another C library
        return None
