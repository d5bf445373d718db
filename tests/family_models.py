"""Configs of tiny random models, one for each of today's families, with sizes so unequal that no two roles look alike.

`FAMILY_MODELS` maps a name to the config and the model class. Transformers is imported when a model is built.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

VOCABULARY, HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, HEAD, POSITIONS = 61, 24, 40, 2, 4, 2, 8, 32
EXPERT = 20

BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
BERT = {**BASE, "type_vocab_size": 2}
GQA = {**BASE, "num_key_value_heads": KV_HEADS, "head_dim": HEAD}
NO_HEAD_DIM = {**BASE, "num_key_value_heads": KV_HEADS}
MOE = {**GQA, "moe_intermediate_size": EXPERT, "num_experts": 5, "num_experts_per_tok": 3}
MLA = {
    **BASE,
    "num_key_value_heads": HEADS,
    "moe_intermediate_size": EXPERT,
    "q_lora_rank": 14,
    "kv_lora_rank": 10,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 7,
    "n_routed_experts": 4,
    "num_experts_per_tok": 3,
    "n_group": 2,
    "topk_group": 2,
    "first_k_dense_replace": 1,
}
BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": HIDDEN,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS + 1,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": FFN,
    "decoder_ffn_dim": FFN + 4,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": HIDDEN,
    "d_kv": 5,
    "d_ff": FFN,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS + 1,
    "num_heads": HEADS,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
VISION = {**BASE, "image_size": 8, "patch_size": 4, "num_channels": 3}
TOWERS: dict[str, Any] = {
    "text_config": {**BASE, "projection_dim": 18},
    "vision_config": {**VISION, "hidden_size": 28, "projection_dim": 18},
}

FAMILY_MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForMaskedLM", BERT),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", BERT),
    "camembert": ("CamembertConfig", "CamembertForMaskedLM", BERT),
    "xlm_roberta": ("XLMRobertaConfig", "XLMRobertaForSequenceClassification", BERT),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        {
            "vocab_size": VOCABULARY,
            "dim": HIDDEN,
            "hidden_dim": FFN,
            "n_layers": LAYERS,
            "n_heads": HEADS,
            "max_position_embeddings": POSITIONS,
        },
    ),
    "mpnet": ("MPNetConfig", "MPNetForMaskedLM", {**BERT, "pad_token_id": 1}),
    "albert": ("AlbertConfig", "AlbertForMaskedLM", {**BERT, "embedding_size": 14}),
    "electra": ("ElectraConfig", "ElectraForMaskedLM", {**BERT, "embedding_size": 14}),
    "deberta": (
        "DebertaConfig",
        "DebertaForMaskedLM",
        {**BERT, "relative_attention": True, "max_relative_positions": 8, "pos_att_type": ["c2p", "p2c"]},
    ),
    "deberta_v2": (
        "DebertaV2Config",
        "DebertaV2ForMaskedLM",
        {
            **BERT,
            "relative_attention": True,
            "position_buckets": 4,
            "max_relative_positions": 8,
            "pos_att_type": ["c2p", "p2c"],
        },
    ),
    "modernbert": ("ModernBertConfig", "ModernBertForMaskedLM", {**BASE, "cls_token_id": 1, "sep_token_id": 1}),
    "eurobert": ("EuroBertConfig", "EuroBertForMaskedLM", GQA),
    "nomic_bert": ("NomicBertConfig", "NomicBertModel", BERT),
    "jina": ("JinaEmbeddingsV3Config", "JinaEmbeddingsV3Model", BERT),
    "xlnet": (
        "XLNetConfig",
        "XLNetLMHeadModel",
        {"vocab_size": VOCABULARY, "d_model": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "d_inner": FFN},
    ),
    "bart": ("BartConfig", "BartForConditionalGeneration", BART),
    "mbart": ("MBartConfig", "MBartForConditionalGeneration", BART),
    "pegasus": ("PegasusConfig", "PegasusForConditionalGeneration", BART),
    "marian": ("MarianConfig", "MarianMTModel", BART),
    "t5": ("T5Config", "T5ForConditionalGeneration", T5),
    "mt5": ("MT5Config", "MT5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5Config", "UMT5ForConditionalGeneration", T5),
    "t5gemma": (
        "T5GemmaConfig",
        "T5GemmaForConditionalGeneration",
        {"encoder": GQA, "decoder": {**GQA, "cross_attention_hidden_size": HIDDEN}, "vocab_size": VOCABULARY},
    ),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {
            "vocab_size": VOCABULARY,
            "n_embd": HIDDEN,
            "n_inner": FFN,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "n_positions": POSITIONS,
            "bos_token_id": 1,
            "eos_token_id": 1,
        },
    ),
    "gpt_neo": (
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": FFN,
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "max_position_embeddings": POSITIONS,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "bos_token_id": 1,
            "eos_token_id": 1,
        },
    ),
    "gptj": (
        "GPTJConfig",
        "GPTJForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "n_embd": HIDDEN,
            "n_inner": FFN,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "n_positions": POSITIONS,
            "rotary_dim": 4,
            "bos_token_id": 1,
            "eos_token_id": 1,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", BASE),
    "bloom": (
        "BloomConfig",
        "BloomForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS},
    ),
    "falcon": ("FalconConfig", "FalconForCausalLM", {**BASE, "multi_query": True, "bias": False}),
    "falcon_new": ("FalconConfig", "FalconForCausalLM", {**BASE, "new_decoder_architecture": True, "num_kv_heads": KV_HEADS}),
    "falcon_old": ("FalconConfig", "FalconForCausalLM", {**BASE, "multi_query": False}),
    "opt": ("OPTConfig", "OPTForCausalLM", {**BASE, "ffn_dim": FFN, "word_embed_proj_dim": 14}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", GQA),
    "mistral": ("MistralConfig", "MistralForCausalLM", GQA),
    "ministral": ("MinistralConfig", "MinistralForCausalLM", GQA),
    "ministral3": ("Ministral3Config", "Ministral3ForCausalLM", GQA),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**NO_HEAD_DIM, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", GQA),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", GQA),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", GQA),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", GQA),
    "phi": ("PhiConfig", "PhiForCausalLM", {**NO_HEAD_DIM, "partial_rotary_factor": 0.67}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", NO_HEAD_DIM),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", NO_HEAD_DIM),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM", {**NO_HEAD_DIM, "partial_rotary_factor": 0.67}),
    "cohere": ("CohereConfig", "CohereForCausalLM", GQA),
    "cohere2": ("Cohere2Config", "Cohere2ForCausalLM", GQA),
    "olmo": ("OlmoConfig", "OlmoForCausalLM", NO_HEAD_DIM),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", NO_HEAD_DIM),
    "granite": ("GraniteConfig", "GraniteForCausalLM", NO_HEAD_DIM),
    "glm": ("GlmConfig", "GlmForCausalLM", {**GQA, "pad_token_id": 0}),
    "glm4": ("Glm4Config", "Glm4ForCausalLM", GQA),
    "starcoder2": ("Starcoder2Config", "Starcoder2ForCausalLM", NO_HEAD_DIM),
    "nemotron": ("NemotronConfig", "NemotronForCausalLM", GQA),
    "llama4": (
        "Llama4TextConfig",
        "Llama4ForCausalLM",
        {
            **GQA,
            "intermediate_size": EXPERT,
            "intermediate_size_mlp": FFN,
            "num_local_experts": 5,
            "num_experts_per_tok": 3,
            "interleave_moe_layer_step": 2,
        },
    ),
    "deepseek_v2": (
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        {**MLA, "n_group": None, "topk_group": None, "topk_method": "greedy"},
    ),
    "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", MLA),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**GQA, "num_local_experts": 5, "num_experts_per_tok": 3}),
    "qwen2_moe": ("Qwen2MoeConfig", "Qwen2MoeForCausalLM", {**MOE, "shared_expert_intermediate_size": 12}),
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**MOE, "mlp_only_layers": [0]}),
    "olmoe": ("OlmoeConfig", "OlmoeForCausalLM", {**NO_HEAD_DIM, "num_experts": 5, "num_experts_per_tok": 3}),
    "granitemoe": (
        "GraniteMoeConfig",
        "GraniteMoeForCausalLM",
        {**NO_HEAD_DIM, "num_local_experts": 5, "num_experts_per_tok": 3},
    ),
    "gpt_oss": ("GptOssConfig", "GptOssForCausalLM", {**GQA, "num_local_experts": 5, "num_experts_per_tok": 3}),
    "dbrx": (
        "DbrxConfig",
        "DbrxForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": HIDDEN,
            "n_layers": LAYERS,
            "n_heads": HEADS,
            "max_seq_len": POSITIONS,
            "attn_config": {"kv_n_heads": KV_HEADS, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"hidden_size": HIDDEN, "ffn_hidden_size": EXPERT, "moe_num_experts": 5, "moe_top_k": 3},
        },
    ),
    "mamba": (
        "MambaConfig",
        "MambaForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "state_size": 6, "time_step_rank": 4},
    ),
    "mamba2": (
        "Mamba2Config",
        "Mamba2ForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "state_size": 6,
            "num_heads": 6,
            "head_dim": 8,
            "n_groups": 2,
            "chunk_size": 8,
        },
    ),
    "vit": ("ViTConfig", "ViTForImageClassification", {**VISION, "num_labels": 5}),
    "clip_text": ("CLIPTextConfig", "CLIPTextModel", BASE),
    "clip_vision": ("CLIPVisionConfig", "CLIPVisionModel", VISION),
    "siglip_text": ("SiglipTextConfig", "SiglipTextModel", BASE),
    "siglip_vision": ("SiglipVisionConfig", "SiglipVisionModel", VISION),
    "clip": ("CLIPConfig", "CLIPModel", {**TOWERS, "projection_dim": 18}),
    "siglip": (
        "SiglipConfig",
        "SiglipModel",
        {"text_config": {**BASE, "projection_size": 28}, "vision_config": {**VISION, "hidden_size": 28}},
    ),
    "whisper": (
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {
            **BART,
            "num_mel_bins": 6,
            "max_source_positions": 10,
            "max_target_positions": POSITIONS,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
    ),
}


def config_of(name: str) -> transformers.PreTrainedConfig:
    """The config of a model of the table."""
    config_class, architecture, arguments = FAMILY_MODELS[name]
    config = getattr(transformers, config_class)(**arguments)
    config.architectures = [architecture]
    return config


@functools.cache
def family_model(name: str) -> PreTrainedModel:
    """A shared model in evaluation mode, whose parameters are all drawn at random. A test that changes it must restore it."""
    config = config_of(name)
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, config.architectures[0])(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if not parameter.requires_grad:  # a fixed table of positions, which is not saved
                continue
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
            if parameter.ndim == 1 and path.endswith("weight"):
                parameter.add_(1)  # a normalisation scale near 0 would make all tokens alike
    return model.eval().requires_grad_(False)


def inputs_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """A batch for a model of the table: tokens, images, or both."""
    generator = torch.Generator().manual_seed(3)
    arguments = inspect.signature(model.forward).parameters
    inputs = {}
    if "input_ids" in arguments:
        inputs["input_ids"] = torch.randint(2, VOCABULARY, (4, 20), generator=generator)
        inputs["input_ids"][:, -1] = 1  # the token at which CLIP reads off the text
    if "pixel_values" in arguments:
        inputs["pixel_values"] = torch.randn(4, 3, 8, 8, generator=generator)
    if "input_features" in arguments:
        inputs["input_features"] = torch.randn(4, 6, 20, generator=generator)
    if "token_type_ids" in arguments and getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.arange(80).reshape(4, 20) % 2
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(2, VOCABULARY, (4, 7), generator=generator)
    return inputs


def output_of(model: PreTrainedModel) -> Tensor:
    """All floating-point outputs of a model for its batch, as one vector."""
    with torch.no_grad():
        returned = model(**inputs_of(model))
    values = [value for value in returned.values() if isinstance(value, Tensor) and value.is_floating_point()]
    return torch.cat([value.flatten() for value in values])
