"""The entries of a matrix with the largest magnitudes."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int64
from torch import Tensor


def largest_mask(matrix: Float[Tensor, "rows cols"], count: int) -> Bool[Tensor, "rows cols"]:
    """Mask of the `count` entries with the largest magnitudes; ties are broken in row-major order.

    The smallest selected magnitude is found by partial sorting, in linear time.
    """
    magnitudes = matrix.abs().reshape(-1)
    if count == 0:
        return (magnitudes < 0).reshape(matrix.shape)
    ordered = magnitudes.cpu().numpy().copy()
    ordered.partition(len(ordered) - count)
    least = float(ordered[len(ordered) - count])
    mask = magnitudes > least
    equal = (magnitudes == least).nonzero()[:, 0]
    mask[equal[: count - int(mask.count_nonzero())]] = True
    return mask.reshape(matrix.shape)


def largest_entries(matrix: Float[Tensor, "rows cols"], count: int) -> Int64[Tensor, " count"]:
    """The positions (row · cols + column) of the entries selected by `largest_mask`, in increasing order."""
    return largest_mask(matrix, count).reshape(-1).nonzero()[:, 0]
