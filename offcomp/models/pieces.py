"""How the rows of a fused weight are divided among its pieces. The only place that knows.

    equal        equal blocks, one per piece: GPT-2's [query; key; value], or [gate; in] of a gated feed-forward layer
    grouped      blocks of query, key and value, where several query heads share a key and value head (Phi-3)
    per_head     for each key and value head: the rows of its query heads, of the key and of the value (GPT-NeoX, Falcon)
    alternating  row 0 belongs to the first piece, row 1 to the second, row 2 to the first, and so on (experts of gpt-oss)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Layout = Literal["equal", "grouped", "per_head", "alternating"]


class Heads(NamedTuple):
    """The attention heads of a model: how many queries there are, and the rows of each; 0 if unknown, or hidden / heads."""

    number: int = 0
    size: int = 0


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


def split(kinds: tuple[str, ...], layout: Layout, shape: tuple[int, int], heads: Heads) -> list[Piece]:
    """The pieces of a fused matrix (rows, cols), one for each kind, in order; empty if its rows cannot be divided like this."""
    rows = shape[0]
    if layout == "alternating":
        return [] if rows % len(kinds) else _interleaved(kinds, rows, (1,) * len(kinds))
    if layout == "equal":
        return [] if rows % len(kinds) else _adjacent(kinds, (rows // len(kinds),) * len(kinds))
    size = heads.size or (shape[1] // heads.number if heads.number else 0)
    shared, rest = divmod(rows - heads.number * size, 2 * size) if size else (0, 0)  # key and value heads
    if rest or shared < 1 or heads.number % shared:
        return []
    if layout == "grouped":
        return _adjacent(kinds, (heads.number * size, shared * size, shared * size))
    return _interleaved(kinds, rows, (heads.number // shared * size, size, size))


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
