"""Kinds of weight matrices, and the families of models in which module paths tell a matrix's kind.

The kinds of all other models are recognised by structure instead (`structure.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from offcomp.models import patterns
from offcomp.models.patterns import Pattern

KIND_TITLES = {
    "word_embeddings": "word embeddings",
    "query": "query",
    "key": "key",
    "value": "value",
    "attention_output": "attention output",
    "ffn_in": "FFN in",
    "ffn_gate": "FFN gate",
    "ffn_out": "FFN out",
    "qkv": "query, key and value",
    "query_down": "query down",
    "query_up": "query up",
    "kv_down": "key and value down",
    "kv_up": "key and value up",
    "expert_in": "expert in",
    "expert_gate": "expert gate",
    "expert_out": "expert out",
    "ssm_in": "state-space in",
    "ssm_out": "state-space out",
}
"""Kinds that are compressed by default, and their display names."""
KINDS = tuple(KIND_TITLES)

OTHER_TITLES = {
    "router": "router",
    "ssm_x": "state-space parameters",
    "ssm_dt": "state-space step",
    "pooler": "pooler",
    "head": "head",
    "other": "not recognised",
}
"""Kinds that are listed but never compressed by default, and their display names."""
OTHER_KINDS = tuple(OTHER_TITLES)

PARTS = ("encoder", "decoder", "cross", "text", "vision", "shared")
"""Parts of a model with modules of the same kinds. `cross` is cross-attention; `shared` is an expert that is always used."""

MODULE_NAME = re.compile(rf"(?:(?:{'|'.join(PARTS)})\.)?(?:{'|'.join((*KINDS, *OTHER_KINDS))})(?:\.\d+(?:\.e\d+)?)?")
"""Matches the name of a weight matrix, such as `query.0`."""

Side = Literal["rows", "columns"]

_READS = ("word_embeddings", "query", "key", "value", "ffn_in", "ffn_gate", "head", "qkv", "query_down", "kv_down")
RESIDUAL_SIDE: dict[str, Side] = {
    **dict.fromkeys((*_READS, "expert_in", "expert_gate", "router", "ssm_in"), "columns"),
    **dict.fromkeys(("attention_output", "ffn_out", "expert_out", "ssm_out"), "rows"),
}
"""For each kind, the dimension of a (rows, cols) weight that corresponds to the residual stream."""


@dataclass(frozen=True)
class Family:
    """Model types that use the same module paths."""

    name: str
    model_types: tuple[str, ...]
    patterns: tuple[Pattern, ...]


@dataclass(frozen=True)
class Match:
    """What is known about a weight. `layer` is the layer index within `group`; `expert` numbers an expert that is a module."""

    pattern: Pattern
    layer: int | None = None
    group: int = 0
    part: str = ""
    expert: int | None = None


HEADS = tuple(
    Pattern("head", regex)
    for regex in (
        r"(?:lm_|mlm_)?head(?:\.dense|\.decoder|\.out_proj)?",
        r"lm_loss",
        r"decoder",
        r"embed_out",
        r"proj_out",
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
        r"(?:visual|text)_projection",
        r"text_model\.head",
        r"vision_model\.head\.(?:attention\.(?:in_proj_weight|out_proj)|mlp\.fc[12])",
    )
)
"""Patterns for the heads of task-specific classes, shared by all families."""

UNKNOWN = Match(Pattern("other", ""))
"""Result for a module path that matches no pattern."""

TRANSPOSED = ("GPT-2",)
"""Families whose layers keep their weights as (in_features, out_features)."""

FAMILIES = (
    Family("BERT", ("bert",), patterns.bert()),
    Family("RoBERTa", ("roberta", "xlm-roberta", "camembert"), patterns.bert()),
    Family("DistilBERT", ("distilbert",), patterns.DISTILBERT),
    Family("MPNet", ("mpnet",), patterns.MPNET),
    Family("ALBERT", ("albert",), patterns.ALBERT),
    Family("ELECTRA", ("electra",), patterns.bert()),
    Family("DeBERTa-v2", ("deberta-v2",), patterns.DEBERTA),
    Family("DeBERTa", ("deberta",), patterns.DEBERTA),
    Family("ModernBERT", ("modernbert",), patterns.MODERNBERT),
    Family("XLNet", ("xlnet",), patterns.XLNET),
    Family("GPT-2", ("gpt2",), patterns.GPT2),
    Family("GPT-Neo", ("gpt_neo",), patterns.GPT2),
    Family("GPT-J", ("gptj",), patterns.GPT2),
    Family("GPT-NeoX", ("gpt_neox",), patterns.FUSED_PER_HEAD),
    Family("BLOOM", ("bloom",), patterns.FUSED_PER_HEAD),
    Family("Falcon", ("falcon",), patterns.FUSED_PER_HEAD),
    Family("OPT", ("opt",), patterns.OPT),
    Family("Llama", ("llama", "mistral", "qwen2"), patterns.DECODER),
    Family("EuroBERT", ("eurobert",), patterns.DECODER),
    Family("NomicBERT", ("nomic_bert",), patterns.DECODER),
    Family("JinaBERT", ("jina_embeddings_v3",), patterns.DECODER),
    Family("Llama 4", ("llama4_text",), patterns.DECODER),
    Family("Ministral", ("ministral", "ministral3"), patterns.DECODER),
    Family("Mixtral", ("mixtral",), patterns.DECODER),
    Family("Qwen3", ("qwen3",), patterns.DECODER),
    Family("Qwen MoE", ("qwen2_moe", "qwen3_moe"), patterns.DECODER),
    Family("Gemma", ("gemma", "gemma2", "gemma3_text"), patterns.DECODER),
    Family("Phi", ("phi", "phi3"), patterns.DECODER),
    Family("SmolLM3", ("smollm3",), patterns.DECODER),
    Family("StableLM", ("stablelm",), patterns.DECODER),
    Family("Cohere", ("cohere", "cohere2"), patterns.DECODER),
    Family("OLMo", ("olmo", "olmo2", "olmoe"), patterns.DECODER),
    Family("Granite", ("granite", "granitemoe"), patterns.DECODER),
    Family("GLM-4", ("glm", "glm4"), patterns.DECODER),
    Family("StarCoder2", ("starcoder2",), patterns.DECODER),
    Family("Nemotron", ("nemotron",), patterns.DECODER),
    Family("DeepSeek", ("deepseek_v2", "deepseek_v3"), patterns.DECODER),
    Family("gpt-oss", ("gpt_oss",), patterns.DECODER),
    Family("DBRX", ("dbrx",), patterns.DBRX),
    Family("T5", ("t5", "mt5", "umt5"), patterns.T5),
    Family("BART", ("bart", "mbart"), patterns.ENCODER_DECODER),
    Family("Pegasus", ("pegasus",), patterns.ENCODER_DECODER),
    Family("Marian", ("marian",), patterns.ENCODER_DECODER),
    Family("Whisper", ("whisper",), patterns.ENCODER_DECODER),
    Family("T5Gemma", ("t5gemma",), patterns.ENCODER_DECODER),
    Family("ViT", ("vit",), patterns.VIT),
    Family("CLIP", ("clip", "clip_text_model", "clip_vision_model"), patterns.TOWERS),
    Family("SigLIP", ("siglip", "siglip_text_model", "siglip_vision_model"), patterns.TOWERS),
    Family("Mamba", ("mamba", "mamba2"), patterns.MAMBA),
)


def family_of(model_type: str) -> Family | None:
    """The family that includes this `model_type`, or None if the model type is unknown."""
    return next((family for family in FAMILIES if model_type in family.model_types), None)


def match(family: Family, path: str) -> Match:
    """Match a module path against the patterns of `family`. Returns `UNKNOWN` if no pattern matches."""
    for pattern in (*family.patterns, *HEADS):
        if matched := re.fullmatch(rf"(?:\w+\.)??{pattern.regex}", path):
            groups = matched.groupdict()
            layer = int(groups["layer"]) if "layer" in groups else None
            return Match(pattern, layer, int(groups.get("group", 0)), groups.get("part") or pattern.part)
    return UNKNOWN
