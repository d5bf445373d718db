"""The description of a model survives a JSON round trip, and looks modules up by name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from offcomp.errors import ModelError
from offcomp.models.bundled_models import MODELS
from offcomp.models.catalogue import ModelInfo, StoredWeight, module_specs


def info() -> ModelInfo:
    modules = module_specs(
        "gpt2", [StoredWeight(("wte", "lm_head"), (7, 4)), StoredWeight(("h.0.attn.c_attn",), (4, 12), True)]
    )
    return ModelInfo("m", "folder", "GPT-2", "gpt2", "GPT2LMHeadModel", "float16", 100, 76, 1, "f", modules)


def test_info_survives_json() -> None:
    document = json.loads(json.dumps(info().to_dict()))
    assert ModelInfo.from_dict(document) == info()
    assert info().num_bytes == 200


def test_info_from_a_faulty_document() -> None:
    with pytest.raises(ModelError, match="missing or unknown field"):
        ModelInfo.from_dict({"model": "m"})
    with pytest.raises(ModelError, match="missing or unknown field"):
        ModelInfo.from_dict({**info().to_dict(), "colour": "red"})


def test_unknown_module_names_a_close_match() -> None:
    assert info().module("key.0").start == 4
    with pytest.raises(ModelError, match=r"no module 'kay\.0'; did you mean 'key\.0'\?"):
        info().module("kay.0")
    with pytest.raises(ModelError, match="offcomp modules"):
        replace(info(), modules=()).module("key.0")


def test_catalogue_models_are_complete() -> None:
    assert [entry.name for entry in MODELS] == ["minilm-l6", "offcomp-bert", "offcomp-bert-sentiment", "offcomp-gpt"]
    assert all(len(entry.sha256) == 64 and entry.licence for entry in MODELS)
