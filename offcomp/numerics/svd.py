"""Singular value decomposition via the smaller Gram matrix, plain or in two metrics.

For W of shape (rows, cols) with rows >= cols, the eigenvectors of WᵀW (cols, cols) are the right singular vectors V and
its eigenvalues are σ². Then W V = U Σ. Squaring the matrix halves the number of accurate digits, so the Gram matrix is formed
and decomposed in float64: singular values are accurate to about 1e-8 of the largest one. That exceeds float32 precision, and
for the shapes of transformer weights it is faster than a direct float32 SVD (`benchmarks/svd_routes.py`).

With a row metric R and a column metric C, the Ŵ of given rank that minimises ‖R^½ (W - Ŵ) C^½‖_F is the projection on the
leading eigenvectors V of the Gram matrix of R^½ W C^½:

    C^½ Wᵀ R W C^½ V = V Σ²,     Ŵ = W C^½ V · Vᵀ C^-½

This is the truncated SVD of R^½ W C^½ with both metrics undone afterwards, but without an inverse of R. A wide W is handled as
its transpose. Rows are converted to float64 in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat

import torch
from jaxtyping import Float, Float64
from scipy.linalg import eigh
from torch import Tensor

from offcomp.numerics.grams import eigen_in_place, gram_of_pieces
from offcomp.numerics.metrics import Metric, difference

PIECE_ENTRIES = 1 << 20  # 8 MB in float64
SMALL_PIECE_ENTRIES = 1 << 18  # 2 MB
Pieces = Callable[[], Iterable[Tensor]]
"""Returns a matrix as chunks of rows, the same at each call."""


def _height(matrix: Tensor) -> int:
    """Number of rows converted to float64 at a time."""
    return max(1, PIECE_ENTRIES // matrix.shape[1])


def pieces_of(matrix: Float[Tensor, "rows cols"]) -> Iterator[Float[Tensor, "_ cols"]]:
    """Small chunks of rows, read in memory order."""
    height = max(1, SMALL_PIECE_ENTRIES // matrix.shape[1])
    if matrix.T.is_contiguous():
        yield from (part.contiguous().T for part in matrix.T.split(height, 1))
    else:
        yield from matrix.split(height)


def _rooted_pieces(
    tall: Float[Tensor, "rows cols"], rows: Metric | None, columns: Metric | None, less: Tensor | None = None
) -> Iterator[Tensor]:
    """R^½ (W - less) C^½ in float64, as chunks of rows."""
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
    """R^½ (W - less) C^½, or its transpose if W is wide, as chunks of rows."""
    tall, outer, inner = _upright(matrix, row_metric, column_metric)
    return _rooted_pieces(tall, outer, inner, less.T if less is not None and len(tall) != len(matrix) else less)


def _weighted_gram(tall: Float[Tensor, "rows cols"], rows: Metric | None, columns: Metric | None) -> Float[Tensor, "cols cols"]:
    """C^½ Wᵀ R W C^½ in float64."""
    total = gram_of_pieces(_rooted_pieces(tall, rows, None), tall.shape[1], tall.device)
    if columns is None:
        return total
    total = columns.root(columns.root(total).T)
    return total.add_(total.T.clone()).div_(2)


def singular_values(
    matrix: Float[Tensor, "rows cols"], row_metric: Metric | None = None, column_metric: Metric | None = None
) -> Float[Tensor, " side"]:
    """Singular values of R^½ W C^½ in decreasing order, float64; a rank's squared error is the sum of squares of the tail."""
    tall, outer, inner = _upright(matrix, row_metric, column_metric)
    return torch.linalg.eigvalsh(_weighted_gram(tall, outer, inner)).flip(0).clamp_min(0).sqrt()


def _upright(
    matrix: Tensor, row_metric: Metric | None, column_metric: Metric | None
) -> tuple[Tensor, Metric | None, Metric | None]:
    """The matrix or its transpose, whichever has at least as many rows as columns, with its metrics.

    The column metric is needed for every chunk, so it is held in memory.
    """
    if matrix.shape[0] >= matrix.shape[1]:
        return matrix, row_metric, column_metric and column_metric.held()
    return matrix.T, column_metric, row_metric and row_metric.held()


def low_rank_factors(
    matrix: Float[Tensor, "rows cols"], rank: int, row_metric: Metric | None = None, column_metric: Metric | None = None
) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank cols"]]:
    """Factors A, B that minimise ‖R^½ (W - A B) C^½‖_F (Eckart and Young 1936; without metrics R and C are identities).

    The singular values of A B are split evenly, U √Σ and √Σ Vᵀ, so that both factors have entries of similar magnitude and lose
    equally little in a narrow storage dtype. The sign of each component makes its largest right entry positive, so the factors
    are unique.
    """
    tall, outer, inner = _upright(matrix, row_metric, column_metric)
    if outer is inner is None:
        low, high = matrix.aminmax()
        largest, transposed = torch.maximum(high, -low), tall is not matrix
        return factors_of_pieces(lambda: pieces_of(tall), tall.shape, rank, largest=largest, transposed=transposed)
    basis = leading_eigenvectors(_weighted_gram(tall, outer, inner), rank)
    first, last = (basis, basis) if inner is None else (inner.root(basis), inner.inverse_root(basis))  # W ≈ W first lastᵀ
    low, high = matrix.aminmax()
    left, right = _balanced(tall, first, last, torch.maximum(high, -low))
    return _signed(left, right.to(matrix.dtype), tall is not matrix)


def factors_of_pieces(
    pieces: Pieces, shape: Sequence[int], rank: int, *, largest: Tensor, transposed: bool = False
) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank cols"]]:
    """`low_rank_factors` without metrics, for a matrix that arrives in chunks and is never in memory as a whole.

    The chunks of rows form a tall matrix of this shape. With `transposed`, the factors are those of its transpose. `largest` is
    its largest magnitude, in the dtype and on the device of the factors.
    """
    basis = leading_basis(pieces(), shape, rank, like=largest)
    left = torch.empty(shape[0], rank, dtype=largest.dtype, device=largest.device)
    right = basis.mul_(fill_balanced(left, pieces(), basis, largest)).to(largest.dtype)
    return _signed(left, right, transposed)


def leading_basis(pieces: Iterable[Tensor], shape: Sequence[int], rank: int, *, like: Tensor) -> Float[Tensor, "side rank"]:
    """The leading right singular vectors of a (rows, side) matrix in chunks, in float64, on the device of `like`."""
    wide = (piece.double() for piece in pieces)
    return leading_eigenvectors(gram_of_pieces(wide, shape[1], like.device), rank)


def _signed(left: Tensor, right: Tensor, transposed: bool) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank cols"]]:
    """Both factors, swapped if transposed, with signs such that each right component's largest-magnitude entry is positive."""
    if transposed:
        left, right = right, left
    signs = torch.where(-right.amin(0) > right.amax(0), -1.0, 1.0)  # (rank,)
    return left.mul_(signs), right.mul_(signs).T


def leading_eigenvectors(symmetric: Float[Tensor, "side side"], rank: int) -> Float[Tensor, "side rank"]:
    """Eigenvectors of the `rank` largest eigenvalues, in decreasing order. Overwrites its argument."""
    first = len(symmetric) - rank
    if first and symmetric.device.type == "cpu":  # torch has no solver for a subset
        found = eigh(symmetric.numpy(), subset_by_index=(first, len(symmetric) - 1), overwrite_a=True)[1]
        return torch.from_numpy(found).flip(1)
    return eigen_in_place(symmetric)[1][:, first:].flip(1)


def fill_balanced(left: Tensor, pieces: Iterable[Tensor], basis: Tensor, length: Tensor) -> Tensor:
    """Fill `left` with U √Σ, given V and the matrix as chunks of rows. Returns √Σ (rank,).

    The singular values are computed as the column norms of W V, which stay accurate even if the eigenvalues are noise. The
    product is computed in float64 and stored in the dtype of `left`, divided by the largest entry `length` of W so that nothing
    underflows.
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
    """U √Σ and V √Σ from the SVD of W · first · lastᵀ, where `first` and `last` are (cols, rank) in float64.

    With last = Q R, the right singular vectors of W first Rᵀ come from its Gram matrix. Any rotation gives the same product, so
    squaring costs it no accuracy.
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
