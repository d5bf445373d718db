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
    survive a narrow storage dtype alike. The sign of each component makes its largest right entry positive.
    """
    rows, cols = matrix.shape
    if rows < cols:
        right, left = low_rank_factors(matrix.T, rank)
        return left.T, right.T
    eigenvalues, vectors = torch.linalg.eigh(_smaller_gram(matrix))
    values = eigenvalues.flip(0)[:rank].clamp_min(0).sqrt()  # (rank,)
    right_vectors = vectors.flip(1)[:, :rank]  # (cols, rank)
    largest = right_vectors.abs().argmax(0, keepdim=True)
    right_vectors = right_vectors * torch.where(right_vectors.gather(0, largest) < 0, -1.0, 1.0)
    projected = matrix.double() @ right_vectors  # (rows, rank) = U Σ
    root = values.sqrt()
    inverse_root = torch.where(root > 0, 1 / root.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    left = projected * inverse_root
    right = (right_vectors * root).T
    return left.to(matrix.dtype), right.to(matrix.dtype)
