"""Recognise the kinds of weight matrices in a model of an unknown family by its repeated blocks, shapes and, as hints, words.

1. A list whose items hold matrices is a stack of layers. The most frequent dimension in a layer is the width of the residual
   stream: a matrix with as many columns reads from the stream, one with as many rows writes to it.
2. Within a layer, words such as "attn" in the paths tell attention from the rest. Without such words, a writer with as many
   columns as one or two readers have rows belongs to a feed-forward layer, and everything else to attention.
3. Within attention, words tell the readers apart (q, query, ...), or else their order. In a feed-forward layer, the gate is the
   reader whose name says so, or else the first of two.

A fused query, key and value stays one matrix of kind `qkv`, because names and shapes do not tell how its rows are interleaved.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from offcomp.models.families import HEADS, UNKNOWN, Match
from offcomp.models.layer_kinds import Layer, Matrix, words_of
from offcomp.models.patterns import GATED, Pattern
from offcomp.models.pieces import StoredWeight
from offcomp.models.places import Place, places_of

PART_WORDS = {
    "text": {"text", "language"},
    "vision": {"vision", "visual", "image"},
    "encoder": {"encoder", "enc"},
    "decoder": {"decoder", "dec"},
}


def recognise(weights: Sequence[StoredWeight], vocabulary: int = 0, widths: Collection[int] = ()) -> list[Match]:
    """What is known about each weight, in order.

    `vocabulary` is the number of tokens and `widths` are the widths of residual streams, according to the config; 0 and empty
    if unknown.
    """
    places = places_of([weight.paths[0] for weight in weights])
    base = _base(weights, places)
    parts = _parts({place.stack for place in places if place.stack})
    layers: dict[tuple[str, int | None], dict[int, Matrix]] = defaultdict(dict)
    found: dict[int, Match] = {}
    for index, (weight, place) in enumerate(zip(weights, places, strict=True)):
        if place.stack:
            layers[place.stack, place.layer][index] = Matrix.of(weight, place.rest)
        else:
            found[index] = _outside(weight, vocabulary, weights, parts)
            path = weight.paths[0]
            if base and found[index].pattern.kind == "other" and not (weight.is_embedding or path.startswith(base)):
                found[index] = Match(Pattern("head", path))
    attentive = {stack for (stack, _), group in layers.items() if any(matrix.is_attention for matrix in group.values())}
    for (stack, layer), matrices in layers.items():
        width = _width(matrices.values(), widths)
        for index, (kind, part) in Layer(matrices, width, stack in attentive).kinds().items():
            matrix, weight = matrices[index], weights[index]
            with_heads = not weight.experts and len(weight.shape) > 2  # as in XLNet: (width, heads, size of a head)
            if kind == "other" and with_heads and weight.shape[0] != width:
                found[index] = UNKNOWN
                continue
            transposed = with_heads and kind != "attention_output"
            pattern = Pattern(kind, matrix.path, pieces=_pieces(kind, matrix), transposed=transposed)
            found[index] = Match(pattern, layer, 0, part or parts[stack] if kind != "other" else "", matrix.expert)
    return [found[index] for index in range(len(weights))]


def _base(weights: Sequence[StoredWeight], places: Sequence[Place]) -> str:
    """The beginning of all paths of layers and embeddings, such as `bert.`; what has another path is a head. Empty if none."""
    inside = (w.paths[0] for w, place in zip(weights, places, strict=True) if place.stack or w.is_embedding)
    first = {path.partition(".")[0] for path in inside}
    return f"{first.pop()}." if len(first) == 1 and any(weight.is_embedding for weight in weights) else ""


def _parts(stacks: set[str]) -> dict[str, str]:
    """The part of each stack, such as `encoder`, if there are several; empty if its path does not say."""
    if len(stacks) < 2:
        return dict.fromkeys(stacks, "")
    return {stack: next((part for part in PART_WORDS if PART_WORDS[part] & set(words_of(stack))), "") for stack in stacks}


def _width(matrices: Collection[Matrix], widths: Collection[int]) -> int:
    """The width of the residual stream in a layer: the dimension that most matrices have, preferably one from the config.

    Without attention, as in Mamba, half as many matrices suffice for one from the config.
    """
    linear = [matrix for matrix in matrices if matrix.is_linear or matrix.is_expert] or matrices
    counts = Counter(side for matrix in linear for side in {matrix.rows, matrix.cols})
    most = 0 if any(matrix.is_attention for matrix in linear) else max(counts.values())
    stated = [side for side in counts if side in widths and most and 2 * counts[side] >= most]
    return max(stated or counts, key=lambda side: (counts[side], side in widths, side))


def _outside(weight: StoredWeight, vocabulary: int, weights: Sequence[StoredWeight], parts: Mapping[str, str]) -> Match:
    """What is known about a weight outside all layers."""
    path, rows, words = weight.paths[0], weight.shape[0], set(words_of(weight.paths[0]))
    tokens = vocabulary or max((other.shape[0] for other in weights if other.is_embedding), default=0)
    if weight.is_embedding and rows == tokens:
        part = next((part for part in ("encoder", "decoder") if part in parts.values() and PART_WORDS[part] & words), "")
        return Match(Pattern("word_embeddings", path), part=part)
    if weight.is_embedding:
        return Match(Pattern("other", path))
    if rows == vocabulary or any(re.fullmatch(rf"(?:\w+\.)?{head.regex}", path) for head in HEADS):
        return Match(Pattern("head", path))
    return Match(Pattern("pooler" if "pooler" in words else "other", path if len(weight.shape) == 2 else ""))


def _pieces(kind: str, matrix: Matrix) -> tuple[str, ...]:
    """The pieces of a fused gate and input, in the order in which its name lists them."""
    if kind == "expert_in" and matrix.is_double:
        return ("expert_gate", "expert_in")
    words = words_of(matrix.path.rpartition(".")[2])
    is_named = "gate" in words and "up" in words and words.index("gate") < words.index("up")
    return GATED if kind == "ffn_in" and matrix.is_double and is_named else ()
