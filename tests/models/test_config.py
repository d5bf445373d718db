"""Unusable configs are refused with a specific message before a model is built; ordinary configs are accepted."""

from __future__ import annotations

from typing import Any

import pytest

from offcomp.errors import ModelError
from offcomp.models.sources import check_config

CONFIG: dict[str, Any] = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 30}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "'auto_map', which requests custom code"),
        ({"text": {"deep": [{"auto_map": {}}]}}, "'auto_map', which requests custom code"),
        ({"trust_remote_code": True}, "'trust_remote_code', which requests custom code"),
        ({"_attn_implementation": "sdpa"}, "'_attn_implementation', which selects the code"),
        ({"_attn_implementation_internal": "owner/kernel"}, "'_attn_implementation_internal', which selects the code"),
        ({"_attn_implementation_autoset": "owner/kernel"}, "'_attn_implementation_autoset', which selects the code"),
        ({"attn_implementation": "owner/kernel"}, "'attn_implementation', which selects the code"),
        ({"experts_implementation": "owner/kernel"}, "'experts_implementation', which selects the code"),
        ({"transformers_weights": "../other.safetensors"}, "redirects the weights"),
        ({"quantization_config": {"bits": 4}}, "weights that are already quantised"),
        ({"model_type": None}, r"has no valid 'model_type' \(None\)"),
        ({"model_type": ["bert"]}, "has no valid 'model_type'"),
        ({"text_config": {"model_type": "bert", "hidden_size": -8}}, "sets hidden_size to -8"),
        ({"hidden_size": 0}, "hidden_size to 0; it must be a positive integer"),
        ({"hidden_size": "8"}, "hidden_size to '8'; it must be a positive integer"),
        ({"vocab_size": -5}, "vocab_size to -5; it must be a positive integer"),
        ({"num_hidden_layers": 2.5}, r"num_hidden_layers to 2\.5; it must be a positive integer"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers to 100000; at most 1000 is supported"),
        ({"hidden_size": 10**12}, "hidden_size to 1000000000000; at most 10000000 is supported"),
        ({"type_vocab_size": 10**12}, "type_vocab_size to 1000000000000; at most 10000000"),
        ({"num_labels": 10**6}, "num_labels to 1000000; at most 100000"),
    ],
)
def test_configs_that_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        check_config({**CONFIG, **change})


def test_a_config_may_describe_a_model_of_any_size() -> None:
    check_config({**CONFIG, "hidden_size": 65536, "num_hidden_layers": 200, "vocab_size": 10**6})  # about 10**13 parameters


def test_a_config_that_nests_too_deep() -> None:
    deep: dict[str, Any] = {}
    for _ in range(20):
        deep = {"x": deep}
    with pytest.raises(ModelError, match="is nested deeper than 8 levels"):
        check_config({**CONFIG, "y": deep})


@pytest.mark.parametrize(
    "change",
    [
        {"_attn_implementation_autoset": True},
        {"quantization_config": None},
        {"task_specific_params": {"summarization": {"max_length": 200}}},
        {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "rope_theta": 10**9},
        {"id2label": {"0": "a"}, "label2id": {"a": 0}, "max_relative_positions": -1, "_commit_hash": "abc"},
    ],
)
def test_configs_that_are_accepted(change: dict[str, Any]) -> None:
    check_config({**CONFIG, **change})
