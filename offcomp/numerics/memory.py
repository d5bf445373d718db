"""Return freed memory to the operating system.

The C library caches freed blocks of up to 32 MB, and MKL keeps the workspace of its matrix products. Both count as memory of
the process: after chunked work on a large matrix they can add up to several times its size.
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
    """Return every free page (glibc's malloc_trim); a no-op with other C libraries. Takes milliseconds."""
    if trim := _of_c_library("malloc_trim"):
        trim(0)


def give_back_large_blocks_at_once() -> None:
    """From now on, return blocks of 1 MB and more as soon as they are freed (glibc's mallopt), and likewise MKL's workspace.

    This affects the whole process, so call it only in processes that we own, and before the first use of MKL. With other C
    libraries it does nothing.
    """
    os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")
    if option := _of_c_library("mallopt"):
        option(M_MMAP_THRESHOLD, LARGE_BLOCK)


@cache
def _of_c_library(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, TypeError, AttributeError):  # another operating system or C library
        return None
