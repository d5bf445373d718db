"""The entries of largest magnitude, found piece by piece: beside the matrix the memory is one byte an entry.

The bits of a positive float32 number, read as a whole number, grow with it. So the k-th largest magnitude is found exactly by
two counts, one of the upper bits and one of the lower bits of those that share the upper ones; nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float32, Int32
from torch import Tensor

PIECE_ENTRIES = 1 << 18
LOWER_BITS = 15
UPPER_BITS = 16


def largest_mask(matrix: Float32[Tensor, "rows cols"], count: int) -> Bool[Tensor, "rows cols"]:
    """True at the `count` entries of largest magnitude, at least one; of equal entries the first in reading order."""
    entries = matrix.reshape(-1)
    threshold, equal_kept = _threshold(entries, count)
    mask = torch.empty(len(entries), dtype=torch.bool, device=matrix.device)
    for bits, place in zip(_pieces(entries), mask.split(PIECE_ENTRIES), strict=True):
        torch.gt(bits, threshold, out=place)
        equal = (bits == threshold).nonzero()[:equal_kept, 0]
        place[equal] = True
        equal_kept -= len(equal)
    return mask.reshape(matrix.shape)


def _pieces(entries: Float32[Tensor, " entries"]) -> Iterator[Int32[Tensor, " piece"]]:
    """The bits of the magnitudes."""
    for piece in entries.split(PIECE_ENTRIES):
        yield piece.abs().view(torch.int32)


def _threshold(entries: Float32[Tensor, " entries"], count: int) -> tuple[int, int]:
    """The bits of the `count`-th largest magnitude, and how many entries equal to it are among the `count`."""
    upper = torch.zeros(1 << UPPER_BITS, dtype=torch.int64, device=entries.device)
    for bits in _pieces(entries):
        upper += torch.bincount(bits >> LOWER_BITS, minlength=len(upper))
    high, count = _bin_of(upper, count)
    lower = torch.zeros(1 << LOWER_BITS, dtype=torch.int64, device=entries.device)
    for bits in _pieces(entries):
        shared = bits[bits >> LOWER_BITS == high]
        lower += torch.bincount(shared & (len(lower) - 1), minlength=len(lower))
    low, count = _bin_of(lower, count)
    return (high << LOWER_BITS) + low, count


def _bin_of(counts: Tensor, count: int) -> tuple[int, int]:
    """The bin of the `count`-th largest, and which one of its bin it is, from the largest on."""
    reached = counts.flip(0).cumsum(0)
    place = int((reached < count).sum())
    number = len(counts) - 1 - place
    return number, count - int(reached[place] - counts[number])
