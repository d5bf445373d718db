"""Elias-Fano code for sorted positions: k integers below n take about k (2 + log2(n / k)) bits, close to the optimum.

The low bits of every position are stored verbatim. The high parts, which never decrease, are encoded in unary: position number
i with high part u sets bit u + i of one long bit string. See Elias, "Efficient storage and retrieval by content and address of
static files", Journal of the ACM, 1974, and Fano, 1971.

Computing sizes does not require torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from offcomp.numerics.accounting import Codes

if TYPE_CHECKING:
    from torch import Tensor


def position_shapes(count: int, total: int) -> dict[str, Codes]:
    """Shapes for `count` positions below `total`: `low` for their low bits, `high` for all high parts as one bit string."""
    bits = _low_bits(count, total)
    return {"low": Codes(count, bits), "high": Codes(1, count + -(-total // 2**bits))}


def _low_bits(count: int, total: int) -> int:
    """The number of low bits, at least 1, that minimises the code length."""
    return min(range(1, max(2, total.bit_length() + 1)), key=lambda bits: count * bits + count + -(-total // 2**bits))


def encode_positions(positions: Tensor, total: int) -> dict[str, Tensor]:
    """Encode increasing positions (count,) below `total` into the packed tensors described by `position_shapes`."""
    import torch

    from offcomp.numerics.bits import pack_bits

    ordered, count = positions.cpu().long(), len(positions)
    bits = _low_bits(count, total)
    unary = torch.zeros(count + -(-total // 2**bits), dtype=torch.uint8)
    unary[(ordered >> bits) + torch.arange(count)] = 1
    return {"low": pack_bits(ordered & (2**bits - 1), bits), "high": pack_bits(unary, 1)}


def decode_positions(low: Tensor, high: Tensor, count: int, total: int) -> Tensor:
    """Recover the int64 positions (count,) that were passed to `encode_positions`."""
    import numpy as np
    import torch

    from offcomp.numerics.bits import unpack_bits

    bits = _low_bits(count, total)
    unary = np.unpackbits(high.cpu().numpy(), bitorder="little", count=count + -(-total // 2**bits))
    upper = np.flatnonzero(unary) - np.arange(count)
    return torch.from_numpy(upper << bits | unpack_bits(low, bits, count).numpy())
