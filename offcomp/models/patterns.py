"""The module paths of weight matrices, as regular expressions that families of models share.

A pattern must match the whole module path (the parameter path without `.weight`), except for an optional prefix such as
`bert.`, which is present in task-specific classes but not in base classes. A pattern may contain the named groups `layer`
(layer index), `group` (index of a group of shared layers in ALBERT) and `part` (encoder or decoder, text or vision).
"""

from __future__ import annotations

from dataclasses import dataclass

from offcomp.models.pieces import Layout


@dataclass(frozen=True)
class Pattern:
    """A regular expression for the module paths of one kind. `part` is the default if `regex` has no group named `part`.

    A pattern with `pieces` describes a fused weight, whose rows are divided among these kinds; `layout` says how (`pieces.py`).
    `transposed` says that a parameter with three dimensions, as in XLNet, has its inputs in the first one.
    """

    kind: str
    regex: str
    part: str = ""
    pieces: tuple[str, ...] = ()
    layout: Layout = "equal"
    transposed: bool = False


QKV = ("query", "key", "value")
GATED = ("ffn_gate", "ffn_in")
"""The order of a fused weight whose first half goes through the activation function."""


def fused(regex: str, pieces: tuple[str, ...] = QKV, layout: Layout = "equal", part: str = "") -> Pattern:
    """A pattern for a fused weight."""
    return Pattern(pieces[0], regex, part, pieces, layout)


def within(layer: str, *others: Pattern, part: str = "", **kinds: str) -> tuple[Pattern, ...]:
    """Patterns whose regular expressions start with the path `layer`."""
    relative = (*others, *(Pattern(kind, path, part) for kind, path in kinds.items()))
    return tuple(Pattern(p.kind, f"{layer}\\.{p.regex}", p.part or part, p.pieces, p.layout, p.transposed) for p in relative)


def _words(*regexes: str) -> tuple[Pattern, ...]:
    return tuple(Pattern("word_embeddings", regex) for regex in regexes)


_BERT_WORDS = _words(r"embeddings\.word_embeddings")
_BERT_LAYER = r"encoder\.layer\.(?P<layer>\d+)"
_BERT_FFN = {"ffn_in": r"intermediate\.dense", "ffn_out": r"output\.dense"}
_POOLER = Pattern("pooler", r"pooler(?:\.dense)?")


def bert(suffix: str = "", *others: Pattern) -> tuple[Pattern, ...]:
    """Patterns for BERT, with `suffix` appended to the names of the query, key and value modules."""
    attention = {kind: rf"attention\.self\.{kind}{suffix}" for kind in QKV}
    output = r"attention\.output\.dense"
    return (*_BERT_WORDS, *within(_BERT_LAYER, *others, **attention, attention_output=output, **_BERT_FFN), _POOLER)


DEBERTA = bert("_proj", fused(r"attention\.self\.in_proj", layout="per_head"))

MPNET = (
    *_BERT_WORDS,
    *within(
        _BERT_LAYER,
        query=r"attention\.attn\.q",
        key=r"attention\.attn\.k",
        value=r"attention\.attn\.v",
        attention_output=r"attention\.attn\.o",
        **_BERT_FFN,
    ),
    _POOLER,
)

DISTILBERT = (
    *_BERT_WORDS,
    *within(
        r"transformer\.layer\.(?P<layer>\d+)",
        query=r"attention\.q_lin",
        key=r"attention\.k_lin",
        value=r"attention\.v_lin",
        attention_output=r"attention\.out_lin",
        ffn_in=r"ffn\.lin1",
        ffn_out=r"ffn\.lin2",
    ),
)

ALBERT = (
    *_BERT_WORDS,
    *within(
        r"encoder\.albert_layer_groups\.(?P<group>\d+)\.albert_layers\.(?P<layer>\d+)",
        query=r"attention\.query",
        key=r"attention\.key",
        value=r"attention\.value",
        attention_output=r"attention\.dense",
        ffn_in=r"ffn",
        ffn_out=r"ffn_output",
    ),
    _POOLER,
)

MODERNBERT = (
    *_words(r"embeddings\.tok_embeddings"),
    *within(
        r"layers\.(?P<layer>\d+)",
        fused(r"attn\.Wqkv"),
        fused(r"mlp\.Wi", GATED),
        attention_output=r"attn\.Wo",
        ffn_out=r"mlp\.Wo",
    ),
)

XLNET = (
    *_words(r"word_embedding"),
    *within(
        r"layer\.(?P<layer>\d+)",
        *(Pattern(kind, rf"rel_attn\.{kind[0]}", transposed=True) for kind in QKV),
        Pattern("attention_output", r"rel_attn\.o"),
        Pattern("other", r"rel_attn\.r", transposed=True),
        ffn_in=r"ff\.layer_1",
        ffn_out=r"ff\.layer_2",
    ),
)

_Q_K_V = {kind: rf"self_attn\.{kind[0]}_proj" for kind in QKV}
_CROSS = {kind: rf"(?:encoder|cross)_attn\.{kind[0]}_proj" for kind in QKV}
_GATED_FFN = {
    "ffn_in": r"(?:mlp|feed_forward)\.(?:up_proj|fc1|c_fc)",
    "ffn_gate": r"(?:mlp|feed_forward)\.gate_proj",
    "ffn_out": r"(?:mlp|feed_forward)\.(?:down_proj|fc2|c_proj)",
}
_SHARED_EXPERT = r"(?:mlp|feed_forward)\.shared_experts?"
_MIXTURE = r"(?:mlp|feed_forward|block_sparse_moe)"
_MIXTURE_OF_EXPERTS = (
    fused(rf"{_MIXTURE}\.experts\.gate_up_proj", ("expert_gate", "expert_in")),
    Pattern("expert_out", rf"{_MIXTURE}\.experts\.down_proj"),
    Pattern("router", rf"{_MIXTURE}\.(?:gate|router)"),
    Pattern("router", rf"{_SHARED_EXPERT}_gate", part="shared"),
    *within(_SHARED_EXPERT, part="shared", ffn_in="up_proj", ffn_gate="gate_proj", ffn_out="down_proj"),
)
_LATENT_ATTENTION = {
    "query_down": r"self_attn\.q_a_proj",
    "query_up": r"self_attn\.q_b_proj",
    "kv_down": r"self_attn\.kv_a_proj_with_mqa",
    "kv_up": r"self_attn\.kv_b_proj",
}

DECODER = (
    *_words(r"embed_tokens", r"embeddings\.word_embeddings"),
    _POOLER,
    *within(
        r"layers\.(?P<layer>\d+)",
        *_MIXTURE_OF_EXPERTS,
        fused(r"self_attn\.qkv_proj", layout="grouped"),
        fused(r"mlp\.gate_up_proj", GATED),
        **_Q_K_V,
        attention_output=r"self_attn\.(?:o_proj|out_proj|dense)",
        **_GATED_FFN,
        **_LATENT_ATTENTION,
    ),
)
"""Llama and its many relatives: dense, with experts, with latent attention; encoders with the same paths, too."""

ENCODER_DECODER = (
    *_words(r"shared"),
    Pattern("word_embeddings", r"(?P<part>encoder|decoder)\.embed_tokens"),
    *within(
        r"decoder\.layers\.(?P<layer>\d+)", part="cross", **_CROSS, attention_output=r"(?:encoder|cross)_attn\.(?:out|o)_proj"
    ),
    *within(
        r"(?P<part>encoder|decoder)\.layers\.(?P<layer>\d+)",
        Pattern("ffn_in", r"fc1"),
        Pattern("ffn_out", r"fc2"),
        **_Q_K_V,
        attention_output=r"self_attn\.(?:out|o)_proj",
        **_GATED_FFN,
    ),
)

OPT = (
    *_words(r"decoder\.embed_tokens"),
    *within(
        r"decoder\.layers\.(?P<layer>\d+)",
        **_Q_K_V,
        attention_output=r"self_attn\.out_proj",
        ffn_in=r"fc1",
        ffn_out=r"fc2",
    ),
)

TOWERS = (
    *_words(r"(?:text_model\.)?embeddings\.token_embedding"),
    *within(
        r"(?:(?P<part>text|vision)_model\.)?encoder\.layers\.(?P<layer>\d+)",
        **_Q_K_V,
        attention_output=r"self_attn\.out_proj",
        ffn_in=r"mlp\.fc1",
        ffn_out=r"mlp\.fc2",
    ),
)

VIT = (
    *within(
        r"layers\.(?P<layer>\d+)",
        **{kind: rf"attention\.{kind[0]}_proj" for kind in QKV},
        attention_output=r"attention\.o_proj",
        ffn_in=r"mlp\.fc1",
        ffn_out=r"mlp\.fc2",
    ),
    _POOLER,
)

GPT2 = (
    *_words(r"wte"),
    *within(
        r"h\.(?P<layer>\d+)",
        fused(r"attn\.c_attn"),
        query=r"attn\.(?:attention\.)?q_proj",
        key=r"attn\.(?:attention\.)?k_proj",
        value=r"attn\.(?:attention\.)?v_proj",
        attention_output=r"attn\.(?:attention\.)?(?:c_proj|out_proj)",
        ffn_in=r"mlp\.(?:c_fc|fc_in)",
        ffn_out=r"mlp\.(?:c_proj|fc_out)",
    ),
)

FUSED_PER_HEAD = (
    *_words(r"embed_in", r"word_embeddings"),
    *within(
        r"(?:layers|h)\.(?P<layer>\d+)",
        fused(r"(?:self_)?attention\.query_key_value", layout="per_head"),
        attention_output=r"(?:self_)?attention\.dense",
        ffn_in=r"mlp\.dense_h_to_4h",
        ffn_out=r"mlp\.dense_4h_to_h",
    ),
)
"""GPT-NeoX, BLOOM and Falcon, whose fused rows alternate between query, key and value from head to head."""

_T5_LAYER = r"block\.(?P<layer>\d+)\.layer\.\d+"
T5 = (
    *_words(r"shared"),
    *within(rf"decoder\.{_T5_LAYER}\.EncDecAttention", part="cross", query="q", key="k", value="v", attention_output="o"),
    *within(
        rf"(?P<part>encoder|decoder)\.{_T5_LAYER}",
        query=r"SelfAttention\.q",
        key=r"SelfAttention\.k",
        value=r"SelfAttention\.v",
        attention_output=r"SelfAttention\.o",
        ffn_in=r"DenseReluDense\.wi(?:_1)?",
        ffn_gate=r"DenseReluDense\.wi_0",
        ffn_out=r"DenseReluDense\.wo",
    ),
)

DBRX = (
    *_words(r"wte"),
    *within(
        r"blocks\.(?P<layer>\d+)",
        fused(r"norm_attn_norm\.attn\.Wqkv", layout="grouped"),
        attention_output=r"norm_attn_norm\.attn\.out_proj",
        router=r"ffn\.router\.layer",
        expert_gate=r"ffn\.experts\.mlp\.w1",
        expert_in=r"ffn\.experts\.mlp\.v1",
        expert_out=r"ffn\.experts\.mlp\.w2",
    ),
)

MAMBA = (
    *_words(r"embeddings"),
    *within(
        r"layers\.(?P<layer>\d+)\.mixer",
        ssm_in="in_proj",
        ssm_x="x_proj",
        ssm_dt="dt_proj",
        ssm_out="out_proj",
    ),
)
