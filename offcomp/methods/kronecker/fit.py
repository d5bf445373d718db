"""Compute the best sum of Kronecker products from the SVD of the rearranged matrix, and decode it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.methods.kronecker.method import HEIGHT_BITS, Kronecker
from offcomp.numerics.accounting import Budget, code_counts
from offcomp.numerics.bits import pack_bits, unpack_bits
from offcomp.numerics.progress import Report
from offcomp.numerics.storage import pack
from offcomp.numerics.svd import low_rank_factors


def fit(
    method: Kronecker, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Compute the best approximation by a sum of `size` terms. The solution is unique up to signs, so the seed is not used."""
    rows, cols = matrix.shape
    (m1, n1), (m2, n2) = method.factor_shapes(rows, cols)
    blocks = matrix.float().reshape(m1, m2, n1, n2).transpose(1, 2)  # (m1, n1, m2, n2)
    left, right = low_rank_factors(blocks.reshape(m1 * n1, m2 * n2), size)
    heights = pack_bits(torch.tensor([m1, m2]), HEIGHT_BITS)
    tensors = pack({"left": left.T, "right": right, "heights": heights}, budget.dtype)
    return CompressedMatrix(tensors, kronecker_sum, size, codes=code_counts(method.tensor_shapes(rows, cols, size)))


def kronecker_sum(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: Σ_k A_k ⊗ B_k."""
    left, right = tensors["left"], tensors["right"]
    m1, m2 = unpack_bits(tensors["heights"], HEIGHT_BITS, 2).tolist()
    n1, n2 = left.shape[1] // m1, right.shape[1] // m2
    blocks = (left.T @ right).reshape(m1, n1, m2, n2)
    return blocks.transpose(1, 2).reshape(m1 * m2, n1 * n2)
