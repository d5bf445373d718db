"""Singular value decomposition through the smaller Gram matrix.

For W of shape (rows, cols) with rows >= cols, the eigenvectors of WᵀW (cols, cols) are the right singular vectors V and
its eigenvalues are σ². Then W V = U Σ. Squaring the matrix halves the number of exact digits, so the Gram matrix is formed
and decomposed in float64: singular values are exact to about 1e-8 of the largest one. That is beyond float32, and at the
shapes of transformer weights it takes less time than a direct float32 SVD (`benchmarks/svd_routes.py`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def _smaller_gram(matrix: Float[Tensor, "rows cols"]) -> Float[Tensor, "side side"]:
    wide = matrix.double()
    rows, cols = matrix.shape
    return wide.T @ wide if rows >= cols else wide @ wide.T


def singular_values(matrix: Float[Tensor, "rows cols"]) -> Float[Tensor, " side"]:
    """All min(rows, cols) singular values in decreasing order, float64."""
    eigenvalues = torch.linalg.eigvalsh(_smaller_gram(matrix))
    return eigenvalues.flip(0).clamp_min(0).sqrt()


def low_rank_factors(
    matrix: Float[Tensor, "rows cols"], rank: int
) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank cols"]]:
    """Factors of the best approximation of this rank in the Frobenius norm (Eckart and Young 1936).

    The singular values are shared out evenly, U √Σ and √Σ Vᵀ, so that both factors have entries of like size and
    survive a narrow storage dtype alike. They are taken as the lengths of the columns of W V, which stay true where the
    eigenvalues of a rank-deficient matrix are noise. The sign of each component makes its largest right entry positive.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    _, vectors = torch.linalg.eigh(_smaller_gram(tall))
    basis = vectors.flip(1)[:, :rank]  # (side, rank)
    projected = tall.double() @ basis  # (longer side, rank) = U Σ
    root = projected.norm(dim=0).sqrt()
    left = projected / root.clamp_min(torch.finfo(torch.float64).tiny)
    right = (basis * root).T
    if tall is not matrix:
        left, right = right.T, left.T
    largest = right.abs().argmax(1, keepdim=True)
    sign = torch.where(right.gather(1, largest) < 0, -1.0, 1.0)  # (rank, 1)
    return (left * sign.T).to(matrix.dtype), (right * sign).to(matrix.dtype)
