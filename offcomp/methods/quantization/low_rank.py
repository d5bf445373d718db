"""The low-rank part A B of a quantized matrix. Each column of A and each row of B is stored as 4-bit integers with a scale.

At the same size, four bits allow twice the rank that eight bits would. The lower precision costs little, because the integers
that represent the rest of the matrix are chosen after the factors are rounded, and make up for the rounding errors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from offcomp.methods.quantization.method import FACTOR_BITS
from offcomp.numerics.bits import pack_bits, unpack_bits
from offcomp.numerics.grids import nearest_codes, searched_grid, symmetric_lowest
from offcomp.numerics.metrics import Metric
from offcomp.numerics.storage import pack
from offcomp.numerics.svd import low_rank_factors

Metrics = tuple[Metric | None, Metric | None]
"""Row metric and column metric of the error to minimise; None stands for the identity."""


def stored_factors(matrix: Float[Tensor, "rows cols"], rank: int, metrics: Metrics, dtype: str) -> dict[str, Tensor]:
    """The best low-rank approximation under the metrics, as stored: packed integers, and their scales in `dtype`."""
    left, right = low_rank_factors(matrix, rank, *metrics)
    scales, codes = [], []
    for components in (left.T.contiguous(), right):
        scale, lowest = searched_grid(components, FACTOR_BITS, True)
        codes.append(nearest_codes(components, scale, lowest, FACTOR_BITS).flatten())
        scales.append(scale)
    packed = {"factors": pack_bits(torch.cat(codes).cpu(), FACTOR_BITS), "factor_scales": torch.cat(scales)}
    return pack(packed, dtype)


def product(tensors: Mapping[str, Tensor], rows: int, cols: int) -> Float[Tensor, "rows cols"]:
    """A B from the stored tensors, with the scales in float32."""
    scales = tensors["factor_scales"][:, None]
    rank = len(scales) // 2
    codes = unpack_bits(tensors["factors"], FACTOR_BITS, rank * (rows + cols)).to(scales)
    parts = codes.split([rank * rows, rank * cols])
    left, right = (
        torch.addcmul(symmetric_lowest(scale, FACTOR_BITS), part.reshape(rank, -1), scale)
        for part, scale in zip(parts, scales.split(rank), strict=True)
    )
    return left.T @ right
