"""Freed memory back to the system.

The C library keeps freed blocks of up to 32 MB for the next request, and MKL the workspace of its products. What they keep
counts as memory of the process: after some work with parts of a large matrix this can be several times the matrix.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

M_MMAP_THRESHOLD = -3
LARGE_BLOCK = 1 << 20
"""1 MB."""


def give_back_free_memory() -> None:
    """Return every free page (glibc's malloc_trim); where the C library has no such call, do nothing. Takes milliseconds."""
    if trim := _of_c_library("malloc_trim"):
        trim(0)


def give_back_large_blocks_at_once() -> None:
    """From now on blocks of 1 MB and more go back when they are freed (glibc's mallopt), and so does the workspace of MKL.

    It holds for the whole process, so it is for those that are ours alone. MKL must not have been used before. Elsewhere this
    does nothing.
    """
    os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")
    if option := _of_c_library("mallopt"):
        option(M_MMAP_THRESHOLD, LARGE_BLOCK)


@cache
def _of_c_library(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, TypeError, AttributeError):  # another system, or another C library
        return None
