"""Tiny random models with real architectures. Their sizes are so unequal that transposed weights are noticed.

Each function in `TINY` needs no arguments, draws the weights from a local generator with a fixed seed, and leaves the global
random state unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from transformers import PreTrainedModel

from offcomp.models.loading import LoadedModel

Tiny = Callable[[str], LoadedModel]
"""Type of the fixture `tiny`, which returns a model, by the name of its function in `TINY`, as loaded from a folder."""

VOCABULARY = 61
HIDDEN = 24
FFN = 40
LAYERS = 2
HEADS = 4
POSITIONS = 19

BERT_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
}


def _built(architecture: str, config: transformers.PreTrainedConfig) -> PreTrainedModel:
    """Return the seeded model in evaluation mode. Every parameter is redrawn, so that none keeps an initial value of 0 or 1."""
    config.architectures = [architecture]
    generator = torch.Generator().manual_seed(7)
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, architecture)(config)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
            if parameter.ndim == 1 and path.endswith("weight"):
                parameter.add_(1)  # a normalisation scale near 0 would make all tokens alike
    return model.eval().requires_grad_(False)


def bert() -> PreTrainedModel:
    config = transformers.BertConfig(**BERT_SIZES, type_vocab_size=3)
    return _built("BertForPreTraining", config)


def bert_classifier() -> PreTrainedModel:
    config = transformers.BertConfig(**BERT_SIZES, type_vocab_size=3, num_labels=5)
    return _built("BertForSequenceClassification", config)


def bert_base() -> PreTrainedModel:
    return _built("BertModel", transformers.BertConfig(**BERT_SIZES, type_vocab_size=3))


def roberta() -> PreTrainedModel:
    config = transformers.RobertaConfig(**BERT_SIZES, type_vocab_size=1, pad_token_id=1)
    return _built("RobertaForMaskedLM", config)


def xlm_roberta_classifier() -> PreTrainedModel:
    config = transformers.XLMRobertaConfig(**BERT_SIZES, type_vocab_size=1, pad_token_id=1, num_labels=5)
    return _built("XLMRobertaForSequenceClassification", config)


def distilbert() -> PreTrainedModel:
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=HIDDEN,
        hidden_dim=FFN,
        n_layers=LAYERS,
        n_heads=HEADS,
        max_position_embeddings=POSITIONS,
        num_labels=5,
    )
    return _built("DistilBertForSequenceClassification", config)


def albert() -> PreTrainedModel:
    """ALBERT with four layers, which take their weights from two groups. Each group consists of two inner layers."""
    sizes = {**BERT_SIZES, "num_hidden_layers": 4}
    config = transformers.AlbertConfig(**sizes, embedding_size=14, num_hidden_groups=2, inner_group_num=2, type_vocab_size=3)
    return _built("AlbertForPreTraining", config)


def electra() -> PreTrainedModel:
    config = transformers.ElectraConfig(**BERT_SIZES, embedding_size=14, type_vocab_size=3)
    return _built("ElectraForMaskedLM", config)


def deberta_v2(*, share_att_key: bool = False) -> PreTrainedModel:
    config = transformers.DebertaV2Config(
        **BERT_SIZES,
        type_vocab_size=3,
        relative_attention=True,
        position_buckets=4,
        max_relative_positions=POSITIONS,
        pos_att_type="c2p|p2c",
        share_att_key=share_att_key,
        num_labels=5,
    )
    return _built("DebertaV2ForSequenceClassification", config)


def gpt2() -> PreTrainedModel:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=HIDDEN,
        n_inner=FFN,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=POSITIONS,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _built("GPT2LMHeadModel", config)


def opt() -> PreTrainedModel:
    config = transformers.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        ffn_dim=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
        word_embed_proj_dim=14,
        pad_token_id=1,
    )
    return _built("OPTForCausalLM", config)


LLAMA_SIZES: dict[str, Any] = {**BERT_SIZES, "num_key_value_heads": 2, "head_dim": 6}


def llama() -> PreTrainedModel:
    return _built("LlamaForCausalLM", transformers.LlamaConfig(**LLAMA_SIZES))


def mistral() -> PreTrainedModel:
    return _built("MistralForCausalLM", transformers.MistralConfig(**LLAMA_SIZES))


def qwen2() -> PreTrainedModel:
    config = transformers.Qwen2Config(**BERT_SIZES, num_key_value_heads=2, tie_word_embeddings=True)
    return _built("Qwen2ForCausalLM", config)


T5_SIZES: dict[str, Any] = {
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


def t5() -> PreTrainedModel:
    return _built("T5ForConditionalGeneration", transformers.T5Config(**T5_SIZES))


def t5_gated() -> PreTrainedModel:
    """A T5 like the checkpoints of version 1.1, with gated feed-forward layers and an untied head."""
    config = transformers.T5Config(**T5_SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model = _built("T5ForConditionalGeneration", config)
    model.lm_head.weight = nn.Parameter(model.shared.weight.flip(0) * 0.5, requires_grad=False)
    del model.all_tied_weights_keys["lm_head.weight"]
    return model


def mpnet() -> PreTrainedModel:
    """MPNet, whose relative positions are shared by all layers."""
    config = transformers.MPNetConfig(**BERT_SIZES, relative_attention_num_buckets=32, pad_token_id=1)
    return _built("MPNetForMaskedLM", config)


def ernie() -> PreTrainedModel:
    """A model of a family that offcomp does not list."""
    return _built("ErnieModel", transformers.ErnieConfig(**BERT_SIZES, type_vocab_size=3))


TINY: dict[str, Callable[[], PreTrainedModel]] = {
    build.__name__: build
    for build in (
        bert,
        bert_classifier,
        bert_base,
        roberta,
        xlm_roberta_classifier,
        distilbert,
        albert,
        electra,
        deberta_v2,
        gpt2,
        opt,
        llama,
        mistral,
        qwen2,
        t5,
        t5_gated,
        mpnet,
    )
}


@functools.cache
def shared(name: str) -> PreTrainedModel:
    """Return the instance that all tests of a session share. A test that changes it must restore it."""
    return TINY[name]()


def batch(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return two sequences of 12 tokens, the second padded, for which every weight of the model affects the outputs."""
    generator = torch.Generator().manual_seed(3)
    inputs = {
        "input_ids": torch.randint(2, VOCABULARY, (2, 12), generator=generator),
        "attention_mask": torch.tensor([[1] * 12, [1] * 9 + [0] * 3]),
    }
    types = getattr(model.config, "type_vocab_size", 0)
    if types:
        inputs["token_type_ids"] = torch.arange(24).reshape(2, 12) % types
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(2, VOCABULARY, (2, 7), generator=generator)
    return inputs


def outputs(model: PreTrainedModel, inputs: dict[str, Tensor] | None = None) -> list[Tensor]:
    """Return all floating-point tensors that the model outputs: logits, or the hidden states of a base model."""
    with torch.no_grad():
        returned = model(**(inputs or batch(model)))
    return [value for value in returned.values() if isinstance(value, Tensor) and value.is_floating_point()]


def save(model: PreTrainedModel, folder: Path, tokenizer: bool = True) -> Path:
    """Save the config and weights of a model and, by default, a tokenizer with the words `w2`, `w3`, ...; return the folder."""
    model.save_pretrained(folder)
    if tokenizer:
        words = {"[PAD]": 0, "[UNK]": 1, **{f"w{number}": number for number in range(2, VOCABULARY)}}
        backend = Tokenizer(WordLevel(words, unk_token="[UNK]"))  # noqa: S106
        backend.pre_tokenizer = Whitespace()
        specials = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
        wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **specials)
        wrapped.save_pretrained(folder)
    return folder
