"""Integers packed without gaps: n integers of b bits take ceil(n b / 8) bytes. The first integer fills the lowest bits."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

CHUNK = 1 << 16
"""Number of integers packed at a time; a multiple of 8, so that every chunk but the last ends on a byte boundary."""


def pack_bits(values: Integer[Tensor, " count"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Pack integers in 0 .. 2^bits - 1 into bytes."""
    numbers = values.cpu().numpy()
    shifts = np.arange(bits)
    parts = []
    for start in range(0, len(numbers), CHUNK):
        chunk = numbers[start : start + CHUNK].astype(np.int64)
        binary = ((chunk[:, None] >> shifts) & 1).astype(np.uint8)  # (chunk, bits)
        parts.append(np.packbits(binary.reshape(-1), bitorder="little"))
    return torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0, np.uint8))


def unpack_bits(packed: UInt8[Tensor, " bytes"], bits: int, count: int, start: int = 0) -> Integer[Tensor, " count"]:
    """Integers `start` to `start + count` (exclusive) from the output of `pack_bits`, as int64."""
    before = start % 8  # distance back to the nearest integer that starts on a byte boundary
    content, total = packed.cpu().numpy()[(start - before) * bits // 8 :], before + count
    weights = 1 << np.arange(bits, dtype=np.int64)
    numbers = np.empty(total, np.int64)
    for first in range(0, total, CHUNK):
        length = min(CHUNK, total - first)
        part = content[first * bits // 8 : (((first + length) * bits + 7) // 8)]
        binary = np.unpackbits(part, bitorder="little", count=length * bits).reshape(length, bits)
        numbers[first : first + length] = binary @ weights
    return torch.from_numpy(numbers[before:])
