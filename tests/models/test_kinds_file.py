"""Corrected kinds: keys with numbers left open, experts, changes of a file, and what is judged against which names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from offcomp.cli.main import main
from offcomp.errors import InputError, ModelError
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.identity import KINDS_FILE
from offcomp.models.kinds_file import changed_kinds, pattern_of, with_kinds
from offcomp.models.listing import keep_kinds, kept_kinds, model_info, recognised_info
from offcomp.models.loading import load
from offcomp.models.weights import list_modules
from tests import tiny_models
from tests.family_models import family_model

QUERY, KEY = (f"encoder.layer.*.attention.self.{name}" for name in ("query", "key"))
SWAPPED = {QUERY: {"kind": "key"}, KEY: {"kind": "query"}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of a family that no list names."""
    monkeypatch.setenv("OFFCOMP_HOME", str(tmp_path / "home"))
    return tiny_models.save(tiny_models.ernie(), tmp_path / "model")


def keep(folder: Path, answers: Mapping[str, Any] | None) -> None:
    keep_kinds(str(folder), None if answers is None else json.dumps(answers).encode(), folder.parent / "home")


def test_a_star_stands_for_the_layer(folder: Path) -> None:
    before = model_info(str(folder))
    keep(folder, SWAPPED)
    after = model_info(str(folder))
    for layer in range(2):
        assert after.module(f"key.{layer}").path == before.module(f"query.{layer}").path
        assert after.module(f"query.{layer}").path == before.module(f"key.{layer}").path
    assert load(str(folder)).info == after
    assert recognised_info(str(folder), folder.parent / "home") == before
    keep(folder, None)
    assert model_info(str(folder)) == before
    assert not (folder / KINDS_FILE).exists()


def test_a_layer_is_found_for_what_was_not_recognised(folder: Path) -> None:
    specs = with_kinds(model_info(str(folder)).modules, {QUERY: {"kind": "other"}}, "first")
    found = with_kinds(specs, {QUERY: {"kind": "query"}}, "second")
    assert found == model_info(str(folder)).modules


def test_a_new_file_is_judged_by_the_names_that_offcomp_finds(folder: Path) -> None:
    keep(folder, {"query.0": {"kind": "value", "layer": 9}})
    keep(folder, {"query.0": {"kind": "other"}})
    assert model_info(str(folder)).module("encoder.layer.0.attention.self.query").kind == "other"
    with pytest.raises(ModelError, match=r"names 'value.9', which is no module"):
        keep(folder, {"value.9": {"kind": "other"}})
    assert kept_kinds(str(folder)) == {"query.0": {"kind": "other"}}
    (folder / KINDS_FILE).write_text('{"quarry": {"kind": "other"}}')  # by hand
    with pytest.raises(ModelError, match="quarry"):
        model_info(str(folder))
    keep(folder, SWAPPED)  # a wrong file can be replaced


def test_the_exact_key_wins(folder: Path) -> None:
    specs = with_kinds(model_info(str(folder)).modules, {"query.1": {"kind": "other"}, QUERY: {"kind": "query"}}, "x")
    kinds = {spec.path: spec.kind for spec in specs}
    assert [kinds[QUERY.replace("*", layer) + ".weight"] for layer in "01"] == ["query", "other"]


def test_kinds_of_a_bundled_model_stay_as_they_are() -> None:
    with pytest.raises(InputError, match="copy it to a folder of your own"):
        keep_kinds("minilm-l6", b"{}", Path("nowhere"))


def specs_of(name: str) -> tuple[ModuleSpec, ...]:
    return list_modules(family_model(name))


def test_patterns_stand_for_layers_and_experts() -> None:
    assert {pattern_of(spec) for spec in specs_of("mixtral")} == {
        *("model.embed_tokens", "lm_head", "model.layers.*.mlp.gate", "model.layers.*.mlp.experts.down_proj"),
        *("expert_gate.*.e*", "expert_in.*.e*"),
        *(f"model.layers.*.self_attn.{name}_proj" for name in "qkvo"),
    }


def test_all_experts_of_a_tensor_at_once() -> None:
    specs = specs_of("mixtral")
    found = with_kinds(specs, {"model.layers.*.mlp.experts.down_proj": {"kind": "ffn_out"}}, "x")
    assert [spec.name for spec in found if spec.kind == "ffn_out"] == [f"ffn_out.{n}.e{e}" for n in range(2) for e in range(5)]
    swapped = with_kinds(specs, {"expert_gate.*.e*": {"kind": "expert_in"}, "expert_in.*.e*": {"kind": "expert_gate"}}, "x")
    assert {spec.name for spec in swapped} == {spec.name for spec in specs}
    assert all(spec.start == (40 if spec.kind == "expert_gate" else 0) for spec in swapped if spec.fused)
    only = with_kinds(specs, {"model.layers.1.mlp.experts.down_proj": {"kind": "ffn_out", "layer": 1}}, "x")
    assert sum(spec.kind == "ffn_out" for spec in only) == 5


def test_changes_replace_what_a_file_said_of_the_same_modules(folder: Path) -> None:
    modules = model_info(str(folder)).modules
    before = {"query.0": {"kind": "other"}, KEY: {"kind": "other"}, "value.0": {"kind": "other"}}
    after = changed_kinds(before, {QUERY: "key", KEY: "key"}, modules)
    assert after == {"value.0": {"kind": "other"}, QUERY: {"kind": "key"}}


def test_the_listing_names_what_structure_tells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def listed() -> list[str]:
        main(["modules", str(folder), "--json"])
        return json.loads(capsys.readouterr().out)["by_structure"]

    assert {"query.0", "word_embeddings", "ffn_out.1"} <= set(listed())
    assert "embeddings.position_embeddings" not in listed()
    keep(folder, SWAPPED)
    assert not {"query.0", "key.1"} & set(listed())
    main(["modules", "minilm-l6", "--json"])
    assert json.loads(capsys.readouterr().out)["by_structure"] == []
