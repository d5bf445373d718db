"""Bundled measurements: tables, sentences and charts of a made-up document, broken files, the page, and the bundled file."""

from __future__ import annotations

import io
import json
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from offcomp.models.sources import bundled_info
from offcomp.planning.data.tasks import find_task, usual_tasks
from offcomp.planning.plan import Plan, validate
from offcomp.results.atlas import (
    FOLDER,
    exported,
    provenance,
    read_measurements,
    sensitivity_answer,
    sensitivity_table,
    sweep_answer,
    sweep_table,
    tasks_of,
    unreadable_files,
)
from offcomp.results.charts.atlas import sensitivity_figure, sweep_figure
from offcomp.results.charts.theme import PALETTES, Palette
from tests.pages import opened, texts

MODEL = "minilm-l6"
BUNDLED = FOLDER / f"{MODEL}-sweep.json"
MAX_BYTES = 3_000_000
TEXTS = ("text", "texts", "flips", "changes", "continuations", "sentence", "sentence1", "sentence2", "settings")


def group(name: str, modules: list[str], method: str, ratio: float, **options: str) -> dict[str, Any]:
    """Return a group of a plan."""
    made = {"stack": "rows", "method": method, "options": options, "ratio": ratio, "unit": "bytes", "dtype": "float32"}
    return {"name": name, "modules": modules, **made}


def row(groups: list[dict[str, Any]], change: float, interval: list[float] | None, *, error: float = 0.5) -> dict[str, Any]:
    """Return a row scored on a task with classes, where the original has an accuracy of 0.8, and on a similarity task."""
    score = {
        "metric": "accuracy",
        "original": {"value": 0.8, "standard_error": 0.02, "n": 400},
        "compressed": {"value": 0.8 + change, "standard_error": interval and 0.02, "n": 400},
        "paired": {"difference": change, "interval": interval},
    }
    ranks = score | {"metric": "spearman", "compressed": {"value": 0.7, "standard_error": 0.01, "n": 325}}
    ratio = groups[0]["ratio"]
    sizes = {
        name: dict.fromkeys(("parameters_before", "parameters_after", "bytes_before", "bytes_after"), 100)
        | {"byte_ratio": 1 + (ratio - 1) * share, "parameter_ratio": 1 + 2 * (ratio - 1) * share}
        for name, share in (("chosen", 1.0), ("matrices", 0.5), ("whole", 0.25))
    }
    plan = {"schema": 1, "model": MODEL, "seed": 3, "tasks": [], "groups": groups}
    scores = {"sentiment": score, "stsb": ranks}
    return {"plan": plan, "relative_error": error, "cosine_distance": 0.1, "sizes": sizes, "groups": [], "scores": scores}


def made_document() -> dict[str, Any]:
    """Return measurements of SVD (each alone at 2x and 4x, stacked at 4x), of quantization (each alone at 4x) and of three
    matrices compressed alone.
    """
    keys, values = (["key.0", "key.1"], ["value.0", "value.1"])
    each = [group(name, [name], "svd", 4.0) for name in (*keys, *values)]
    svd = [{**one, "ratio": 2.0} for one in each]
    stacked = [group("key", keys, "svd", 4.0), group("value", values, "svd", 4.0)]
    integers = [group(name, [name], "quantization", 4.0) for name in (*keys, *values)]
    original = {"task": "sentiment", "metric": "accuracy", "value": 0.8, "standard_error": 0.02, "n": 400}
    return {
        "schema": 1,
        "model": MODEL,
        "fingerprint": "f" * 64,
        "seed": 3,
        "environment": {
            **{"offcomp": "1.2.3", "torch": "2.13.0", "transformers": "5.23.0"},
            **{"machine": "Linux x86_64", "device": "cpu", "threads": 2},
        },
        "measured": "2026-11-24T17:35:55+00:00",
        "originals": {
            "sentiment": original | {"baseline": {"name": "majority class", "value": 0.5}},
            "stsb": original | {"task": "stsb", "metric": "spearman", "value": 0.82, "baseline": None},
            "topics": original | {"task": "topics"},
        },
        "sweep": [
            row(svd, -0.05, [-0.08, -0.02], error=0.3),
            row(each, -0.1, [-0.14, -0.06]),
            row(stacked, -0.2, [-0.25, -0.15], error=0.6),
            row(integers, 0.01, [-0.01, 0.03], error=0.1),
        ],
        "sensitivity": [
            row([group("word_embeddings", ["word_embeddings"], "svd", 4.0)], -0.03, [-0.05, -0.01]),
            row([group("key.1", ["key.1"], "svd", 4.0)], 0.02, [0.005, 0.035]),
            row([group("value.10", ["value.10"], "svd", 4.0)], -0.04, None),
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the made-up document."""
    (tmp_path / "made-sweep.json").write_text(json.dumps(made_document()))
    return tmp_path


def test_a_row_a_setting() -> None:
    table = sweep_table(made_document(), "sentiment", "matrices")
    assert table["method"].tolist() == ["SVD", "SVD", "SVD", "Quantization"]
    assert table["style_key"].tolist() == ["svd", "svd", "svd", "quantization"]
    assert table["grouping"].tolist() == ["each alone", "each alone", "stacked by kind", "each alone"]
    assert table["requested_ratio"].tolist() == [2, 4, 4, 4]
    assert table["byte_ratio"].tolist() == [1.5, 2.5, 2.5, 2.5]
    assert table["parameter_ratio"].tolist() == [2, 4, 4, 4]
    assert table["score"].tolist() == pytest.approx([0.75, 0.7, 0.6, 0.81])
    third = table.iloc[2]
    assert third[["difference", "low", "high", "n", "relative_error"]].tolist() == [-0.2, -0.25, -0.15, 400, 0.6]
    assert third[["original", "baseline", "baseline_name", "standard_error"]].tolist() == [
        0.8,
        0.5,
        "always the same answer",
        0.02,
    ]


@pytest.mark.parametrize(("denominator", "ratio"), [("chosen", 4.0), ("matrices", 2.5), ("whole", 1.75)])
def test_each_denominator_has_its_ratio(denominator: str, ratio: float) -> None:
    assert sweep_table(made_document(), "stsb", denominator)["byte_ratio"].iloc[1] == ratio


def test_tasks_that_no_row_was_scored_on_are_left_out() -> None:
    assert tasks_of(made_document()) == {"sentiment": "Sentiment", "stsb": "STS-B"}
    partly = made_document()
    del partly["sweep"][0]["scores"]["sentiment"]
    assert sweep_table(partly, "sentiment").index.tolist() == [1, 2, 3]
    assert isnan(sweep_table(partly, "stsb")["baseline"].iloc[0])


def test_a_matrix_is_told_apart_where_its_interval_leaves_zero_out() -> None:
    table = sensitivity_table(made_document(), "sentiment")
    assert table["module"].tolist() == ["word_embeddings", "key.1", "value.10"]
    assert table["kind"].tolist() == ["word_embeddings", "key", "value"]
    assert table["layer"].isna().tolist() == [True, False, False]
    assert table["layer"].tolist()[1:] == [1, 10]
    assert table["told_apart"].tolist() == [True, True, False]


def test_answers() -> None:
    document = made_document()
    table = sweep_table(document, "sentiment")
    assert sweep_answer(table) == (
        "At a requested ratio of 4x, Quantization (each alone) has the best accuracy on sentiment: 81.0 %, +1.0 points from "
        "the original (95 % interval -1.0 to +3.0), within noise; 1 of 3 settings is within noise of the original, "
        "and SVD (stacked by kind) is the worst with 60.0 %."
    )
    assert sweep_answer(table.iloc[:1]) == (
        "At a requested ratio of 2x, SVD (each alone) has the best accuracy on sentiment: 75.0 %, -5.0 points from the "
        "original (95 % interval -8.0 to -2.0)."
    )
    alone = sensitivity_table(document, "sentiment")
    assert sensitivity_answer(alone) == (
        "Compressing one matrix at a time with SVD at 4x changes the accuracy on sentiment by more than noise for 2 of 3 "
        "matrices, most strongly for word_embeddings (-3.0 points); about 0 would be expected by chance alone."
    )
    assert "for none of 1 matrices" in sensitivity_answer(alone.iloc[2:])
    assert provenance(document) == (
        "minilm-l6, seed 3, 2026-11-24, offcomp 1.2.3, torch 2.13.0, transformers 5.23.0, Linux x86_64, cpu, 2 threads"
    )


def test_an_exported_row_says_where_it_comes_from_and_repeats_itself() -> None:
    document = made_document()
    del document["sweep"][0]["scores"]["stsb"]
    table = exported(sweep_table(document, "stsb"), document, "sweep")
    read = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    assert set(read["origin"]) == {"bundled"}
    assert set(read["version_torch"]) == {"2.13.0"}
    plans = [Plan.from_json(text) for text in read["plan"]]
    assert [len(plan.groups) for plan in plans] == [4, 2, 4]
    assert plans[0] == Plan.from_dict(document["sweep"][1]["plan"])


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
@pytest.mark.parametrize("task", ["sentiment", "stsb"])
def test_figures(palette: Palette, task: str) -> None:
    document = made_document()
    figure = sweep_figure(sweep_table(document, task, "whole"), palette, "whole")
    json.loads(figure.to_json())
    lines = {trace.name: trace for trace in figure.data if trace.x[0] is not None}
    assert lines["SVD"].line.color == palette.series["svd"]
    assert {trace.line.dash for trace in figure.data if trace.legendgroup == "SVD"} == {"solid", "dash"}
    assert "whole model" in figure.layout.xaxis.title.text
    assert figure.layout.title.text.endswith("?")
    assert len(figure.layout.annotations) == (task == "sentiment")  # the name of the baseline, if there is one
    assert lines["Original"].y[0] == (80 if task == "sentiment" else 0.82)
    assert "95 % interval" in lines["Quantization"].customdata[0]
    cells = sensitivity_figure(sensitivity_table(document, task), palette)
    json.loads(cells.to_json())
    assert len(cells.layout.shapes) == 2  # cells whose intervals exclude 0 are framed
    assert list(cells.data[0].z) == [-0.03, 0.02, -0.04]
    assert (cells.data[0].zmin, cells.data[0].zmax) == (-0.04, 0.04)
    assert list(cells.layout.xaxis.ticktext) == ["none", "1", "10"]
    written = ["-3.0", "+2.0", "-4.0"] if task == "sentiment" else ["-30", "+20", "-40"]  # percentage points; thousandths
    assert list(cells.data[1].text) == [f"<b>{written[0]}</b>", f"<b>{written[1]}</b>", written[2]]


def test_embeddings_beyond_the_layers_do_not_pale_the_rest() -> None:
    document = made_document()
    document["sensitivity"][0]["scores"]["stsb"]["paired"]["difference"] = -0.5
    assert sensitivity_figure(sensitivity_table(document, "stsb"), PALETTES["dark"]).data[0].zmax == 0.04
    only = sensitivity_table(document, "stsb").iloc[:1]
    assert sensitivity_figure(only, PALETTES["dark"]).data[0].zmax == 0.5


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour as defined in WCAG 2."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_numbers_are_legible_on_every_colour_of_a_cell(palette: Palette) -> None:
    for colour in palette.diverging:
        low, high = sorted((luminance(colour), luminance(palette.text)))
        assert (high + 0.05) / (low + 0.05) >= 4.5


def without(*path: str | int) -> str:
    """Return the made-up document without one of its fields, as JSON."""
    document: Any = made_document()
    part = document
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    return json.dumps(document)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '"text"', "{}", json.dumps(made_document() | {"schema": 2})),
        json.dumps(made_document() | {"sweep": []}),
        json.dumps(made_document() | {"sweep": [1]}),
        without("environment", "torch"),
        without("sweep", 2, "sizes", "chosen"),
        without("sweep", 0, "plan", "groups", 0, "method"),
        without("sensitivity", 0, "scores", "stsb", "paired"),
    ],
)
def test_a_broken_file_is_named_and_the_rest_is_read(folder: Path, text: str) -> None:
    (folder / "broken-sweep.json").write_text(text)
    assert unreadable_files(folder) == ["broken-sweep.json"]
    assert list(read_measurements(folder)) == [MODEL]


def test_a_folder_without_measurements(tmp_path: Path) -> None:
    assert read_measurements(tmp_path / "none") == {}
    assert unreadable_files(tmp_path) == []


def open_page(monkeypatch: pytest.MonkeyPatch, folder: Path) -> AppTest:
    """Open the page with the measurements in this folder, and check that it raises no exception."""
    monkeypatch.setattr("offcomp.results.atlas.read_measurements.__defaults__", (folder,))
    monkeypatch.setattr("offcomp.results.atlas.unreadable_files.__defaults__", (folder,))
    return opened("atlas")


def test_the_page(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    app = open_page(monkeypatch, folder)
    assert "Quantization (each alone) has the best accuracy on sentiment: 81.0 %" in texts(app)
    assert "Bundled measurement: minilm-l6, seed 3, 2026-11-24, offcomp 1.2.3" in texts(app)
    assert "python -m benchmarks.measurements --model minilm-l6" in texts(app)
    assert "Bundled: 4 of 4 compressed models shown" in texts(app)
    charts = app.get("plotly_chart")
    assert ["accuracy on sentiment" in chart.proto.alt for chart in charts] == [True, True]
    assert [len(table.value) for table in app.dataframe[-2:]] == [4, 3]
    assert len(app.get("download_button")) == 3
    app.segmented_control(key="measured_task").set_value("stsb").run()
    app.segmented_control(key="measured_size").set_value("whole").run()
    app.segmented_control(key="measured_group").set_value("stacked by kind").run()
    assert not app.exception
    assert "the best Spearman correlation on STS-B: 0.700" in texts(app)
    assert "Bundled: 1 of 4 compressed models shown" in texts(app)
    assert app.dataframe[-2].value["Byte ratio"].tolist() == [1.75]


def test_the_page_asks_for_the_model_where_there_are_several(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    other = made_document() | {"model": "another", "sensitivity": []}
    (folder / "a-sweep.json").write_text(json.dumps(other))
    app = open_page(monkeypatch, folder)
    assert app.selectbox(key="measured_model").options == ["another", MODEL]
    assert "These measurements do not cover compressing a single matrix." in texts(app)
    app.selectbox(key="measured_model").set_value(MODEL).run()
    assert not app.exception
    assert len(app.get("plotly_chart")) == 2


def test_the_page_without_measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken-sweep.json").write_text("{")
    app = open_page(monkeypatch, tmp_path)
    assert "The bundled measurement broken-sweep.json cannot be read" in app.warning[0].value
    assert "benchmarks.measurements" in app.info[0].value
    assert app.button(key="measured_compress").label == "Compress something"
    assert not app.get("plotly_chart")


def keys_of(value: Any) -> set[str]:
    """Return all field names in a JSON document."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


@pytest.mark.skipif(not BUNDLED.exists(), reason="not measured yet")
def test_the_bundled_file() -> None:
    document, info = read_measurements()[MODEL], bundled_info(MODEL)
    assert info is not None
    assert unreadable_files() == []
    assert document["fingerprint"] == info.fingerprint
    assert keys_of(document).isdisjoint(TEXTS)
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= MAX_BYTES
    rows = [*document["sweep"], *document["sensitivity"]]
    labelled = {name for name in usual_tasks(info.architecture) if not find_task(name).kind.fidelity}
    for measured in rows:
        validate(Plan.from_dict(measured["plan"]), info)
        assert labelled <= set(measured["scores"]) <= set(document["originals"])
        for name, score in measured["scores"].items():
            assert score["digest"] == document["originals"][name]["digest"]
    assert len({json.dumps(measured["plan"]) for measured in rows}) == len(rows)
    assert len(sensitivity_table(document, "sentiment")) == sum(spec.default for spec in info.modules)
    assert {"each alone", "stacked by kind"} == set(sweep_table(document, "sentiment")["grouping"])
