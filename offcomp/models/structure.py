"""Recognise the kinds of weight matrices in a model of an unknown family, from repeated blocks, shapes and, as hints, names.

1. Blocks. A list whose items hold the same matrices is a stack of layers. The most frequent dimension in it is the width of the
   residual stream. A matrix with `cols` = width reads from that stream, one with `rows` = width writes to it.
2. Attention and feed-forward parts of a block are told apart by words such as "attn" in their paths; without such words, a
   matrix that is written from as many rows as one or two others have is a feed-forward layer, and the rest is attention.
3. Within each part, shapes decide, then words: the reader called q, query, ... is the query.

A fused query, key and value stays one matrix of kind `qkv`, since names and shapes do not tell how its rows are interleaved.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from offcomp.models.families import Match
from offcomp.models.patterns import HEADS, Pattern
from offcomp.models.weight import StoredWeight

MATRICES_OF_A_LAYER = 2
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
PIECES = {"q": "query", "query": "query", "wq": "query", "k": "key", "key": "key", "wk": "key"} | dict.fromkeys(
    ("v", "value", "wv"), "value"
)
FUSED = re.compile(r"w?qkv\w*|c_attn")
OUT_WORDS = frozenset(("o", "out", "output", "wo", "down", "proj", "dense", "w2", "fc2", "lin2"))
GATE_WORDS = frozenset(("gate", "gated", "wg", "w1"))
POSITION_WORDS = frozenset(("pos", "position", "positional", "relative", "rel", "r", "bias"))
SSM_WORDS = frozenset(("mamba", "ssm", "mixer", "recurrent", "rglru"))
PART_WORDS = {
    "encoder": ("encoder", "enc"),
    "decoder": ("decoder", "dec"),
    "text": ("text", "language"),
    "vision": ("vision", "visual", "image"),
}


class Place(NamedTuple):
    """Where a weight is: in a layer of a stack, or outside all stacks (`stack` is empty). `rest` is the path within the layer."""

    stack: str
    layer: int | None
    rest: str


@dataclass
class Block:
    """The matrices of one layer, by their paths within it, with (rows, cols) of each."""

    width: int
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    experts: dict[str, int] = field(default_factory=dict)


def words_of(path: str) -> list[str]:
    """The words in a path, in lower case: `SelfAttention.q_proj` has self, attention, q and proj."""
    return [word.lower() for name in re.split(r"[._]", path) for word in ([name] if name.islower() else WORD.findall(name))]
