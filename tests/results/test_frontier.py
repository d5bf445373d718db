"""Quality against bytes: the table of made-up files, damaged files, the drawing, the page Atlas, and the README's image."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from benchmarks.quality import CHART, draw_charts
from offcomp.errors import StorageError
from offcomp.results.charts.frontier_svg import DEEPEST, NARROW, WIDE, Frame, frontier_svg
from offcomp.results.charts.theme import DARK, LIGHT, PALETTES, Palette
from offcomp.results.frontier import (
    FOLDER,
    KEPT,
    LIMIT,
    MEAN,
    REFITTED,
    choices,
    exported,
    frontier_answer,
    frontier_table,
    noise,
    provenance,
    quality_files,
    read_quality,
)
from tests.pages import opened, texts

MODEL = "minilm-l6"
ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "assets" / "images"


def scored(difference: float, half: float | None) -> dict[str, Any]:
    interval = None if half is None else [difference - half, difference + half]
    return {"value": 0.8 + difference, "difference": difference, "interval": interval, "collapsed": False}


def row(stored: str, ratio: float, classes: float, pairs: float, *, half: float | None = 0.01, draw: int = 0) -> dict[str, Any]:
    """Return a row with these differences on a task with a probe, half as large if refitted, and on one without."""
    scores = {
        "classes": {KEPT: scored(classes, half), REFITTED: scored(classes / 2, half)},
        "pairs": {KEPT: scored(pairs, half)},
    }
    about = {"draw": draw, "stored": stored, "series": "svd", "bytes": int(1000 / ratio), "ratio": ratio, "seconds": 1.0}
    return about | {"scores": scores}


def document(*rows: dict[str, Any]) -> dict[str, Any]:
    task = {"title": "Classes", "family": "probe", "metric": "accuracy", "n": 400, "value": 0.8}
    tasks = {"classes": task, "pairs": task | {"title": "Pairs", "value": 0.7}}
    environment = {"offcomp": "1.2.3", "torch": "4.5", "machine": "Linux", "threads": 2}
    return {
        "model": MODEL,
        "benchmark": "b",
        "date": "2026-11-29",
        "environment": environment,
        "tasks": tasks,
        "rows": list(rows),
    }


FIRST = document(
    row("SVD, whole model at 16.0x, int8", 16.0, -0.3, -0.2),
    row("SVD, whole model at 5.0x, int8", 5.0, -0.06, -0.02),
    row("Shannon's limit, 16x", 16.0, -0.01, -0.01),
    row("Shannon's limit, 8x", 8.0, -0.004, 0.0),
    row("folded <&>, 20x", 20.0, -0.04, -0.04),
)
SECOND = document(
    row("trellis, calibrated, 16x", 16.0, -0.006, 0.0, half=0.005),
    row("trellis, calibrated, 16x", 16.0, -0.002, 0.0, half=0.007, draw=1),
    row("trellis, data-free, 16x", 16.0, -0.02, -0.01),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with both made-up files."""
    (tmp_path / f"quality-{MODEL}.json").write_text(json.dumps(FIRST))
    (tmp_path / f"quality-trellis-{MODEL}.json").write_text(json.dumps(SECOND | {"date": "2026-11-30"}))
    (tmp_path / "sts-minilm-l6.json").write_text("{")
    return tmp_path


def test_a_row_a_way_of_storing_the_model(folder: Path) -> None:
    quality = read_quality(MODEL, folder)
    table = frontier_table(quality)
    columns = ["line", "style_key", "ratio", "draws"]
    assert table[columns].to_numpy().tolist() == [
        ["trellis with text", "trellis", 16.0, 2],
        ["trellis without text", "trellis", 16.0, 1],
        ["SVD", "svd", 5.0, 1],
        ["SVD", "svd", 16.0, 1],
        ["Shannon's limit", LIMIT, 8.0, 1],
        ["Shannon's limit", LIMIT, 16.0, 1],
        ["folded <&>", "svd", 20.0, 1],
    ]
    assert list(table["hollow"]) == [False, True, False, False, False, False, False]
    assert table["difference"].tolist() == pytest.approx([-0.2, -1.5, -4.0, -25.0, -0.2, -1.0, -4.0])
    assert table["original"].tolist() == pytest.approx([75.0] * 7)
    assert table["score"].tolist() == pytest.approx((75.0 + table["difference"]).tolist())
    halves = ((table["high"] - table["low"]) / 2).tolist()
    assert halves == pytest.approx([0.6 / 2**0.5, *[1 / 2**0.5] * 6])
    assert noise(table) == pytest.approx(0.6 / 2**0.5)
    assert quality.date == "2026-11-30"


def test_fast_options_are_a_line_of_their_own(folder: Path) -> None:
    fast, recipe = (f"paper's autoencoder{how}, whole model at 5.0x, int8" for how in (", fast options", ""))
    made = document(row(recipe, 5.0, -0.2, -0.1), row(fast, 5.0, -0.2, -0.1))
    (folder / f"quality-{MODEL}.json").write_text(json.dumps(made))
    table = frontier_table(read_quality(MODEL, folder)).set_index("stored")
    assert table.loc[fast, "line"] == "paper's autoencoder, fast options" and table.loc[fast, "hollow"]
    assert table.loc[recipe, "line"] == "paper's autoencoder" and not table.loc[recipe, "hollow"]


def test_one_task_or_refitted_probes(folder: Path) -> None:
    quality = read_quality(MODEL, folder)
    assert choices(quality) == {MEAN: "Mean of 2 tasks", "classes": "Classes", "pairs": "Pairs"}
    assert choices(quality, REFITTED) == {MEAN: "Mean of 1 task", "classes": "Classes"}
    classes, refitted = frontier_table(quality, "classes"), frontier_table(quality, MEAN, REFITTED)
    assert classes["difference"].tolist() == pytest.approx([-0.4, -2.0, -6.0, -30.0, -0.4, -1.0, -4.0])
    assert ((classes["high"] - classes["low"]) / 2).tolist() == pytest.approx([0.6, *[1.0] * 6])
    assert refitted["difference"].tolist() == pytest.approx((classes["difference"] / 2).tolist())
    assert refitted["original"].tolist() == pytest.approx([80.0] * 7)


def test_the_answer_names_the_best_and_the_worst_of_a_size(folder: Path) -> None:
    table = frontier_table(read_quality(MODEL, folder))
    assert frontier_answer(table) == "At 16x fewer bytes: trellis with text -0.2 points (within noise), SVD -25.0"
    assert frontier_answer(table[table["ratio"] == 5.0]) == "How much quality is left in fewer bytes?"


def test_a_download_says_where_it_comes_from(folder: Path) -> None:
    quality = read_quality(MODEL, folder)
    assert provenance(quality) == "minilm-l6, 2026-11-30, offcomp 1.2.3, torch 4.5, Linux"
    rows = exported(frontier_table(quality), quality)
    assert set(rows["model"]) == {MODEL} and set(rows["version_torch"]) == {"4.5"} and set(rows["measured"]) == {"2026-11-30"}


def without_interval(made: dict[str, Any]) -> None:
    for each in made["rows"]:
        each["scores"]["pairs"][KEPT]["interval"] = None


def test_a_score_without_an_interval_has_none_in_the_mean(folder: Path) -> None:
    made = copy.deepcopy(FIRST)
    without_interval(made)
    (folder / f"quality-{MODEL}.json").write_text(json.dumps(made))
    table = frontier_table(read_quality(MODEL, folder))
    assert table["low"].isna().tolist() == [False, False, True, True, True, True, True]
    parsed(frontier_svg(table, LIGHT, title="", what=""))


def change(path: list[str | int], value: Any) -> Callable[[dict[str, Any]], None]:
    def changed(made: Any) -> None:
        for name in path[:-1]:
            made = made[name]
        made[path[-1]] = value

    return changed


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (change(["rows", 0, "ratio"], "16"), r"rows\[0\]\.ratio is '16'"),
        (change(["rows", 0, "ratio"], float("nan")), "not valid JSON"),
        (change(["rows", 0, "scores"], {}), "no score of 'SVD, whole model at 16.0x, int8' on 'classes'"),
        (change(["rows", 1, "scores", "pairs", KEPT], {}), "value is missing"),
        (change(["rows"], []), "contains no measurements"),
        (change(["tasks", "pairs", "value"], None), "tasks.pairs.value is None"),
        (change(["tasks", "pairs", "value"], 0.71), "different models or tasks"),
        (change(["model"], "other"), "different models or tasks"),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(folder: Path, damage: Callable[[dict[str, Any]], None], said: str) -> None:
    made = copy.deepcopy(FIRST)
    damage(made)
    (folder / f"quality-{MODEL}.json").write_text(json.dumps(made))
    with pytest.raises(StorageError, match=said) as caught:
        read_quality(MODEL, folder)
    assert re.search("reinstall offcomp|repeat them", str(caught.value))
    assert "\n" not in str(caught.value)


def test_missing_and_cut_off_files(folder: Path) -> None:
    (folder / f"quality-{MODEL}.json").write_text("{")
    with pytest.raises(StorageError, match=f"quality-{MODEL}.json cannot be used .*not valid JSON.*reinstall offcomp"):
        read_quality(MODEL, folder)
    assert quality_files("other", folder) == []
    with pytest.raises(StorageError, match="no measurements of quality against bytes for other; reinstall offcomp"):
        read_quality("other", folder)


def parsed(drawn: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawn)  # noqa: S314  # our own drawing


SVG = "{http://www.w3.org/2000/svg}"


def ticks(drawn: ElementTree.Element, frame: Frame) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """Return functions from pixels to the logarithm of the ratio (base 2) and to points, read off the ticks of the axes."""
    places = {str(each.text): (float(each.get("x", 0)), float(each.get("y", 0)) - 4) for each in drawn.iter(f"{SVG}text")}
    one, two, zero, low = places["1x"][0], places["2x"][0], places["0"][1], places["-4"][1]
    assert 0 < one < two < frame.width and 0 < zero < low < frame.height
    return (lambda x: (x - one) / (two - one)), (lambda y: -4 * (y - zero) / (low - zero))


def marks_of(drawn: ElementTree.Element, colour: str) -> list[tuple[float, float]]:
    """Return the places of the filled and of the hollow marks of a colour."""
    found = []
    for each in drawn.iter():
        painted = colour in (each.get("fill"), each.get("stroke")) and each.get("stroke-width") in (None, "2.5")
        if painted and each.tag == f"{SVG}circle":
            found.append((float(each.get("cx", 0)), float(each.get("cy", 0))))
        elif painted and each.tag == f"{SVG}path":
            x, y = re.match(r"M([\d.]+) ([\d.]+)m", each.get("d", "")).groups()  # type: ignore[union-attr]
            found.append((float(x), float(y)))
    return found


@pytest.mark.parametrize("frame", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_every_mark_is_where_its_row_says(folder: Path, palette: Palette, frame: Frame) -> None:
    table = frontier_table(read_quality(MODEL, folder))
    drawn = parsed(frontier_svg(table, palette, title="Which?", what="Mean", frame=frame))
    across, up = ticks(drawn, frame)
    for style_key, part in table[table["style_key"] != LIMIT].groupby("style_key"):
        marks = [(2 ** across(x), up(y)) for x, y in marks_of(drawn, palette.colour(str(style_key)))]
        assert [ratio for ratio, _ in marks] == pytest.approx(list(part["ratio"]), rel=0.01)
        for (_, points), difference in zip(marks, part["difference"], strict=True):
            assert DEEPEST < points < -8 if difference < DEEPEST else points == pytest.approx(difference, abs=0.05)
    ((x, y),) = marks_of(drawn, palette.colour("original"))
    assert (across(x), up(y)) == pytest.approx((0.0, 0.0), abs=0.05)


@pytest.mark.parametrize("frame", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_line_has_its_label_inside_and_nothing_is_markup(folder: Path, frame: Frame) -> None:
    table = frontier_table(read_quality(MODEL, folder))
    source = frontier_svg(table, LIGHT, title="Which <b>?", what='"Mean" &c.', frame=frame)
    drawn = parsed(source)
    written = [str(each.text) for each in drawn.iter(f"{SVG}text")]
    labels = [
        "trellis with text",
        "trellis without text",
        "SVD -25.0",
        "Shannon's limit",
        "folded <&>",
        "original",
        "within noise",
    ]
    assert [written.count(label) for label in labels] == [1] * len(labels)
    assert "Which <b>?" in written and 'points gained or lost: "Mean" &c. (up is better)' in written
    assert "times fewer bytes, log scale (right is better)" in written
    assert "Codes that use text, or the ways in which" in " ".join(written)
    for each in drawn.iter(f"{SVG}text"):
        assert 0 <= float(each.get("x", -1)) <= frame.width and 0 < float(each.get("y", 0)) <= frame.height
    dashed = [each for each in drawn.iter(f"{SVG}polyline") if each.get("stroke-dasharray")]
    assert len(dashed) == 1 and len(str(dashed[0].get("points")).split()) == 2


def test_the_limit_is_only_explained_where_it_is_shown(folder: Path) -> None:
    table = frontier_table(read_quality(MODEL, folder))
    assert "Shannon" not in frontier_svg(table[table["style_key"] != LIMIT], LIGHT, title="", what="")


def test_a_lone_row_is_drawn(folder: Path) -> None:
    table = frontier_table(read_quality(MODEL, folder))
    for part in (table.iloc[:1], table.iloc[3:4]):
        parsed(frontier_svg(part, DARK, title="", what=""))


def test_the_images_of_the_readme_are_what_the_command_draws(tmp_path: Path) -> None:
    draw_charts(tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for theme in PALETTES:
        name = CHART.format(theme)
        assert (tmp_path / name).read_text(encoding="utf-8") == (IMAGES / name).read_text(encoding="utf-8")
        assert f"assets/images/{name}" in readme
    picture = readme[readme.index("<picture>") : readme.index("</picture>")]
    assert '(prefers-color-scheme: dark)" srcset="assets/images/quality-dark.svg"' in picture and 'alt="' in picture


def bundled_table(task: str = MEAN, mode: str = KEPT) -> pd.DataFrame:
    return frontier_table(read_quality(MODEL), task, mode)


def test_atlas_shows_the_chart_of_the_chosen_task(home: Path) -> None:
    app = opened("atlas")
    wide, narrow = app.get("image")
    assert "Mean of 7 tasks" in wide.proto.imgs[0].alt == narrow.proto.imgs[0].alt
    assert frontier_answer(bundled_table()) in texts(app)
    shown = app.dataframe[0].value
    assert shown["Difference, points"].tolist() == pytest.approx(bundled_table()["difference"].tolist())
    app.segmented_control(key="quality_task").set_value("sst2").run()
    assert not app.exception
    assert "SST-2" in app.get("image")[0].proto.imgs[0].alt
    app.segmented_control(key="quality_probes").set_value(REFITTED).run()
    assert not app.exception
    refitted = bundled_table("sst2", REFITTED)
    assert app.dataframe[0].value["Difference, points"].tolist() == pytest.approx(refitted["difference"].tolist())
    assert "STS-B" not in app.segmented_control(key="quality_task").options


def test_atlas_with_a_damaged_file(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FOLDER, tmp_path / "damaged")
    (tmp_path / "damaged" / f"quality-{MODEL}.json").write_text("[")
    for name in ("quality_files", "read_quality"):
        monkeypatch.setattr(f"offcomp.results.frontier.{name}.__defaults__", (tmp_path / "damaged",))
    app = opened("atlas")
    assert "cannot be used" in app.warning[0].value and "reinstall offcomp" in app.warning[0].value
    assert not app.get("image") and len(app.get("plotly_chart")) == 2
