"""Singular value decomposition via the smaller Gram matrix, with or without row and column metrics.

For W of shape (rows, cols) with rows >= cols, the eigenvectors of WᵀW (cols, cols) are the right singular vectors V and its
eigenvalues are σ². Then W V = U Σ. Squaring the matrix halves the number of accurate digits, so the Gram matrix is computed and
decomposed in float64. Singular values are then accurate to about 1e-8 of the largest singular value, which exceeds float32
precision. For the shapes of transformer weights, this is also faster than a direct float32 SVD (`benchmarks/svd_routes.py`).

With a row metric R and a column metric C, the matrix Ŵ of a given rank that minimises ‖R^½ (W - Ŵ) C^½‖_F is a projection onto
the leading eigenvectors V of the Gram matrix of R^½ W C^½:

    C^½ Wᵀ R W C^½ V = V Σ²,     Ŵ = W C^½ V · Vᵀ C^-½

This is the truncated SVD of R^½ W C^½ with both metrics undone afterwards, but it does not require the inverse of R. A wide W
is transposed first. Rows are converted to float64 in chunks.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offcomp.numerics.chunks import float64_chunks
from offcomp.numerics.eigenvectors import leading_eigenvectors
from offcomp.numerics.grams import gram
from offcomp.numerics.metrics import Metric
from offcomp.numerics.training import one_thread_if

SMALL_MATRIX = 1 << 17
"""Up to this number of entries, a decomposition runs on one thread: products this small take longer when they are split."""


def singular_values(
    matrix: Float[Tensor, "rows cols"], row_metric: Metric | None = None, column_metric: Metric | None = None
) -> Float64[Tensor, " side"]:
    """Singular values of R^½ W C^½, largest first.

    The squared error at rank r is the sum of the squares of all but the first r singular values.
    """
    tall, outer, inner = _upright(matrix, row_metric, column_metric)
    return torch.linalg.eigvalsh(_weighted_gram(tall, outer, inner)).flip(0).clamp_min(0).sqrt()


def low_rank_factors(
    matrix: Float[Tensor, "rows cols"], rank: int, row_metric: Metric | None = None, column_metric: Metric | None = None
) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank cols"]]:
    """Factors A, B that minimise ‖R^½ (W - A B) C^½‖_F (Eckart and Young 1936; R and C default to the identity).

    The singular values of A B are split evenly between U √Σ and √Σ Vᵀ, so that the entries of both factors have similar
    magnitudes and lose little precision in a narrow storage dtype. Signs are chosen so that the largest-magnitude entry of each
    row of B is positive, which makes the factors unique. Singular values are computed as the norms of the columns of W V, which
    remain accurate even where the eigenvalues are dominated by rounding errors.
    """
    with one_thread_if(matrix.numel() <= SMALL_MATRIX):
        return _factors(matrix, rank, *_upright(matrix, row_metric, column_metric))


def _factors(
    matrix: Tensor, rank: int, tall: Tensor, outer: Metric | None, inner: Metric | None
) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank cols"]]:
    basis = leading_eigenvectors(_weighted_gram(tall, outer, inner), rank)
    if outer is inner is None:
        product, right = _product(tall, basis), basis
    else:
        first, last = (basis, basis) if inner is None else (inner.root(basis), inner.inverse_root(basis))
        product, right = _orthogonal(_product(tall, first), last)
    root = product.norm(dim=0).sqrt()
    left = product.mul_(torch.where(root > 0, 1 / root, 0.0))  # in place, since it is twice as large as the stored factor
    left, right = (left, right * root) if tall is matrix else (right * root, left)
    signs = torch.where(-right.amin(0) > right.amax(0), -1.0, 1.0)  # (rank,)
    return left.mul_(signs).to(matrix.dtype), right.mul_(signs).T.to(matrix.dtype)


def _upright(
    matrix: Tensor, row_metric: Metric | None, column_metric: Metric | None
) -> tuple[Tensor, Metric | None, Metric | None]:
    """The matrix, transposed if it is wide, and its row and column metrics, with the column metric kept in memory."""
    if matrix.shape[0] >= matrix.shape[1]:
        return matrix, row_metric, column_metric and column_metric.held()
    return matrix.T, column_metric, row_metric and row_metric.held()


def _weighted_gram(
    tall: Float[Tensor, "rows cols"], outer: Metric | None, inner: Metric | None
) -> Float64[Tensor, "cols cols"]:
    """C^½ Wᵀ R W C^½."""
    total = gram(tall) if outer is None else sum(map(gram, outer.root_blocks(tall)), torch.zeros(()))
    if inner is None:
        return total
    total = inner.root(inner.root(total).T)
    return (total + total.T) / 2


def _product(tall: Float[Tensor, "rows cols"], basis: Float64[Tensor, "cols rank"]) -> Float64[Tensor, "rows rank"]:
    """W times `basis`."""
    product, start = basis.new_empty(len(tall), basis.shape[1]), 0
    for rows in float64_chunks(tall):
        product[start : start + len(rows)] = rows @ basis
        start += len(rows)
    return product


def _orthogonal(
    product: Float64[Tensor, "rows rank"], last: Float64[Tensor, "cols rank"]
) -> tuple[Float64[Tensor, "rows rank"], Float64[Tensor, "cols rank"]]:
    """U Σ and V from the SVD of product · lastᵀ.

    If last = Q R, the right singular vectors of product · Rᵀ are computed from its Gram matrix. They only
    rotate both factors, which leaves the product unchanged, so squaring does not make the product less accurate.
    """
    last, core = torch.linalg.qr(last)
    product = product @ core.T
    rotation = leading_eigenvectors(gram(product), product.shape[1])
    return product @ rotation, last @ rotation
