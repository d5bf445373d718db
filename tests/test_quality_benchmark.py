"""The benchmark with many tasks: smaller splits, both modes of a probe, rows that are measured once, and the printed table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.quality import (
    KEPT,
    REFITTED,
    ROWS,
    Distance,
    completed,
    markdown,
    measured,
    opened,
    originals,
    tables,
    with_fewer_examples,
)
from benchmarks.sts import Case, cases, read_texts
from offcomp.models.loading import LoadedModel, load
from offcomp.planning.data.tasks import Task
from tests import tiny_models
from tests.language_models import syllable_tokenizer, texts_of
from tests.minilm import minilm_info

MEASUREMENTS = Path(__file__).parents[1] / "assets" / "measurements"
ABOUT = {"model": "m", "most": {"train": 10}, "tasks": {"toy": {"title": "Toy", "n": 4, "value": 0.75}}}


def folder_of_splits(folder: Path, **sizes: int) -> Path:
    """Write a classification task with splits of these sizes to parquet files, without duplicate texts; return the folder."""
    folder.mkdir(parents=True)
    texts = [f"{text} {text}" for text in texts_of(*(4 + number % 8 for number in range(sum(sizes.values()))))]
    for split, size in sizes.items():
        drawn, texts = texts[:size], texts[size:]
        pd.DataFrame({"text": drawn, "label": [n % 2 for n in range(size)]}).to_parquet(folder / f"{split}.parquet")
    return folder


def read_splits(folder: Path) -> dict[str, pd.DataFrame]:
    return {file.stem: pd.read_parquet(file) for file in folder.glob("*.parquet")}


def row(name: str, low: float, high: float, draw: int = 0) -> dict[str, Any]:
    score = {"value": 0.7, "difference": (low + high) / 2, "interval": [low, high], "collapsed": False}
    about = {"stored": name, "draw": draw, "series": "s", "bytes": 5, "ratio": 16.43, "seconds": 1.0, "cosine_distance": 0.2}
    return about | {"scores": {"toy": {KEPT: score}}}


def test_only_the_named_splits_have_fewer_examples_drawn_alike_each_time(tmp_path: Path) -> None:
    source = folder_of_splits(tmp_path / "source", train=40, validation=20, test=30)
    for name in ("one", "two"):
        with_fewer_examples(source, tmp_path / name, {"train": 15, "test": 40})
    whole, one, two = (read_splits(tmp_path / name) for name in ("source", "one", "two"))
    assert one["validation"].equals(whole["validation"]) and one["test"].equals(whole["test"])
    assert one["train"].equals(two["train"]) and len(one["train"]) == 15
    places = [list(whole["train"]["text"]).index(text) for text in one["train"]["text"]]
    assert places == sorted(places) and places != list(range(15))


def test_every_probe_is_asked_both_kept_and_refitted_and_similarity_once(tmp_path: Path) -> None:
    folder_of_splits(tmp_path / "toy", train=40, validation=12, test=12)
    pairs = texts_of(*range(2, 26))
    (tmp_path / "alike").mkdir()
    table = pd.DataFrame({"sentence1": pairs[:12], "sentence2": pairs[12:], "score": range(12)})
    table.to_parquet(tmp_path / "alike" / "test.parquet")
    loaded = tiny(tmp_path / "model")
    tasks = opened(
        loaded,
        [Task(name="toy", family="probe", data="toy", title="Toy"), Task(name="alike", family="similarity", data="alike")],
        tmp_path,
        {"train": 30},
    )
    assert {name: list(modes) for name, modes in tasks.items()} == {"toy": [KEPT, REFITTED], "alike": [KEPT]}
    assert originals(tasks)["toy"]["n_train"] == 30 and originals(tasks)["toy"]["n"] == 12
    found = measured(loaded, Case("original", "original"), [], tasks, Distance(loaded, pairs))
    assert found["ratio"] == 1.0 and abs(found["cosine_distance"]) < 1e-6
    for name, mode in (("toy", KEPT), ("toy", REFITTED), ("alike", KEPT)):
        assert found["scores"][name][mode]["difference"] == 0.0
        assert found["scores"][name][mode]["interval"] == [0.0, 0.0]
        assert found["scores"][name][mode]["value"] == originals(tasks)[name]["value"]
    json.dumps(found)


def tiny(folder: Path) -> LoadedModel:
    loaded = load(str(tiny_models.save(tiny_models.shared("bert_base"), folder, tokenizer=False)))
    return replace(loaded, tokenizer=syllable_tokenizer(framed=True))


def test_rows_are_written_one_by_one_and_measured_once(tmp_path: Path) -> None:
    path, asked = tmp_path / "folder" / "quality.json", []

    def measure(name: str, draw: int) -> dict[str, Any]:
        asked.append((name, draw))
        if name == "breaks":
            raise KeyboardInterrupt
        return row(name, -0.02, 0.01, draw)

    with pytest.raises(KeyboardInterrupt):
        completed(path, ABOUT, [("first", 0), ("breaks", 0)], measure)
    assert [each["stored"] for each in json.loads(path.read_text())["rows"]] == ["first"]
    document = completed(path, ABOUT, [("first", 0), ("first", 1), ("second", 0)], measure)
    assert asked == [("first", 0), ("breaks", 0), ("first", 1), ("second", 0)]
    assert document == json.loads(path.read_text())
    assert [(each["stored"], each["draw"]) for each in document["rows"]] == [("first", 0), ("first", 1), ("second", 0)]


@pytest.mark.parametrize("field", list(ABOUT))
def test_rows_made_otherwise_are_not_mixed(tmp_path: Path, field: str) -> None:
    path = tmp_path / "quality.json"
    completed(path, ABOUT, [("first", 0)], lambda name, _: row(name, -0.02, 0.01))
    with pytest.raises(SystemExit, match=f"a different {field}"):
        completed(path, ABOUT | {field: "other"}, [("first", 0)], lambda name, _: row(name, 0.0, 0.0))


def test_the_table_marks_what_differs_beyond_its_interval() -> None:
    rows = [row("lost", -0.03, -0.01), row("even", -0.03, 0.01), row("even", -0.01, 0.01, draw=1), row("won", 0.01, 0.02)]
    document = {**ABOUT, "rows": rows}
    lines = markdown(document, KEPT).splitlines()
    assert lines[0] == "| stored | times fewer bytes | draws | cosine distance | mean | Toy |"
    cells = ("**-2.0 (-3.0 to -1.0)**", "-0.5 (-2.0 to +1.0)", "**+1.5 (+1.0 to +2.0)**")
    assert lines[2:] == [
        "| original | 1 |  | 0 | 75.0 | 75.0 |",
        f"| lost | 16.4 | 1 | 0.200 | {cells[0]} | {cells[0]} |",
        f"| even | 16.4 | 2 | 0.200 | {cells[1]} | {cells[1]} |",
        f"| won | 16.4 | 1 | 0.200 | {cells[2]} | {cells[2]} |",
    ]
    assert markdown(document, REFITTED).splitlines()[3] == "| lost | 16.4 | 1 | 0.200 |"


def test_the_mean_over_tasks_has_a_narrower_interval() -> None:
    task = {"title": "Toy", "n": 4, "value": 0.75}
    rows = [row("lost", -0.03, -0.01)]
    rows[0]["scores"]["other"] = rows[0]["scores"]["toy"]
    table = markdown({**ABOUT, "tasks": {"toy": task, "other": task}, "rows": rows}, KEPT)
    assert "| **-2.0 (-2.7 to -1.3)** | **-2.0 (-3.0 to -1.0)** |" in table


def test_the_readme_has_the_tables_of_the_measurements() -> None:
    measured = [json.loads((MEASUREMENTS / f"quality-{name}.json").read_text()) for name in ("trellis-minilm-l6", "minilm-l6")]
    readme = (MEASUREMENTS.parents[1] / "README.md").read_text()
    shown = [part for part in tables(measured).split("\n\n") if part.startswith("|")]
    assert len(shown) == 2 and all(f"\n{part}\n" in readme for part in shown)


def test_a_table_orders_the_sizes_of_a_method() -> None:
    rows = [
        row(name, -0.03, -0.01) | {"ratio": ratio}
        for name, ratio in (("a, 20x", 20.0), ("int4, row by row", 8), ("a, 8x", 8.0))
    ]
    lines = tables([{**ABOUT, "rows": rows[:2]}, {**ABOUT, "rows": rows[2:]}]).splitlines()
    assert [line.split(" | ")[:2] for line in lines[5:8]] == [["| a", "8.0"], ["| a", "20.0"], ["| 4-bit integers", "8.0"]]


def test_every_row_of_the_table_is_a_case() -> None:
    assert set(ROWS) <= {case.name for case in cases(minilm_info(), with_text=True)}


def test_a_line_of_a_book_is_a_calibration_text(tmp_path: Path) -> None:
    lines = [f"line {number} of a book that goes on for more than forty characters" for number in range(60)]
    pd.DataFrame({"text": ["\n".join(lines[:40]), "\n".join([*lines[40:], "too short"])]}).to_parquet(
        tmp_path / "books.parquet"
    )
    texts = read_texts([tmp_path / "books.parquet"], 30)
    assert len(set(texts)) == 30 and set(texts) <= set(lines)
