"""Compute a Tucker decomposition by higher-order SVD and orthogonal iteration, and decode it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.methods.tucker.method import Tucker
from offcomp.numerics.accounting import Budget
from offcomp.numerics.eigenvectors import leading_eigenvectors
from offcomp.numerics.grams import gram
from offcomp.numerics.progress import Report
from offcomp.numerics.storage import pack
from offcomp.numerics.svd import low_rank_factors


def fit(
    method: Tucker, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Decompose at rank `size`. The method is deterministic, so the seed is not used."""
    rows, cols = matrix.shape
    sides = method.tensor_sides(rows, cols)
    samples = matrix.float()
    scale = samples.abs().max().clamp_min(1e-37)  # so that no square underflows or overflows
    modes = (1, 2) if method.absorbs_slabs(sides[0]) else (0, 1, 2)
    ranks = method.ranks(rows, cols, size)
    core, factors = _decompose((samples / scale).reshape(sides), [ranks[mode] for mode in modes], modes, method.iterations)
    tensors = dict(zip(("mixing", "left", "right")[-len(modes) :], factors, strict=True))
    tensors["core"] = (core * scale).reshape(-1, core.shape[2])
    share = tensors["core"].abs().max().clamp_min(1e-37) ** (1 / 3)  # so that all three tensors fit a narrow storage dtype
    tensors |= {"core": tensors["core"] / share**2, "left": tensors["left"] * share, "right": tensors["right"] * share}
    stored = pack({name: tensors[name] for name in method.tensor_shapes(rows, cols, size)}, budget.dtype)
    return CompressedMatrix(stored, tucker_product, size)


def _decompose(tensor: Tensor, ranks: list[int], modes: tuple[int, ...], iterations: int) -> tuple[Tensor, list[Tensor]]:
    """Decompose a tensor into (core, factors along `modes`), optimising one factor at a time with the others fixed.

    A full-rank factor loses nothing and is therefore never updated. If only one factor is truncated, the initial factors are
    already optimal.
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
    """Decoder: core ×₁ P ×₂ L ×₃ R as a matrix."""
    left, right = tensors["left"], tensors["right"]
    core = tensors["core"].reshape(-1, left.shape[1], right.shape[1])  # (p, l, r)
    if "mixing" in tensors:
        core = torch.tensordot(tensors["mixing"], core, 1)
    return (left @ (core @ right.T)).flatten(0, 1)


def _projected(tensor: Tensor, factors: Mapping[int, Tensor]) -> Tensor:
    """Multiply a three-mode tensor by the transposed factors along their modes."""
    for mode in sorted(factors, reverse=True):
        tensor = torch.tensordot(tensor, factors[mode], ([mode], [0])).movedim(-1, mode)
    return tensor


def _leading_vectors(tensor: Tensor, mode: int, count: int) -> Tensor:
    """Leading left singular vectors of the unfolding along `mode`, via the smaller Gram matrix in float64."""
    unfolding = tensor.movedim(mode, 0).flatten(1)
    side, rest = unfolding.shape
    if side <= rest:
        return leading_eigenvectors(gram(unfolding.T), count).to(tensor.dtype)
    return torch.linalg.qr(low_rank_factors(unfolding, min(count, rest))[0])[0]
