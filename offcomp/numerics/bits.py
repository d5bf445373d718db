"""Pack integers without gaps: n integers of b bits take ceil(n b / 8) bytes. The first integer occupies the lowest bits."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

CHUNK = 1 << 16
"""Number of integers packed at a time; a multiple of 8, so that every chunk but the last ends on a byte boundary."""


def pack_bits(values: Integer[Tensor, " count"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Pack integers from 0 to 2^bits - 1 into bytes."""
    numbers = values.cpu().numpy()
    shifts = np.arange(bits)
    parts = []
    for start in range(0, len(numbers), CHUNK):
        chunk = numbers[start : start + CHUNK].astype(np.int64)
        binary = ((chunk[:, None] >> shifts) & 1).astype(np.uint8)  # (chunk, bits)
        parts.append(np.packbits(binary.reshape(-1), bitorder="little"))
    return torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0, np.uint8))


def unpack_bits(packed: UInt8[Tensor, " bytes"], bits: int, count: int) -> Integer[Tensor, " count"]:
    """Unpack the first `count` integers from the output of `pack_bits`, as int64."""
    content, weights = packed.cpu().numpy(), 1 << np.arange(bits, dtype=np.int64)
    numbers = np.empty(count, np.int64)
    for start in range(0, count, CHUNK):
        length = min(CHUNK, count - start)
        part = content[start * bits // 8 : ((start + length) * bits + 7) // 8]
        binary = np.unpackbits(part, bitorder="little", count=length * bits).reshape(length, bits)
        numbers[start : start + length] = binary @ weights
    return torch.from_numpy(numbers)
