"""Find the entries of largest magnitude in chunks, with one byte of memory per entry in addition to the matrix.

The bit pattern of a positive float32, read as an integer, increases with its value. So two histograms give the k-th largest
magnitude exactly, one over the upper bits and one over the lower bits of the entries that share them; nothing is sorted.
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
    """True at the `count` >= 1 entries of largest magnitude; among equal entries, the first in row-major order."""
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
    """The bit patterns of the magnitudes, in chunks."""
    for piece in entries.split(PIECE_ENTRIES):
        yield piece.abs().view(torch.int32)


def _threshold(entries: Float32[Tensor, " entries"], count: int) -> tuple[int, int]:
    """The bit pattern of the `count`-th largest magnitude, and how many entries equal to it are among the `count` largest."""
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
    """The bin of the `count`-th largest entry, and its rank within that bin, counted from the largest."""
    reached = counts.flip(0).cumsum(0)
    place = int((reached < count).sum())
    number = len(counts) - 1 - place
    return number, count - int(reached[place] - counts[number])
