"""Store several small arrays in one sequence of bytes: each one starts with its length in four bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def join_sections(sections: Sequence[NDArray[Any]]) -> Bytes:
    """One array of bytes with the contents of all arrays, in little-endian order."""
    parts = []
    for section in sections:
        content = np.ascontiguousarray(section).astype(section.dtype.newbyteorder("<"), copy=False).view(np.uint8).reshape(-1)
        parts += [np.array([content.size], "<u4").view(np.uint8), content]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def split_sections(content: Bytes, dtypes: Sequence[str]) -> list[NDArray[Any]]:
    """The arrays that were joined, given their dtypes. Bytes after the last section are ignored."""
    sections, start = [], 0
    for dtype in dtypes:
        length = int(content[start : start + 4].copy().view("<u4")[0])
        sections.append(content[start + 4 : start + 4 + length].copy().view(np.dtype(dtype).newbyteorder("<")))
        start += 4 + length
    return sections
