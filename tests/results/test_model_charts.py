"""Tables and figures of a model: where its parameters are, which weights are recognised, and the SVD error of each matrix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offcomp.models.catalogue import ModelInfo, ModuleSpec, StoredWeight, module_specs
from offcomp.planning.plan import validate
from offcomp.planning.spectra import _path, _save, find
from offcomp.planning.spectrum import spectrum_key
from offcomp.results.charts.model import COMPRESSIBLE, map_figure, map_pixels, share_figure
from offcomp.results.charts.theme import DARK, LIGHT
from offcomp.results.model import (
    NORMS,
    compressible,
    compressible_answer,
    error_words,
    exported,
    map_table,
    number,
    outside_of_layers,
    parameters_answer,
    percent,
    recognised_answer,
    rows_of,
    same_row,
    share_table,
    shown_rows,
    spectra_plan,
    spectra_seconds,
    svd_errors,
)
from offcomp.results.model_cells import placed_table
from tests.minilm import minilm_info

SPACE = "\u00a0"


@pytest.fixture(scope="module")
def minilm() -> ModelInfo:
    return minilm_info()


def made(model_type: str, weights: dict[str, tuple[int, int]], family: str | None = "X", vectors: int = 0) -> ModelInfo:
    """Return the metadata of a model that has no weights."""
    specs = module_specs(model_type, [StoredWeight((path,), shape) for path, shape in weights.items()])
    matrices = sum(spec.num_parameters for spec in specs)
    sizes = (matrices + vectors, matrices, 2)
    return ModelInfo("made", "folder", family, model_type, "Made", "float32", *sizes, "f" * 64, specs)


def bert_like(layers: int) -> ModelInfo:
    weights = {"embeddings.word_embeddings": (1000, 8)}
    for layer in range(layers):
        weights |= {f"encoder.layer.{layer}.attention.self.query": (8, 8), f"encoder.layer.{layer}.output.dense": (8, 32)}
    return made("bert", weights)


def unknown_like(layers: int) -> ModelInfo:
    weights = {f"some.long.path.blocks.{layer}.mixer.{name}": (8, 4) for layer in range(layers) for name in ("gate", "mix")}
    return made("nobody", {"tokens": (100, 4), **weights}, family=None)


def test_the_answer_names_the_largest_first(minilm: ModelInfo) -> None:
    expected = "Word embeddings account for 52 % of the 22.7 M parameters; FFN 31 %, attention 16 %."
    assert parameters_answer(minilm).replace(SPACE, " ") == expected
    assert parameters_answer(bert_like(400)).startswith("FFN accounts for")
    assert "parameters are in 5 weight matrices, " in parameters_answer(unknown_like(2))
    assert parameters_answer(replace(minilm, modules=())).startswith("None of the 22.7 M parameters")


def test_every_matrix_has_one_place_on_the_map(minilm: ModelInfo) -> None:
    table = map_table(minilm, {"key.2"})
    assert len(table) == len(minilm.modules)
    assert table["parameters"].sum() == minilm.matrix_parameters
    assert rows_of(table) == ["query", "key", "value", "attention output", "FFN in", "FFN out"]
    assert outside_of_layers(table)["module"].iloc[0] == "word_embeddings"
    assert list(table.loc[table["in_plan"], "module"]) == ["key.2"]
    cells = placed_table(table)
    assert not cells.duplicated(["x", "y"]).any()
    assert cells.loc[cells["row"] == "FFN out", "y"].nunique() == 1
    assert cells.loc[cells["layer"].isna(), "y"].max() < cells.loc[cells["layer"].notna(), "y"].min()


def test_weights_of_an_unknown_family_get_rows_by_their_path() -> None:
    table = map_table(unknown_like(3))
    assert rows_of(table) == ["some.long.path.blocks.*.mixer.gate", "some.long.path.blocks.*.mixer.mix"]
    assert sorted(table.loc[table["row"] == rows_of(table)[0], "layer"]) == [0, 1, 2]
    assert list(outside_of_layers(table)["module"]) == ["tokens"]
    assert same_row(table, "some.long.path.blocks.1.mixer.mix") == [f"some.long.path.blocks.{n}.mixer.mix" for n in range(3)]
    assert same_row(table, "tokens") == ["tokens"]
    lone = map_table(unknown_like(1))
    assert rows_of(lone) == []  # a single number could be anything, not only a layer


def test_parts_and_fused_weights_are_told_apart() -> None:
    t5 = {f"decoder.block.0.layer.{place}.{kind}.q": (8, 8) for place, kind in ((0, "SelfAttention"), (1, "EncDecAttention"))}
    table = map_table(made("t5", {"shared": (50, 8), "encoder.block.0.layer.0.SelfAttention.q": (8, 8), **t5}))
    assert rows_of(table) == ["encoder query", "decoder query", "cross query"]
    stored = [StoredWeight(("h.0.attn.c_attn",), (8, 24), transposed=True), StoredWeight(("wte", "lm_head"), (50, 8))]
    specs = module_specs("gpt2", stored)
    sizes = (592, 592, 1)
    table = map_table(ModelInfo("g", "folder", "GPT-2", "gpt2", "GPT2", "float32", *sizes, "f", specs)).set_index("module")
    assert table["parameters"].sum() == 592
    assert "rows 8 to 15 of a fused weight; stored transposed" in table.loc["key.0", "orientation"]
    assert "the same tensor as lm_head.weight" in table.loc["word_embeddings", "orientation"]


def test_shares_are_of_the_whole_model(minilm: ModelInfo) -> None:
    table = share_table(minilm)
    assert table["parameters"].sum() == minilm.num_parameters
    assert table["share"].sum() == pytest.approx(1)
    assert table["kind"].iloc[0] == "word embeddings"
    assert table.set_index("kind").loc[NORMS, "matrices"] == 0
    assert len(share_figure(table, LIGHT).data) == len(table)


def test_what_is_recognised_is_counted_and_named(minilm: ModelInfo) -> None:
    answer = recognised_answer(minilm)
    assert "37 of 40 weight matrices are recognised" in answer
    assert "pooler is known, but only compressed if chosen by name" in answer
    assert "embeddings.position_embeddings, embeddings.token_type_embeddings are not recognised" in answer
    assert "and 4 more are not recognised" in recognised_answer(unknown_like(3))
    assert recognised_answer(bert_like(0)).startswith("1 of 1 weight matrix is recognised")


def test_errors_come_from_known_spectra_alone(minilm: ModelInfo, tmp_path: Path) -> None:
    errors = svd_errors(minilm, tmp_path, 3.0)
    assert len(errors) == 37
    spectrum = find(minilm, [minilm.module("key.0")], "rows", tmp_path)
    assert spectrum is not None
    assert errors["key.0"] == pytest.approx(np.sqrt(1 - np.square(spectrum[:64]).sum() / np.square(spectrum).sum()), rel=1e-4)
    plan = spectra_plan(minilm, errors)
    assert {name for group in plan.groups for name in group.modules} == {spec.name for spec in compressible(minilm)} - set(
        errors
    )
    validate(plan, minilm)
    assert 8 < spectra_seconds(minilm, plan) < 20
    table = map_table(minilm, errors=errors)
    assert table["known_error"].sum() == 37
    answer = compressible_answer(table, 3.0)
    assert answer.startswith("At 3x, SVD preserves key.0 best, with a relative error of 0.560")
    assert "3 of 40 weight matrices are left out: no error is known yet" in answer


def test_a_matrix_with_a_side_of_one_is_out_of_reach_and_not_awaited(tmp_path: Path) -> None:
    info = made("nobody", {"tokens": (100, 4), "gate": (1, 8)}, family=None)
    assert "for any of 1 weight matrix" in compressible_answer(map_table(info, errors=svd_errors(info, tmp_path, 2.0)), 2.0)
    tokens = [spec for spec in info.modules if spec.name == "tokens"]
    _save(_path(tmp_path, info, spectrum_key(tokens, "rows")), np.ones(4, dtype=np.float32))
    table = map_table(info, errors=svd_errors(info, tmp_path, 2.0))
    assert "not known" not in compressible_answer(table, 2.0)
    assert error_words(table[table["module"] == "gate"].iloc[0], 2.0) == "SVD cannot make this matrix 2x smaller"
    assert spectra_plan(info, svd_errors(info, tmp_path, 2.0)).groups == ()


def test_a_matrix_out_of_reach_is_no_unknown_one(tmp_path: Path) -> None:
    info = bert_like(1)
    for spec in info.modules:
        _save(_path(tmp_path, info, spectrum_key([spec], "rows")), np.ones(min(spec.shape), dtype=np.float32))
    errors = svd_errors(info, tmp_path, 6.0)
    assert [name for name, error in errors.items() if np.isnan(error)] == ["query.0"]
    figure = map_figure(map_table(info, errors=errors), LIGHT, COMPRESSIBLE, ratio=6.0)
    texts = [text for trace in figure.data if trace.type == "heatmap" for row in trace.text for text in row if text]
    assert sorted(texts) == ["-", "0.94", "0.94"]
    assert "not known" not in compressible_answer(map_table(info, errors=errors), 6.0)
    assert "not known yet for any of 3 weight matrices" in compressible_answer(map_table(info), 6.0)


@pytest.mark.parametrize("layers", [0, 1, 48])
def test_maps_of_any_depth_can_be_drawn_and_picked(layers: int) -> None:
    for info in (bert_like(layers), unknown_like(layers)):
        table = map_table(info, {spec.name for spec in info.modules})
        figure = map_figure(table, DARK, picked=info.modules[-1].name)
        (points,) = [trace for trace in figure.data if trace.customdata is not None]
        assert {point[0] for point in points.customdata} == {spec.name for spec in info.modules}
        assert map_pixels(table) > 100


def test_the_map_shows_the_largest_where_there_are_too_many() -> None:
    weights = {f"blocks.{layer}.part_{place}.x": (place + 2, 4) for layer in range(2) for place in range(60)}
    table = map_table(made("nobody", {**weights, **{f"head_{place}": (9, 9) for place in range(20)}}, family=None))
    outside, rows = shown_rows(table)
    assert (len(outside), len(rows)) == (8, 40)
    assert rows[-1] == "blocks.*.part_59.x"
    assert "blocks.*.part_0.x" not in rows


def test_long_names_are_cut_where_they_are_shown_only() -> None:
    name = "a" * 50 + "." + "b" * 49
    info = made("nobody", {name: (8, 8)}, family=None)
    assert isinstance(info.modules[0], ModuleSpec)
    figure = map_figure(map_table(info), LIGHT)
    assert figure.layout.yaxis.ticktext[0] == "…" + "b" * 23
    assert name not in recognised_answer(info)
    assert share_table(info)["share"].iloc[0] == 1


def test_an_export_says_of_which_model_it_is(minilm: ModelInfo) -> None:
    table = exported(map_table(minilm), minilm, ratio=3.0)
    assert set(table["model"]) == {"minilm-l6"}
    assert set(table["fingerprint"]) == {minilm.fingerprint}
    assert set(table["ratio"]) == {3.0}


def test_numbers_are_brief() -> None:
    assert [number(value) for value in (0, 768, 999_600, 147_456, 11_720_448, 7e9)] == [
        "0",
        "768",
        "1 M",
        "147 k",
        "11.7 M",
        "7 B",
    ]
    assert [percent(share).replace(SPACE, " ") for share in (0, 0.00339, 0.039, 0.516, 1)] == [
        "0 %",
        "0.34 %",
        "3.9 %",
        "52 %",
        "100 %",
    ]
