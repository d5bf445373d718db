"""Float64 arithmetic on large float32 matrices in chunks of rows, which avoids a full float64 copy."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float, Float64
from torch import Tensor

CHUNK_ENTRIES = 1 << 18
"""Number of entries per chunk: 2 MB in float64, which fits in the cache."""


def chunk_height(width: int) -> int:
    """The number of rows per chunk for rows of the given width."""
    return max(1, CHUNK_ENTRIES // max(1, width))


def row_chunks(matrix: Tensor) -> tuple[Tensor, ...]:
    """Split a matrix into views of consecutive rows, from top to bottom."""
    return matrix.split(chunk_height(matrix[:1].numel()))


def float64_chunks(matrix: Float[Tensor, "rows cols"]) -> Iterator[Float64[Tensor, "_ cols"]]:
    """Yield chunks of rows in float64. Column-major matrices are read in memory order, which is many times faster."""
    if matrix.T.is_contiguous():
        yield from (columns.double().T for columns in matrix.T.split(chunk_height(matrix.shape[1]), 1))
    else:
        yield from (rows.double() for rows in row_chunks(matrix))


def squared_norm(matrix: Float[Tensor, "rows cols"]) -> float:
    """The sum of the squared entries, in float64."""
    return inner_product(matrix, matrix)


def inner_product(one: Float[Tensor, "rows cols"], other: Float[Tensor, "rows cols"]) -> float:
    """The sum of the entrywise products, in float64."""
    return sum(float((a.double() * b).sum()) for a, b in zip(row_chunks(one), row_chunks(other), strict=True))
