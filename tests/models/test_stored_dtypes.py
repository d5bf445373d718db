"""Size accounting of checkpoints: each parameter is counted in the dtype of its own tensor, and none is omitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from offcomp.errors import ModelError
from offcomp.models.catalogue import ModelInfo
from offcomp.models.loading import describe, load
from offcomp.numerics.accounting import storage_dtype
from offcomp.planning.plan import Group, Plan
from offcomp.planning.sizes import predict, predict_group, resolved
from offcomp.runs.compress import compress_group
from offcomp.runs.inputs import run_id
from offcomp.runs.result import Inputs
from tests import tiny_models
from tests.checkpoints import DTYPES, headers, store_as, stored_bytes
from tests.tiny_models import BERT_SIZES, HEADS, HIDDEN, LAYERS, VOCABULARY

BYTES = {"F32": 4, "F16": 2, "BF16": 2}
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
EXPERTS: dict[str, Any] = {**BERT_SIZES, "num_key_value_heads": 2, "num_experts_per_tok": 2}


def mixtral() -> PreTrainedModel:
    config = transformers.MixtralConfig(**EXPERTS, head_dim=6, num_local_experts=3)
    return tiny_models._built("MixtralForCausalLM", config)


def gpt_oss() -> PreTrainedModel:
    layers = ["full_attention", "sliding_attention"]
    config = transformers.GptOssConfig(**EXPERTS, head_dim=6, num_local_experts=3, sliding_window=8, layer_types=layers)
    return tiny_models._built("GptOssForCausalLM", config)


def xlnet() -> PreTrainedModel:
    config = transformers.XLNetConfig(vocab_size=VOCABULARY, d_model=HIDDEN, n_layer=LAYERS, n_head=HEADS, d_inner=40)
    return tiny_models._built("XLNetLMHeadModel", config)


def convbert() -> PreTrainedModel:
    return tiny_models._built("ConvBertModel", transformers.ConvBertConfig(**BERT_SIZES, embedding_size=HIDDEN))


def vit() -> PreTrainedModel:
    config = transformers.ViTConfig(
        hidden_size=HIDDEN, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=4
    )
    return tiny_models._built("ViTForImageClassification", config)


UNLISTED: dict[str, tuple[Callable[[], PreTrainedModel], tuple[str, ...]]] = {
    "gpt_oss": (gpt_oss, ("proj_bias",)),
    "xlnet": (xlnet, ("bias", "seg_embed", "mask_emb")),
    "convbert": (convbert, ("conv", "key_conv_attn_layer", "dense.weight")),
    "vit": (vit, ("patch_embeddings.projection.weight", "position_embeddings", "cls_token")),
}
"""Models with many parameters outside their listed matrices, and parts of the names of the tensors with these parameters."""


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("name", ["bert", "gpt2", "t5_gated", "qwen2"])
def test_the_accounts_of_a_checkpoint_are_sums_over_its_files(tmp_path: Path, name: str, dtypes: str) -> None:
    folder = store_as(tiny_models.save(tiny_models.TINY[name](), tmp_path / name), DTYPES[dtypes])
    info, stored = describe(str(folder)), headers(folder)
    assert info.num_bytes == stored_bytes(folder)
    for spec in info.modules:
        keys = [path for path in (spec.path, *spec.tied) if path in stored]
        assert spec.dtype == NAMES[stored[keys[0]][1]]
        assert spec.num_bytes == spec.rows * spec.cols * BYTES[stored[keys[0]][1]]
    assert info.matrix_bytes == sum(spec.num_bytes for spec in info.modules)
    before = predict(Plan(model=info.model, groups=()), info).model
    assert (before.whole.bytes_before, before.matrices.bytes_before) == (info.num_bytes, info.matrix_bytes)


def test_what_is_not_compressed_keeps_its_own_bytes(tmp_path: Path) -> None:
    folder = store_as(tiny_models.save(tiny_models.bert(), tmp_path / "bert"), DTYPES["mixed"])
    info = describe(str(folder))
    assert len({spec.dtype for spec in info.modules}) == 2
    group = Group(name="both", modules=("key.0", "ffn_in.0"), ratio=2.0)  # stored in bfloat16 and in float32
    predicted = predict(Plan(model=info.model, groups=(group,)), info)
    (found,) = predicted.groups
    assert found.original_bytes == 2 * 24 * 24 + 4 * 40 * 24
    whole = predicted.model.whole
    assert whole.bytes_after == stored_bytes(folder) - found.original_bytes + found.num_bytes
    chosen = predicted.model.chosen
    assert (chosen.bytes_before, chosen.bytes_after) == (found.original_bytes, found.num_bytes)


@pytest.mark.parametrize("name", UNLISTED)
def test_parameters_in_no_matrix_are_counted_in_the_whole_model_and_named(tmp_path: Path, name: str) -> None:
    build, parts = UNLISTED[name]
    model = build()
    folder = tiny_models.save(model, tmp_path / name, tokenizer=False)
    info = describe(str(folder))
    assert info.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert info.num_bytes == stored_bytes(folder) == 4 * info.num_parameters
    listed = {path for spec in info.modules for path in (spec.path, *spec.tied)}
    left = {path: p for path, p in model.named_parameters() if path not in listed and p.ndim > 1}
    assert info.unlisted == sum(parameter.numel() for parameter in left.values()) > 0
    assert all(any(part in path for part in parts) for path in left)
    vectors = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim < 2)
    assert info.num_parameters == info.matrix_parameters + info.unlisted + vectors


def test_experts_that_transformers_merges_are_counted_in_their_own_dtype(tmp_path: Path) -> None:
    """The files store each expert separately; the loaded model has one three-dimensional tensor."""
    folder = tiny_models.save(mixtral(), tmp_path / "mixtral", tokenizer=False)
    assert any("experts.2.w1" in key for key in headers(folder))
    whole = describe(str(folder)).num_bytes
    store_as(folder, lambda key, _: torch.bfloat16 if "experts" in key else torch.float32)
    info = describe(str(folder))
    assert info.num_bytes == stored_bytes(folder) < whole
    assert {spec.dtype for spec in info.modules if spec.expert is not None} == {"bfloat16"}
    assert info.unlisted == 0


def test_models_that_are_matrices_and_vectors_alone_have_nothing_unlisted() -> None:
    for name in ("minilm-l6", "offcomp-bert", "offcomp-bert-sentiment", "offcomp-gpt"):
        info = describe(name)
        assert (info.unlisted, info.num_bytes) == (0, info.num_parameters * (4 if name == "minilm-l6" else 2))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64])
def test_a_weight_in_numbers_that_nothing_explains_is_refused_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = tiny_models.save(tiny_models.bert(), tmp_path / "bert")
    tensors = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.key.weight"
    tensors[name] = (tensors[name] * 50).to(dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for look in (describe, load):
        with pytest.raises(ModelError, match=rf"'{name}' in .* is stored as [IF]\d+, but offcomp reads only float32"):
            look(str(folder))


# ---------------------------------------------------------------------------------------------------- the dtype of a group


@pytest.mark.parametrize(
    ("asked", "own", "resolved"),
    [
        ("stored", ["bfloat16", "bfloat16"], "bfloat16"),
        ("stored", ["float16"], "float16"),
        ("stored", ["float32"], "float32"),
        ("stored", ["bfloat16", "float32"], "float32"),
        ("stored", ["bfloat16", "float16"], "float32"),
        ("int8", ["bfloat16"], "int8"),
        ("float32", ["bfloat16"], "float32"),
    ],
)
def test_stored_is_the_dtype_that_holds_the_values_of_all_members(asked: str, own: list[str], resolved: str) -> None:
    assert storage_dtype(asked, own) == resolved


def test_a_run_says_what_stored_was_and_the_plan_keeps_what_was_asked(tmp_path: Path) -> None:
    folder = store_as(tiny_models.save(tiny_models.bert(), tmp_path / "bert"), DTYPES["mixed"])
    loaded = load(str(folder))
    for modules, dtype in ((("key.0", "key.1"), "bfloat16"), (("ffn_in.0",), "float32"), (("key.0", "ffn_in.0"), "float32")):
        group = Group(name="some", modules=modules)
        assert group.dtype == "stored"
        figures = compress_group(loaded.model, loaded.info, group).figures
        assert figures.dtype == predict_group(group, loaded.info).dtype == dtype
        assert {entry.dtype for entry in figures.ledger} == {dtype}
        assert figures.bytes_in_own_dtype == figures.num_bytes


def test_a_plan_without_a_dtype_means_stored_and_one_with_float32_keeps_it() -> None:
    asked = {"model": "minilm-l6", "groups": [{"name": "key", "modules": ["key.0"]}]}
    assert Plan.from_dict(asked).to_dict()["groups"][0]["dtype"] == "stored"
    asked["groups"][0]["dtype"] = "float32"  # type: ignore[index]
    assert Plan.from_dict(asked).to_dict()["groups"][0]["dtype"] == "float32"


def test_a_description_from_before_dtypes_were_counted_reads_as_one_dtype(tmp_path: Path) -> None:
    info = describe(str(store_as(tiny_models.save(tiny_models.bert(), tmp_path / "bert"), DTYPES["mixed"])))
    assert ModelInfo.from_dict(info.to_dict()) == info
    old = replace(info, modules=info.modules[:2]).to_dict()
    for name in ("num_bytes", "matrix_bytes", "unlisted"):
        del old[name]
    for module in old["modules"]:
        module.pop("dtype", None)
    found = ModelInfo.from_dict(old)
    assert {spec.dtype for spec in found.modules} == {info.dtype}
    assert (found.num_bytes, found.unlisted) == (4 * info.num_parameters, 0)


def test_stored_and_the_dtype_that_it_means_are_one_run(tmp_path: Path) -> None:
    info = describe(str(store_as(tiny_models.save(tiny_models.bert(), tmp_path / "bert"), DTYPES["bfloat16"])))
    inputs = Inputs(model=info.fingerprint)
    ids = {
        dtype: run_id(
            resolved(Plan(model=info.model, groups=(Group(name="key", modules=("key.0",), dtype=dtype),)), info), inputs
        )
        for dtype in ("stored", "bfloat16", "float32")
    }
    assert ids["stored"] == ids["bfloat16"] != ids["float32"]
