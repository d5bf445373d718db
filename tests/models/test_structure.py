"""Without the entry of its family, a model's structure tells the kinds of its matrices, and a file corrects the rest."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from offcomp.cli.main import main
from offcomp.models import catalogue
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.listing import model_info
from offcomp.models.loading import describe, load
from offcomp.models.weights import list_modules
from tests import tiny_models
from tests.family_models import BASE, family_model

HIDDEN_FAMILIES = (
    *("bert", "distilbert", "mpnet", "albert", "deberta_v2", "modernbert", "nomic_bert", "xlnet", "bart", "whisper", "mt5"),
    *("t5gemma", "gpt2", "gptj", "gpt_neox", "falcon_new", "llama", "phi3", "gemma2", "starcoder2", "deepseek_v3", "mixtral"),
    *("qwen2_moe", "gpt_oss", "mamba", "mamba2", "vit", "clip"),
)
SHARE = 0.9
Answer = tuple[str, int | None, str]


def answers_of(specs: tuple[ModuleSpec, ...]) -> dict[str, set[Answer]]:
    """The kind, layer and part of each parameter, by path. A fused query, key and value may stay one matrix of kind `qkv`."""
    answers: dict[str, set[Answer]] = defaultdict(set)
    for spec in specs:
        kind = "qkv" if spec.fused and spec.kind in ("query", "key", "value") else spec.kind
        answers[spec.path].add((kind, spec.layer, spec.part))
    return answers


@pytest.mark.parametrize("name", HIDDEN_FAMILIES)
def test_structure_agrees_with_the_family(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = family_model(name)
    right = answers_of(list_modules(model))
    monkeypatch.setattr(catalogue, "family_of", lambda _: None)
    found = answers_of(list_modules(model))
    assert found.keys() >= right.keys()
    agreeing = sum(bool(found[path] & answers) for path, answers in right.items())
    assert agreeing >= SHARE * len(right), {path: found[path] for path in right if not found[path] & right[path]}


class Block(nn.Module):
    """A layer whose names say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(24, 24) for _ in range(4))
        self.e, self.f = nn.Linear(24, 40), nn.Linear(40, 24)


def test_shapes_alone_suffice() -> None:
    model = family_model("bert")
    nameless = nn.Module()
    nameless.x, nameless.y = nn.Embedding(61, 24), nn.ModuleList(Block() for _ in range(3))
    nameless.config = type("Config", (), dict(vars(model.config), model_type="nobody"))
    nameless.config.get_text_config = lambda: nameless.config
    nameless.config.sub_configs = {}
    names = [spec.name for spec in list_modules(nameless)]
    layer = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
    assert names == ["word_embeddings", *(f"{kind}.{number}" for number in range(3) for kind in layer)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose family is hidden."""
    monkeypatch.setenv("OFFCOMP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(catalogue, "family_of", lambda _: None)
    monkeypatch.setattr("offcomp.models.loading.family_of", lambda _: None)
    return tiny_models.save(tiny_models.bert_base(), tmp_path / "model")


def test_the_listing_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = describe(str(folder))
    assert info.by_structure and info.family is None
    main(["modules", str(folder)])
    assert "kinds are recognised by structure" in capsys.readouterr().out
    assert info.module("encoder.layer.0.attention.self.query") == info.module("query.0")


def test_a_file_corrects_kinds(folder: Path, tmp_path: Path) -> None:
    before = model_info(str(folder))
    file = tmp_path / "kinds.json"
    answers = {"query.0": {"kind": "other"}, "encoder.layer.0.attention.self.key": {"kind": "query", "layer": 0}}
    file.write_text(json.dumps(answers))
    main(["modules", str(folder), "--kinds", str(file)])
    after = model_info(str(folder))
    assert after.module("query.0").path == before.module("key.0").path
    assert after.module("encoder.layer.0.attention.self.query").kind == "other"
    assert after.fingerprint != before.fingerprint  # nothing cached under the old names is used
    assert load(str(folder)).info == after


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ({"quarry.0": {"kind": "other"}}, "names 'quarry.0', which is no module of the model; did you mean 'query.0'"),
        ({"query.0": {"kind": "quarry"}}, "gives 'query.0' the kind \"quarry\"; choose one of word_embeddings, query"),
        ({"query.0": "query"}, "write an object with 'kind'"),
        ({"query.0": {"kind": "query", "layer": -1}}, "puts 'query.0' in layer -1"),
        ({"query.0": {"kind": "query", "layer": 0, "part": "left"}}, 'the part "left"'),
        ({"query.0": {"kind": "key", "layer": 0}}, "makes two modules 'key.0'"),
    ],
)
def test_a_wrong_file_is_refused(
    folder: Path, tmp_path: Path, answers: object, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kinds.json"
    file.write_text(json.dumps(answers))
    with pytest.raises(SystemExit):
        main(["modules", str(folder), "--kinds", str(file)])
    assert fault in capsys.readouterr().err
    assert describe(str(folder)).module("query.0").kind == "query"  # the folder is unchanged


UNLISTED = {
    "recurrent_gemma": (
        "RecurrentGemmaModel",
        {"num_key_value_heads": 2, "num_hidden_layers": 3, "lru_width": 24, "attention_window_size": 8, "head_dim": 6},
        {"linear_x": "ssm_in", "linear_out": "ssm_out", "o_proj": "attention_output", "q_proj": "query"},
    ),
    "falcon_mamba": ("FalconMambaModel", {"state_size": 6, "time_step_rank": 4}, {"in_proj": "ssm_in", "out_proj": "ssm_out"}),
    "mobilebert": (
        "MobileBertModel",
        {"true_hidden_size": 10, "intra_bottleneck_size": 10, "embedding_size": 8, "intermediate_size": 40},
        {"attention.output.dense": "attention_output", "ffn.0.intermediate.dense": "ffn_in", "ffn.0.output.dense": "ffn_out"},
    ),
    "minimax": (
        "MiniMaxModel",
        {"num_key_value_heads": 2, "head_dim": 6, "num_local_experts": 3},
        {"qkv_proj": "qkv", "self_attn.out_proj": "attention_output", "output_gate": "other", "down_proj": "expert_out"},
    ),
    "vilt": ("ViltForMaskedLM", {"image_size": 8, "patch_size": 4}, {"mlm_score.transform.dense": "head"}),
}
"""Families of no list: their class, sizes, and the kinds of some matrices by the end of their path, from the modelling code."""


@pytest.mark.parametrize("name", UNLISTED)
def test_families_that_no_list_names(name: str) -> None:
    architecture, sizes, kinds = UNLISTED[name]
    model_class = getattr(transformers, architecture)
    plain = {key: value for key, value in BASE.items() if key not in ("bos_token_id", "eos_token_id")}
    with torch.device("meta"):
        model = model_class(model_class.config_class(**plain | sizes))
    specs = [(spec.path.removesuffix(".weight"), spec.kind) for spec in list_modules(model)]
    for end, kind in kinds.items():
        assert {found for path, found in specs if path.endswith(f".{end}") or path == end} == {kind}, end


def test_widths_may_grow_from_stage_to_stage() -> None:
    """Hiera: the config has the last width, queries shrink, and the first layer of a stage reads the width before."""
    config = transformers.HieraConfig(
        embed_dim=8,
        depths=[1, 2, 2],
        num_heads=[1, 2, 4],
        image_size=[32, 32],
        masked_unit_size=[4, 4],
        query_stride=[2, 2],
        num_query_pool=2,
    )
    with torch.device("meta"):
        specs = list_modules(transformers.HieraModel(config))
    kinds = {(spec.path.rpartition(".")[0].rpartition(".")[2], spec.kind) for spec in specs if "layers" in spec.path}
    assert kinds >= {("qkv", "qkv"), ("fc1", "ffn_in"), ("fc2", "ffn_out")}
    assert not kinds & {("fc1", "ffn_out"), ("fc2", "ffn_in"), ("qkv", "kv_up")}
