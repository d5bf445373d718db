"""The error curve (its table and the figure drawn from it), the prediction table, and tables as text."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from offcomp.cli.text import format_table, prediction_text, sizes_text
from offcomp.planning.plan import Group, Plan, make_groups, members
from offcomp.planning.sizes import predict
from offcomp.planning.spectra import find
from offcomp.planning.spectrum import Spectrum, relative_error
from offcomp.results.charts.error_curve import MARK_SHAPES, error_curve_figure
from offcomp.results.charts.theme import DARK, LIGHT, MARKERS, PALETTES
from offcomp.results.error_curve import CURVE_COLUMNS, error_curve_table, prediction_table
from tests.minilm import minilm_info

RATIOS = [1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0]


INFO = minilm_info()
SPECS = [spec for spec in INFO.modules if spec.default and spec.layer is not None]
BY_KIND = Plan(model=INFO.model, groups=make_groups(SPECS, "kind"))
BY_QKV = Plan(model=INFO.model, groups=make_groups(SPECS, "qkv", unit="bytes", dtype="float16"))


def spectra_of(plan: Plan) -> list[Spectrum]:
    found = [find(INFO, members(group, INFO), group.stack, Path("/nonexistent")) for group in plan.groups]
    return [spectrum for spectrum in found if spectrum is not None]


def at_ratio(plan: Plan, ratio: float) -> Plan:
    return plan.replace(groups=tuple(group.replace(ratio=ratio) for group in plan.groups))


# ---------------------------------------------------------------------------------------------------------- error curve


@pytest.mark.parametrize("plan", [BY_KIND, BY_QKV], ids=["by kind", "by qkv in float16 bytes"])
def test_the_error_grows_with_the_ratio_and_the_size_falls(plan: Plan) -> None:
    table = error_curve_table(INFO, plan, spectra_of(plan), RATIOS)
    assert list(table["requested_ratio"]) == RATIOS
    for column, sign in [("relative_error", 1), ("stored_parameters", -1), ("stored_megabytes", -1)]:
        steps = [sign * (later - earlier) for earlier, later in pairwise(table[column])]
        assert all(step >= 0 for step in steps) and sum(steps) > 0, column
    assert table["relative_error"].between(0, 1).all()
    assert 0.8 < table["relative_error"].iloc[-1] < 1


def test_every_point_is_that_of_the_prediction() -> None:
    spectra = spectra_of(BY_KIND)
    table = error_curve_table(INFO, BY_KIND, spectra, RATIOS[1:]).set_index("requested_ratio")
    for ratio in RATIOS[1:]:
        prediction = predict(at_ratio(BY_KIND, ratio), INFO)
        point = table.loc[ratio]
        assert point["relative_error"] == relative_error(spectra, [group.size for group in prediction.groups])
        assert point["stored_parameters"] == sum(group.num_parameters for group in prediction.groups)
        assert point["stored_megabytes"] == pytest.approx(sum(group.num_bytes for group in prediction.groups) / 1e6)


def test_the_error_at_a_ratio_by_hand() -> None:
    plan = Plan(model=INFO.model, groups=(Group(name="key", modules=tuple(f"key.{i}" for i in range(6))),))
    (spectrum,) = spectra_of(plan)
    (point,) = error_curve_table(INFO, plan, [spectrum], [3.0]).to_dict("records")
    energy = spectrum.astype(np.float64) ** 2
    assert point["relative_error"] == pytest.approx((energy[109:].sum() / energy.sum()) ** 0.5, rel=1e-9)
    assert point["relative_error"] == pytest.approx(0.6185, abs=5e-4)
    assert point["stored_parameters"] == 109 * (2304 + 384)


def test_at_ratio_one_nothing_is_lost() -> None:
    (point,) = error_curve_table(INFO, BY_KIND, spectra_of(BY_KIND), [1.0]).to_dict("records")
    assert point["relative_error"] == 0.0
    assert point["stored_parameters"] == sum(spec.num_parameters for spec in SPECS)


def test_ratios_that_a_group_cannot_reach_are_left_out() -> None:
    plan = Plan(
        model=INFO.model,
        groups=(Group(name="one", modules=("key.0",)), Group(name="many", modules=tuple(f"ffn_in.{i}" for i in range(6)))),
    )
    table = error_curve_table(INFO, plan, spectra_of(plan), [2.0, 100.0, 192.0, 193.0, 300.0])
    assert list(table["requested_ratio"]) == [2.0, 100.0, 192.0]  # rank 1 of a 384 x 384 matrix stores 1/192 of it


def test_without_ratios_the_table_is_empty_and_has_its_columns() -> None:
    table = error_curve_table(INFO, BY_KIND, spectra_of(BY_KIND), [])
    assert len(table) == 0
    assert tuple(table.columns) == CURVE_COLUMNS


def points_of(*rows: tuple[str, str, str, float, float]) -> pd.DataFrame:
    """Return a table like that of `error_point_table`, from rows of (method, style key, origin, ratio, error)."""
    table = pd.DataFrame(rows, columns=["method", "style_key", "origin", "ratio", "relative_error"])
    run = ["" if origin == "estimated" else "0123456789ab" for origin in table["origin"]]
    return table.assign(requested_ratio=3.0, run=run, seed=5, about="Estimated from 2 measurements of these groups.")


NO_POINTS = points_of()
POINTS = points_of(
    ("Autoencoder", "autoencoder", "bundled", 3.05, 0.8),
    ("Autoencoder", "autoencoder", "yours", 5.1, 0.9),
    ("Autoencoder", "autoencoder", "estimated", 4.02, 0.85),
    ("Pruning", "pruning", "estimated", 4.0, 0.5),
    ("SVD", "svd", "yours", 3.02, 0.62),
)


@pytest.mark.parametrize("palette", PALETTES)
def test_the_error_curve_draws_its_table_and_marks_the_chosen_ratio(palette: str) -> None:
    table = error_curve_table(INFO, BY_KIND, spectra_of(BY_KIND), RATIOS)
    figure = error_curve_figure(table, NO_POINTS, 3.0, "parameters", PALETTES[palette])
    curve, chosen = figure.data
    assert list(curve.x) == list(table["ratio"])
    assert list(curve.y) == list(table["relative_error"])
    assert list(chosen.x) == list(table.loc[table["requested_ratio"] == 3.0, "ratio"])
    (label,) = chosen.text
    assert f"{table.set_index('requested_ratio').loc[3.0, 'relative_error']:.3f} at 3x" in label
    assert curve.line.color == PALETTES[palette].series["svd"]
    assert curve.name == "SVD, exact" and curve.line.dash == "solid"
    assert figure.layout.xaxis.type == "log" and "parameters" in figure.layout.xaxis.title.text
    assert "lower is better" in figure.layout.yaxis.title.text
    assert figure.layout.showlegend is False
    json.loads(figure.to_json())


def test_achieved_ratios_are_never_below_the_requested_ones() -> None:
    for plan, unit in ((BY_KIND, "parameters"), (BY_QKV, "bytes")):
        table = error_curve_table(INFO, plan, spectra_of(plan), RATIOS)
        assert (table["ratio"] >= table["requested_ratio"]).all()
        sizes = predict(at_ratio(plan, 5.0), INFO).model.chosen
        assert table.set_index("requested_ratio").loc[5.0, "ratio"] == sizes.ratio(unit)


def test_what_is_measured_is_solid_and_what_is_estimated_hollow_with_a_dashed_edge() -> None:
    table = error_curve_table(INFO, BY_KIND, spectra_of(BY_KIND), RATIOS)
    figure = error_curve_figure(table, POINTS, 3.0, "parameters", LIGHT)
    marks = figure.data[2:]
    assert sorted(x for trace in marks for x in trace.x) == sorted(POINTS["ratio"])
    for trace in marks:
        hollow = trace.marker.symbol.endswith("-open")
        assert hollow == (trace.marker.line.dash is not None) == ("estimated" in trace.customdata[0])
    by_name = {(trace.name, trace.marker.symbol): trace for trace in marks}
    for style_key, name in (("autoencoder", "Autoencoder"), ("pruning", "Pruning")):
        assert {t.marker.color for (title, _), t in by_name.items() if title == name} == {LIGHT.series[style_key]}
    assert list(by_name["Autoencoder", "diamond"].y) == [0.8, 0.9]
    assert list(by_name["Autoencoder", "diamond-open"].y) == [0.85]
    json.loads(figure.to_json())


def test_each_method_is_named_once_and_svd_by_its_line() -> None:
    table = error_curve_table(INFO, BY_KIND, spectra_of(BY_KIND), RATIOS)
    figure = error_curve_figure(table, POINTS, 3.0, "parameters", LIGHT)
    assert figure.layout.showlegend is True
    assert [t.name for t in figure.data if t.showlegend is not False] == ["SVD, exact", "Autoencoder", "Pruning"]


def test_the_hover_of_a_mark_says_what_it_is_and_where_it_comes_from() -> None:
    table = error_curve_table(INFO, BY_KIND, spectra_of(BY_KIND), RATIOS)
    traces = error_curve_figure(table, POINTS, 3.0, "parameters", LIGHT).data[2:]
    told = [details for trace in traces for details in trace.customdata]
    assert (
        "<b>Autoencoder</b>, bundled<br>compression ratio 3.05x (requested 3x): relative error 0.800<br>"
        "run 0123456789ab, seed 5" in told
    )
    assert any(
        text.startswith("<b>Pruning</b>, estimated<br>compression ratio 4x (requested 3x): relative error about 0.50")
        for text in told
    )


def test_before_rounding_the_curve_is_an_estimate_too() -> None:
    table = error_curve_table(INFO, BY_QKV, spectra_of(BY_QKV), RATIOS)
    curve, chosen = error_curve_figure(table, NO_POINTS, 3.0, "bytes", LIGHT, exact=False).data
    assert "exact" not in curve.name and curve.line.dash == "dash"
    assert chosen.marker.symbol == "circle-open" and chosen.marker.line.dash not in (None, "solid")


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_the_error_curve_of_an_empty_table_can_be_drawn(palette: object) -> None:
    table = error_curve_table(INFO, BY_KIND, spectra_of(BY_KIND), [])
    figure = error_curve_figure(table, NO_POINTS, 3.0, "bytes", palette)  # type: ignore[arg-type]
    assert [len(trace.x) for trace in figure.data] == [0, 0]
    json.loads(figure.to_json())


def test_a_ratio_that_is_not_in_the_table_is_not_marked() -> None:
    table = error_curve_table(INFO, BY_KIND, spectra_of(BY_KIND), [2.0])
    assert len(error_curve_figure(table, NO_POINTS, 2.5, "bytes", LIGHT).data[1].x) == 0


def test_methods_that_share_a_colour_have_shapes_of_their_own_on_a_plane() -> None:
    looks = [
        (LIGHT.series[style_key], MARK_SHAPES[style_key])
        for style_key in LIGHT.series
        if style_key not in ("original", "reference")
    ]
    assert len(set(looks)) == len(looks)


def test_both_themes_know_the_same_style_keys_and_every_style_key_has_a_shape() -> None:
    assert LIGHT.series.keys() == DARK.series.keys() == MARKERS.keys()


# ------------------------------------------------------------------------------------------------------ prediction table


def test_the_prediction_table_has_one_row_a_group_with_the_predicted_sizes() -> None:
    groups = predict(at_ratio(BY_KIND, 4.0), INFO).groups
    table = prediction_table(groups, spectra_of(BY_KIND))
    assert list(table.columns) == [
        "group",
        "matrix",
        "rank",
        "stored parameters",
        "stored kB",
        "compression ratio",
        "break-even rank",
        "note",
        "relative error",
    ]
    assert len(table) == len(groups) == 6
    for row, group, spectrum in zip(table.to_dict("records"), groups, spectra_of(BY_KIND), strict=True):
        assert row["group"] == group.name
        assert row["matrix"] == f"{group.rows} x {group.cols}"
        assert row["rank"] == str(group.size)
        assert row["stored parameters"] == group.num_parameters
        assert row["stored kB"] == group.num_bytes / 1000
        assert row["compression ratio"] == group.compression_ratio >= 4
        assert row["break-even rank"] == group.break_even_size
        assert row["relative error"] == relative_error([spectrum], [group.size])


def test_without_spectra_there_is_no_error_in_the_prediction_table() -> None:
    assert "relative error" not in prediction_table(predict(BY_KIND, INFO).groups).columns


def test_an_autoencoder_has_a_latent_width_and_no_rank() -> None:
    plan = Plan(model=INFO.model, groups=make_groups(SPECS, "kind", method="autoencoder"))
    columns = prediction_table(predict(plan, INFO).groups).columns
    assert {"latent width", "break-even latent width"} <= set(columns)
    assert not {"rank", "break-even rank"} & set(columns)


def test_dense_and_impossible_groups_say_so_instead_of_a_rank() -> None:
    groups = (
        Group(name="kept", modules=("key.0",), ratio=1.0),
        Group(name="not", modules=("key.1",), ratio=999.0),
        Group(name="fits", modules=("key.2",)),
    )
    plan = Plan(model=INFO.model, groups=groups)
    table = prediction_table(predict(plan, INFO).groups, spectra_of(plan))
    assert list(table["rank"]) == ["dense", "infeasible", "96"]
    assert table["relative error"][0] == 0.0 and pd.isna(table["relative error"][1])
    assert "not compressed" in table["note"][0] and "lower the ratio" in table["note"][1] and table["note"][2] == ""


def test_groups_of_two_methods_leave_the_column_of_the_other_one_empty() -> None:
    groups = (Group(name="a", modules=("key.0",)), Group(name="b", modules=("key.1",), method="autoencoder"))
    table = prediction_table(predict(Plan(model=INFO.model, groups=groups), INFO).groups)
    assert table["rank"][0] == "96" and table["latent width"][1] == "32"
    for column, row in [("rank", 1), ("latent width", 0)]:
        assert pd.isna(table[column][row]) or table[column][row] == ""


def test_a_prediction_table_without_groups_is_empty() -> None:
    assert len(prediction_table([])) == 0
    assert len(prediction_table([], [])) == 0


# ------------------------------------------------------------------------------------------------------- tables as text


def test_numbers_stand_to_the_right_and_words_to_the_left() -> None:
    rows = [{"name": "key", "size": 5, "error": 0.25}, {"name": "attention_output", "size": 1234567, "error": 0.123456}]
    assert format_table(rows).splitlines() == [
        "name                   size   error",
        "----------------  ---------  ------",
        "key                       5    0.25",
        "attention_output  1,234,567  0.1235",
    ]


def test_a_header_wider_than_its_cells_sets_the_width() -> None:
    assert format_table([{"stored parameters": 1, "x": "y"}]).splitlines() == [
        "stored parameters  x",
        "-----------------  -",
        "                1  y",
    ]


def test_empty_columns_are_left_out_and_zeros_are_not() -> None:
    rows = [{"a": "", "b": 0, "c": None, "d": ""}, {"a": "", "b": 0, "c": None, "d": "note"}]
    assert format_table(rows).splitlines() == ["b  d", "-  ----", "0", "0  note"]


def test_no_rows_are_no_text() -> None:
    assert format_table([]) == ""


def test_no_line_ends_in_blanks() -> None:
    rows = [{"a": "long text", "b": "x"}, {"a": "s", "b": ""}]
    assert all(line == line.rstrip() for line in format_table(rows).splitlines())


def test_a_prediction_as_text_holds_every_group_and_the_three_ratios() -> None:
    groups = (Group(name="kept", modules=("key.0",), ratio=1.0), Group(name="keys", modules=("key.1", "key.2"), ratio=4.0))
    text = prediction_text(Plan(model=INFO.model, groups=groups), INFO)
    prediction = predict(Plan(model=INFO.model, groups=groups), INFO)
    lines = text.splitlines()
    assert any(line.startswith("kept") and "dense" in line for line in lines)
    assert any(line.startswith("keys") and f"rank {prediction.groups[1].size}" in line for line in lines)
    assert text.endswith(sizes_text(prediction.model))
    before = f"{INFO.num_parameters:,}"
    assert sum(before in line for line in lines) == 1
    for title in ("chosen modules", "all linear and embedding weights", "whole model"):
        assert sum(line.startswith(title) for line in lines) == 1


def test_the_text_of_the_baseline_has_sizes_only() -> None:
    assert prediction_text(Plan(model=INFO.model), INFO).strip() == sizes_text(predict(Plan(model=INFO.model), INFO).model)
