"""Singular value decomposition through the smaller Gram matrix, plain or in two metrics.

For W of shape (rows, cols) with rows >= cols, the eigenvectors of WᵀW (cols, cols) are the right singular vectors V and
its eigenvalues are σ². Then W V = U Σ. Squaring the matrix halves the number of exact digits, so the Gram matrix is formed
and decomposed in float64: singular values are exact to about 1e-8 of the largest one. That is beyond float32, and at the
shapes of transformer weights it takes less time than a direct float32 SVD (`benchmarks/svd_routes.py`).

With a row metric R and a column metric C, ‖R^½ (W - Ŵ) C^½‖_F is least at a rank for the projection on the leading
eigenvectors V of the Gram matrix of R^½ W C^½:

    C^½ Wᵀ R W C^½ V = V Σ²,     Ŵ = W C^½ V · Vᵀ C^-½

This is the truncated SVD of R^½ W C^½ with both metrics taken off again, but without an inverse of R. A wide W is treated as
its transpose. Rows are widened to float64 a piece at a time, and a Gram matrix that would outweigh W is kept as a triangle
(`numerics.tridiagonal`): beside W the memory is at most a little more than W once, and the factors. Metrics come on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from offcomp.numerics.allocator import give_back_free_memory
from offcomp.numerics.grams import eigen_in_place, gram_of_pieces
from offcomp.numerics.metrics import Metric, difference
from offcomp.numerics.tridiagonal import Triangle, Tridiagonal

PIECE_ENTRIES = 1 << 20  # 8 MB in float64
SMALL_PIECE_ENTRIES = 1 << 18  # 2 MB
SMALL_SIDE = 1024
"""Gram matrices up to this side, 8 MB, are decomposed as squares, which is faster there."""
TALL = 4
"""Beyond so many times as many rows as columns the square and its workspace are at most 1.5 times the matrix in float32."""
Pieces = Callable[[], Iterable[Tensor]]
"""What gives a matrix as pieces one above the other, the same at each call."""


def _height(matrix: Tensor) -> int:
    """Rows that are widened to float64 at a time."""
    return max(1, PIECE_ENTRIES // matrix.shape[1])


def pieces_of(matrix: Float[Tensor, "rows cols"]) -> Iterator[Float[Tensor, "_ cols"]]:
    """Small pieces one above the other, read in the order in which they lie in memory."""
    height = max(1, SMALL_PIECE_ENTRIES // matrix.shape[1])
    if matrix.T.is_contiguous():
        yield from (part.contiguous().T for part in matrix.T.split(height, 1))
    else:
        yield from matrix.split(height)


def _rooted_pieces(
    tall: Float[Tensor, "rows cols"], rows: Metric | None, columns: Metric | None, less: Tensor | None = None
) -> Iterator[Tensor]:
    """R^½ (W - less) C^½ in float64, in pieces one above the other."""
    if rows is not None:
        pieces = rows.root_pieces(tall, _height(tall), less)
    else:
        pieces = map(difference, pieces_of(tall), repeat(None) if less is None else pieces_of(less))
    for piece in pieces:
        wide = piece.double()
        yield wide if columns is None else columns.root(wide.T).T


def rooted_pieces(
    matrix: Float[Tensor, "rows cols"], row_metric: Metric | None, column_metric: Metric | None, less: Tensor | None = None
) -> Iterator[Float64[Tensor, "_ _"]]:
    """R^½ (W - less) C^½, where W is wide the transpose, in pieces one above the other."""
    tall, outer, inner = _upright(matrix, row_metric, column_metric)
    return _rooted_pieces(tall, outer, inner, less.T if less is not None and len(tall) != len(matrix) else less)


def _weighted_gram(tall: Float[Tensor, "rows cols"], rows: Metric | None, columns: Metric | None) -> Float[Tensor, "cols cols"]:
    """C^½ Wᵀ R W C^½ in float64."""
    total = gram_of_pieces(_rooted_pieces(tall, rows, None), tall.shape[1], tall.device)
    if columns is None:
        return total
    total = columns.root(columns.root(total).T)
    return total.add_(total.T.clone()).div_(2)


def as_triangle(shape: Sequence[int], device: torch.device) -> bool:
    """Whether the Gram matrix of a (rows, side) matrix is better kept as a triangle."""
    rows, side = shape
    return device.type == "cpu" and side > SMALL_SIDE and rows < TALL * side


def singular_values(
    matrix: Float[Tensor, "rows cols"], row_metric: Metric | None = None, column_metric: Metric | None = None
) -> Float[Tensor, " side"]:
    """Singular values of R^½ W C^½ in decreasing order, float64; the tail of their squares is the error of a rank."""
    tall, outer, inner = _upright(matrix, row_metric, column_metric)
    if as_triangle(tall.shape, tall.device):
        triangle = Triangle.of_gram(_rooted_pieces(tall, outer, inner), tall.shape[1])
        eigenvalues = Tridiagonal.of(triangle).eigenvalues()
    else:
        eigenvalues = torch.linalg.eigvalsh(_weighted_gram(tall, outer, inner))
    return eigenvalues.flip(0).clamp_min(0).sqrt()


def _upright(
    matrix: Tensor, row_metric: Metric | None, column_metric: Metric | None
) -> tuple[Tensor, Metric | None, Metric | None]:
    """The matrix or its transpose, whichever has at least as many rows as columns, with its metrics.

    That of the columns is used once a piece, so it is held.
    """
    if matrix.shape[0] >= matrix.shape[1]:
        return matrix, row_metric, column_metric and column_metric.held()
    return matrix.T, column_metric, row_metric and row_metric.held()


def low_rank_factors(
    matrix: Float[Tensor, "rows cols"], rank: int, row_metric: Metric | None = None, column_metric: Metric | None = None
) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank cols"]]:
    """Factors A, B for which ‖R^½ (W - A B) C^½‖_F is least (Eckart and Young 1936; without metrics R and C are identities).

    The singular values of A B are shared out evenly, U √Σ and √Σ Vᵀ, so that both factors have entries of like size and
    survive a narrow storage dtype alike. The sign of each component makes its largest right entry positive: the factors
    are unique.
    """
    tall, outer, inner = _upright(matrix, row_metric, column_metric)
    if outer is inner is None:
        low, high = matrix.aminmax()
        largest, turned = torch.maximum(high, -low), tall is not matrix
        return factors_of_pieces(lambda: pieces_of(tall), tall.shape, rank, largest=largest, turned=turned)
    if inner is None or as_triangle(tall.shape, tall.device):
        basis = leading_basis(_rooted_pieces(tall, outer, inner), tall.shape, rank, like=matrix)
    else:
        basis = leading_eigenvectors(_weighted_gram(tall, outer, inner), rank)
    first, last = (basis, basis) if inner is None else (inner.root(basis), inner.inverse_root(basis))  # W ≈ W first lastᵀ
    low, high = matrix.aminmax()
    left, right = _balanced(tall, first, last, torch.maximum(high, -low))
    return _signed(left, right.to(matrix.dtype), tall is not matrix)


def factors_of_pieces(
    pieces: Pieces, shape: Sequence[int], rank: int, *, largest: Tensor, turned: bool = False
) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank cols"]]:
    """`low_rank_factors` without metrics, of a matrix that is given in pieces and never whole.

    The pieces, one above the other, make up a matrix of this upright shape; where it is `turned`, the factors are those of
    its transpose. `largest` is its largest magnitude, in the dtype and on the device of the factors.
    """
    basis = leading_basis(pieces(), shape, rank, like=largest)
    left = torch.empty(shape[0], rank, dtype=largest.dtype, device=largest.device)
    right = basis.mul_(fill_balanced(left, pieces(), basis, largest)).to(largest.dtype)
    del basis
    give_back_free_memory()
    return _signed(left, right, turned)


def leading_basis(pieces: Iterable[Tensor], shape: Sequence[int], rank: int, *, like: Tensor) -> Float[Tensor, "side rank"]:
    """The leading right singular vectors, in float64, of a (rows, side) matrix in pieces, on the device of `like`."""
    wide = (piece.double() for piece in pieces)
    if as_triangle(shape, like.device):
        basis = Tridiagonal.of(Triangle.of_gram(wide, shape[1]), like.dtype).leading_eigenvectors(rank).T
    else:
        basis = leading_eigenvectors(gram_of_pieces(wide, shape[1], like.device), rank)
    give_back_free_memory()
    return basis


def _signed(left: Tensor, right: Tensor, turned: bool) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank cols"]]:
    """Both factors, or those of the transpose, with the entry of largest magnitude of each component on the right positive."""
    if turned:
        left, right = right, left
    signs = torch.where(-right.amin(0) > right.amax(0), -1.0, 1.0)  # (rank,)
    return left.mul_(signs), right.mul_(signs).T


def leading_eigenvectors(symmetric: Float[Tensor, "side side"], rank: int) -> Float[Tensor, "side rank"]:
    """Eigenvectors of the largest eigenvalues, in decreasing order. Overwrites its argument."""
    return eigen_in_place(symmetric)[1][:, len(symmetric) - rank :].flip(1)


def fill_balanced(left: Tensor, pieces: Iterable[Tensor], basis: Tensor, length: Tensor) -> Tensor:
    """Make `left` U √Σ, given V and the matrix in pieces one above the other; returns √Σ (rank,).

    The singular values are the lengths of the columns of W V, which stay true where the eigenvalues are noise. The product is
    taken in float64 and kept in the dtype of `left`, over the largest entry `length` of W, so that none of it vanishes.
    """
    length = length.double().clamp_min(torch.finfo(torch.float32).tiny)
    squares, top = torch.zeros(basis.shape[1], dtype=torch.float64, device=basis.device), 0
    for piece in pieces:
        product = (piece.double() / length) @ basis
        squares += product.square().sum(0)
        left[top : top + len(product)] = product
        top += len(product)
    root = (squares.sqrt() * length).sqrt()
    left *= torch.where(root > 0, length / root, 0.0).to(left.dtype)
    return root


def _balanced(tall: Tensor, first: Tensor, last: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """U √Σ and V √Σ of the singular value decomposition of W · first · lastᵀ, both of these (cols, rank) in float64.

    With last = Q R the rotation V of W first Rᵀ comes from its Gram matrix. Any rotation gives the same product, so that no
    digits of it are lost by squaring.
    """
    last, core = torch.linalg.qr(last)
    first = first @ core.T
    total = first.new_zeros(first.shape[1], first.shape[1])
    for piece in pieces_of(tall):
        product = piece.double() @ first
        total.addmm_(product.T, product)
    rotation = leading_eigenvectors(total, len(total))
    left = torch.empty(len(tall), len(rotation), dtype=tall.dtype, device=tall.device)
    root = fill_balanced(left, pieces_of(tall), first @ rotation, largest)
    return left, (last @ rotation).mul_(root)
