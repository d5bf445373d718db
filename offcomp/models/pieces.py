"""Stored weights, and how the rows of a fused one are divided among its pieces. The only place that knows.

equal        equal blocks, one per piece: GPT-2's [query; key; value], or [gate; in] of a gated feed-forward layer
grouped      blocks of query, key and value, where several query heads share a key and value head (Phi-3)
per_head     for each key and value head: the rows of its query heads, of the key and of the value (GPT-NeoX, Falcon)
alternating  row 0 belongs to the first piece, row 1 to the second, row 2 to the first, and so on (experts of gpt-oss)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Layout = Literal["equal", "grouped", "per_head", "alternating"]


class Sizes(NamedTuple):
    """Sizes in a model's config; 0 or empty if unknown.

    heads        number of attention heads of a query
    head_size    rows of each head; 0 for hidden / heads
    vocabulary   number of tokens
    widths       hidden sizes, of which a model with several parts may have several
    """

    heads: int = 0
    head_size: int = 0
    vocabulary: int = 0
    widths: tuple[int, ...] = ()


NO_SIZES = Sizes()


@dataclass(frozen=True)
class Piece:
    """A module's rows within a stored matrix: `rows` in total, in blocks of `block` rows that begin `stride` rows apart.

    A stride of 0 means that all rows are adjacent.
    """

    kind: str
    start: int
    rows: int
    block: int = 0
    stride: int = 0


@dataclass(frozen=True)
class StoredWeight:
    """A weight tensor as stored in the model.

    paths        paths of all modules that share it, in model order, or of the parameters themselves
    shape        of the tensor; a module's matrix has two dimensions
    transposed   whether a matrix in it is (in_features, out_features)
    alternating  whether the rows of two fused matrices alternate
    experts      number of matrices in it; 0 if it is not a tensor of experts
    is_bare      whether `paths` are those of parameters not named `weight`
    is_embedding whether rows of it are looked up
    """

    paths: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool = False
    alternating: bool = False
    experts: int = 0
    is_bare: bool = False
    is_embedding: bool = False


def split(kinds: tuple[str, ...], layout: Layout, shape: tuple[int, int], sizes: Sizes) -> list[Piece]:
    """The pieces of a fused matrix (rows, cols), one for each kind, in order; empty if its rows cannot be divided like this."""
    rows = shape[0]
    if layout == "alternating":
        return [] if rows % len(kinds) else _interleaved(kinds, rows, (1,) * len(kinds))
    if layout == "equal":
        return [] if rows % len(kinds) else _adjacent(kinds, (rows // len(kinds),) * len(kinds))
    heads, size = sizes.heads, sizes.head_size or (shape[1] // sizes.heads if sizes.heads else 0)
    shared, rest = divmod(rows - heads * size, 2 * size) if size else (0, 0)  # key and value heads
    if rest or shared < 1 or heads % shared:
        return []
    if layout == "grouped":
        return _adjacent(kinds, (heads * size, shared * size, shared * size))
    return _interleaved(kinds, rows, (heads // shared * size, size, size))


def _adjacent(kinds: tuple[str, ...], sizes: tuple[int, ...]) -> list[Piece]:
    """Pieces of these numbers of rows, one after the other."""
    return [Piece(kind, sum(sizes[:index]), size) for index, (kind, size) in enumerate(zip(kinds, sizes, strict=True))]


def _interleaved(kinds: tuple[str, ...], rows: int, blocks: tuple[int, ...]) -> list[Piece]:
    """Pieces of these numbers of rows, repeated until all rows are used."""
    stride = sum(blocks)
    if stride == rows:
        return _adjacent(kinds, blocks)
    return [
        Piece(kind, sum(blocks[:index]), rows // stride * block, block, stride)
        for index, (kind, block) in enumerate(zip(kinds, blocks, strict=True))
    ]
