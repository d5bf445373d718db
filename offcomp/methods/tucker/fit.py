"""Higher-order SVD and orthogonal iteration, and the decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.methods.tucker.method import Tucker
from offcomp.numerics.accounting import Budget
from offcomp.numerics.progress import Report
from offcomp.numerics.storage import pack
from offcomp.numerics.svd import factors_of_pieces, leading_basis

ORDINARY = 1e10
"""A matrix whose largest entry lies between the inverse and this value is not rescaled, which would take a copy."""
PIECE_ENTRIES = 1 << 18  # converted to float64 at a time


def fit(
    method: Tucker, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Decompose at this rank. The seed is not used: nothing is random."""
    rows, cols = matrix.shape
    sides = method.tensor_sides(rows, cols)
    samples = matrix.float()
    low, high = samples.aminmax()
    scale = max(float(high), -float(low), 1e-37)
    if 1 / ORDINARY < scale < ORDINARY:  # otherwise squares of entries would underflow or overflow
        scale = 1.0
    else:
        samples = samples / scale
    modes = (1, 2) if method.absorbs_slabs(sides[0]) else (0, 1, 2)
    ranks = method.ranks(rows, cols, size)
    core, factors = _decompose(samples.reshape(sides), [ranks[mode] for mode in modes], modes, method.iterations)
    tensors = dict(zip(("mixing", "left", "right")[-len(modes) :], factors, strict=True))
    tensors["core"] = (core * scale).reshape(-1, core.shape[2])
    share = tensors["core"].abs().max().clamp_min(1e-37) ** (1 / 3)  # so that all three fit a narrow storage dtype
    tensors |= {"core": tensors["core"] / share**2, "left": tensors["left"] * share, "right": tensors["right"] * share}
    stored = pack({name: tensors[name] for name in method.tensor_shapes(rows, cols, size)}, budget.dtype)
    return CompressedMatrix(stored, tucker_product, size)


def _decompose(tensor: Tensor, ranks: list[int], modes: tuple[int, ...], iterations: int) -> tuple[Tensor, list[Tensor]]:
    """(core, factors along `modes`) of a tensor; each factor in turn is optimised with the others fixed.

    A factor of full rank loses nothing, so it is never updated. With only one truncated factor the start is already optimal.
    """
    wanted = dict(zip(modes, ranks, strict=True))
    factors = {mode: _leading_vectors(tensor, mode, rank) for mode, rank in wanted.items()}
    truncated = {mode: rank for mode, rank in wanted.items() if rank < tensor.shape[mode]}
    for _ in range(iterations if len(truncated) > 1 else 0):
        for mode, rank in truncated.items():
            others = {other: factors[other] for other in truncated if other != mode}
            factors[mode] = _leading_vectors(_projected(tensor, others), mode, rank)
    return _projected(tensor, factors), list(factors.values())


def tucker_product(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: core ×₁ P ×₂ L ×₃ R as a matrix, slab by slab."""
    left, right = tensors["left"], tensors["right"]
    core = tensors["core"].reshape(-1, left.shape[1], right.shape[1])  # (p, l, r)
    if "mixing" in tensors:
        core = (tensors["mixing"] @ core.flatten(1)).reshape(-1, *core.shape[1:])
    product = left.new_empty(len(core), len(left), len(right))
    for slab, place in zip(core, product, strict=True):
        place.copy_(left @ (slab @ right.T))
    return product.flatten(0, 1)


def _projected(tensor: Tensor, factors: Mapping[int, Tensor]) -> Tensor:
    """Multiply a three-mode tensor by the transposed factor of each mode that has one, slab by slab."""
    if 1 in factors or 2 in factors:
        slabs, height, width = tensor.shape
        height = factors[1].shape[1] if 1 in factors else height
        width = factors[2].shape[1] if 2 in factors else width
        product = torch.empty(slabs, height, width, dtype=tensor.dtype, device=tensor.device)
        for slab, place in zip(tensor, product, strict=True):
            part = slab @ factors[2] if 2 in factors else slab
            place.copy_(factors[1].T @ part if 1 in factors else part)
        tensor = product
    return (factors[0].T @ tensor.flatten(1)).reshape(-1, *tensor.shape[1:]) if 0 in factors else tensor


def _leading_vectors(tensor: Tensor, mode: int, count: int) -> Tensor:
    """Leading left singular vectors of an unfolding (side, rest), via the smaller Gram matrix in float64."""
    side, rest = tensor.shape[mode], tensor.numel() // tensor.shape[mode]
    if side <= rest:
        return leading_basis(_across(tensor, mode), (rest, side), count, like=tensor).to(tensor.dtype)
    low, high = tensor.aminmax()
    left, _ = factors_of_pieces(lambda: _along(tensor, mode), (side, rest), min(count, rest), largest=torch.maximum(high, -low))
    return torch.linalg.qr(left)[0]


def _along(tensor: Tensor, mode: int) -> Iterator[Tensor]:
    """An unfolding (side, rest) in chunks of rows."""
    rest = tensor.numel() // tensor.shape[mode]
    for part in tensor.movedim(mode, 0).split(PIECE_ENTRIES // rest + 1):
        yield part.reshape(len(part), rest)


def _across(tensor: Tensor, mode: int) -> Iterator[Tensor]:
    """A transposed unfolding (rest, side) in chunks of rows."""
    if mode == 0:
        yield from tensor.flatten(1).T.split(PIECE_ENTRIES // len(tensor) + 1)
    else:
        yield from (slab.T if mode == 1 else slab for slab in tensor)
