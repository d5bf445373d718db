"""Patterns for the module paths of the weight matrices in each transformer family.

A pattern must match the whole module path (the parameter path without `.weight`), except for an optional prefix such as
`bert.`, which is present in task-specific classes but not in base classes. Weights that match no pattern are of kind `other`.
A pattern may contain the named groups `layer` (layer index), `group` (index of a group of shared layers in ALBERT) and `part`
(encoder or decoder).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

KIND_TITLES = {
    "word_embeddings": "word embeddings",
    "query": "query",
    "key": "key",
    "value": "value",
    "attention_output": "attention output",
    "ffn_in": "FFN in",
    "ffn_gate": "FFN gate",
    "ffn_out": "FFN out",
}
"""Kinds that are compressed by default, and their display names."""
KINDS = tuple(KIND_TITLES)

OTHER_KINDS = ("pooler", "head", "other")
"""Kinds that are listed but never compressed by default."""

Side = Literal["rows", "columns"]

RESIDUAL_SIDE: dict[str, Side] = {
    **dict.fromkeys(("word_embeddings", "query", "key", "value", "ffn_in", "ffn_gate", "head"), "columns"),
    **dict.fromkeys(("attention_output", "ffn_out"), "rows"),
}
"""For each kind, the dimension of a (rows, cols) weight that corresponds to the residual stream."""


@dataclass(frozen=True)
class Pattern:
    """A regular expression for the module paths of one kind. `part` is the default if `regex` has no group named `part`.

    A pattern with `pieces` describes a fused weight, whose rows are split into equal blocks, one per kind, in order.
    """

    kind: str
    regex: str
    part: str = ""
    pieces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """Model types that use the same module paths."""

    name: str
    model_types: tuple[str, ...]
    patterns: tuple[Pattern, ...]


@dataclass(frozen=True)
class Match:
    """Result of matching a module path. `layer` is the layer index within `group`."""

    pattern: Pattern
    layer: int | None = None
    group: int = 0
    part: str = ""


UNKNOWN = Match(Pattern("other", ""))
"""Result for a module path that matches no pattern."""

HEADS = tuple(
    Pattern("head", regex)
    for regex in (
        r"lm_head(?:\.dense|\.decoder)?",
        r"(?:pre_|sop_classifier\.)?classifier(?:\.dense|\.out_proj)?",
        r"classification_head\.(?:dense|out_proj)",
        r"qa_outputs",
        r"score",
        r"predictions\.(?:dense|decoder)",
        r"cls\.predictions\.(?:transform\.dense|decoder)",
        r"cls\.seq_relationship",
        r"lm_predictions\.lm_head\.dense",
        r"vocab_(?:transform|projector)",
        r"generator_predictions\.dense",
        r"generator_lm_head",
        r"discriminator_predictions\.(?:dense|dense_prediction)",
        r"(?:sequence_summary|multiple_choice_head)\.summary",
    )
)
"""Patterns for the heads of task-specific classes, shared by all families."""


def _patterns(embeddings: str, layer: str, *others: Pattern, **kinds: str) -> tuple[Pattern, ...]:
    """Patterns for the word embeddings, each kind of weight in a layer (with paths relative to `layer`), and any others."""
    layered = (Pattern(kind, f"{layer}\\.{path}") for kind, path in kinds.items())
    return (Pattern("word_embeddings", embeddings), *layered, *others)


_BERT_EMBEDDINGS = r"embeddings\.word_embeddings"


def _bert(suffix: str = "") -> tuple[Pattern, ...]:
    """Patterns for BERT, with `suffix` appended to the names of the query, key and value modules."""
    return _patterns(
        _BERT_EMBEDDINGS,
        r"encoder\.layer\.(?P<layer>\d+)",
        Pattern("pooler", r"pooler\.dense"),
        query=rf"attention\.self\.query{suffix}",
        key=rf"attention\.self\.key{suffix}",
        value=rf"attention\.self\.value{suffix}",
        attention_output=r"attention\.output\.dense",
        ffn_in=r"intermediate\.dense",
        ffn_out=r"output\.dense",
    )


_DISTILBERT = _patterns(
    _BERT_EMBEDDINGS,
    r"transformer\.layer\.(?P<layer>\d+)",
    query=r"attention\.q_lin",
    key=r"attention\.k_lin",
    value=r"attention\.v_lin",
    attention_output=r"attention\.out_lin",
    ffn_in=r"ffn\.lin1",
    ffn_out=r"ffn\.lin2",
)

_ALBERT = _patterns(
    _BERT_EMBEDDINGS,
    r"encoder\.albert_layer_groups\.(?P<group>\d+)\.albert_layers\.(?P<layer>\d+)",
    Pattern("pooler", r"pooler"),
    query=r"attention\.query",
    key=r"attention\.key",
    value=r"attention\.value",
    attention_output=r"attention\.dense",
    ffn_in=r"ffn",
    ffn_out=r"ffn_output",
)

_GPT2 = _patterns(
    r"wte",
    r"h\.(?P<layer>\d+)",
    Pattern("query", r"h\.(?P<layer>\d+)\.attn\.c_attn", pieces=("query", "key", "value")),
    attention_output=r"attn\.c_proj",
    ffn_in=r"mlp\.c_fc",
    ffn_out=r"mlp\.c_proj",
)

_ATTENTION_PROJECTIONS = {"query": r"self_attn\.q_proj", "key": r"self_attn\.k_proj", "value": r"self_attn\.v_proj"}
_OPT = _patterns(
    r"decoder\.embed_tokens",
    r"decoder\.layers\.(?P<layer>\d+)",
    **_ATTENTION_PROJECTIONS,
    attention_output=r"self_attn\.out_proj",
    ffn_in=r"fc1",
    ffn_out=r"fc2",
)

_LLAMA = _patterns(
    r"embed_tokens",
    r"layers\.(?P<layer>\d+)",
    **_ATTENTION_PROJECTIONS,
    attention_output=r"self_attn\.o_proj",
    ffn_in=r"mlp\.up_proj",
    ffn_gate=r"mlp\.gate_proj",
    ffn_out=r"mlp\.down_proj",
)

_T5_CROSS_ATTENTION = tuple(
    Pattern(kind, rf"decoder\.block\.(?P<layer>\d+)\.layer\.\d+\.EncDecAttention\.{name}", part="cross")
    for kind, name in {"query": "q", "key": "k", "value": "v", "attention_output": "o"}.items()
)
_T5 = _patterns(
    r"shared",
    r"(?P<part>encoder|decoder)\.block\.(?P<layer>\d+)\.layer\.\d+",
    *_T5_CROSS_ATTENTION,
    query=r"SelfAttention\.q",
    key=r"SelfAttention\.k",
    value=r"SelfAttention\.v",
    attention_output=r"SelfAttention\.o",
    ffn_in=r"DenseReluDense\.wi(?:_1)?",
    ffn_gate=r"DenseReluDense\.wi_0",
    ffn_out=r"DenseReluDense\.wo",
)

FAMILIES = (
    Family("BERT", ("bert",), _bert()),
    Family("RoBERTa", ("roberta", "xlm-roberta"), _bert()),
    Family("DistilBERT", ("distilbert",), _DISTILBERT),
    Family("ALBERT", ("albert",), _ALBERT),
    Family("ELECTRA", ("electra",), _bert()),
    Family("DeBERTa-v2", ("deberta-v2",), _bert("_proj")),
    Family("GPT-2", ("gpt2",), _GPT2),
    Family("OPT", ("opt",), _OPT),
    Family("Llama", ("llama", "mistral", "qwen2"), _LLAMA),
    Family("T5", ("t5",), _T5),
)


def family_of(model_type: str) -> Family | None:
    """The family that includes this `model_type`, or None if the model type is unknown."""
    return next((family for family in FAMILIES if model_type in family.model_types), None)


def match(family: Family | None, path: str) -> Match:
    """Match a module path against the patterns of `family`. Returns `UNKNOWN` if no pattern matches or `family` is None."""
    for pattern in (*family.patterns, *HEADS) if family else ():
        if matched := re.fullmatch(rf"(?:\w+\.)?{pattern.regex}", path):
            groups = matched.groupdict()
            layer = int(groups["layer"]) if "layer" in groups else None
            return Match(pattern, layer, int(groups.get("group", 0)), groups.get("part", pattern.part))
    return UNKNOWN
