"""Uniform grids: level q of a block is lowest + scale · q, for q from 0 to 2^bits - 1.

A symmetric grid has lowest = -scale (2^bits - 1) / 2, so the scale alone describes it. Each row of a `blocks` tensor is one
block.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

SHARES = tuple(0.1 ** (step / 15) for step in range(16))
"""Fractions of the full range to try in the search, from 1 down to 0.1."""
REFITS = 4

Blocks = Float[Tensor, "blocks width"]
PerBlock = Float[Tensor, " blocks"]


def spanning_grid(blocks: Blocks, bits: int, symmetric: bool) -> tuple[PerBlock, PerBlock]:
    """(scale, lowest) of the grid that exactly spans the range of each block."""
    levels = 2**bits - 1
    if symmetric:
        half = blocks.abs().amax(1)
        return 2 * half / levels, -half
    lowest, highest = blocks.aminmax(dim=1)
    return (highest - lowest) / levels, lowest


def symmetric_lowest(scale: Tensor, bits: int) -> Tensor:
    """The lowest level of a symmetric grid."""
    return -0.5 * (2**bits - 1) * scale


def nearest_codes(blocks: Blocks, scale: PerBlock, lowest: PerBlock, bits: int) -> UInt8[Tensor, "blocks width"]:
    """The index of the level nearest to each entry; 0 if `lowest` is the block's only level."""
    return _nearest(blocks, scale, lowest, bits).to(torch.uint8)


def searched_grid(blocks: Blocks, bits: int, symmetric: bool) -> tuple[PerBlock, PerBlock]:
    """(scale, lowest) found by search: the best fraction of the full range, refitted as long as this lowers the error."""
    full_scale, full_lowest = spanning_grid(blocks, bits, symmetric)
    centre = torch.zeros_like(full_scale) if symmetric else blocks.mean(1)
    scale, lowest = full_scale, full_lowest
    error = _squared_error(blocks, _nearest(blocks, scale, lowest, bits), scale, lowest)
    for share in SHARES[1:]:
        tried = (share * full_scale, centre + share * (full_lowest - centre))
        scale, lowest, error = _better(blocks, bits, (scale, lowest, error), tried)
    for _ in range(REFITS):
        tried = _fitted(blocks, _nearest(blocks, scale, lowest, bits), bits, symmetric)
        scale, lowest, error = _better(blocks, bits, (scale, lowest, error), tried)
    return scale, lowest


def _nearest(blocks: Tensor, scale: Tensor, lowest: Tensor, bits: int) -> Tensor:
    steps = torch.where(scale > 0, scale, 1.0)[:, None]
    return (blocks - lowest[:, None]).div_(steps).round_().clamp_(0, 2**bits - 1)


def _squared_error(blocks: Tensor, codes: Tensor, scale: Tensor, lowest: Tensor) -> Tensor:
    return torch.addcmul(lowest[:, None], codes, scale[:, None]).sub_(blocks).square_().sum(1)


def _better(
    blocks: Tensor, bits: int, best: tuple[Tensor, Tensor, Tensor], tried: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """For each block, the better of two grids, with its squared error."""
    error = _squared_error(blocks, _nearest(blocks, *tried, bits), *tried)
    wins = error < best[2]
    return torch.where(wins, tried[0], best[0]), torch.where(wins, tried[1], best[1]), torch.where(wins, error, best[2])


def _fitted(blocks: Tensor, codes: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Least-squares (scale, lowest) for the given codes; blocks whose codes are all equal get a scale of 0."""
    if symmetric:
        levels = codes - 0.5 * (2**bits - 1)
        scale = (levels * blocks).sum(1) / levels.square().sum(1)  # no level of a symmetric grid is zero
        return scale, symmetric_lowest(scale, bits)
    code_mean, mean = codes.mean(1), blocks.mean(1)
    centred = codes - code_mean[:, None]
    spread = centred.square().sum(1)
    scale = (centred * blocks).sum(1) / torch.where(spread > 0, spread, 1.0)
    return scale, mean - scale * code_mean
