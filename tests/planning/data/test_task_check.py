"""Faults of tasks that are found before a run: in their columns, and in their classes, compared with the model's own head."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from offcomp.errors import PlanError
from offcomp.models.catalogue import ModelInfo
from offcomp.models.sources import bundled_info
from offcomp.planning.data import task_check
from offcomp.planning.data.head_labels import ModelHead
from offcomp.planning.data.task_check import classes_of, head_of_model, task_fault, view_of
from offcomp.planning.data.tasks import Task, find_task
from offcomp.planning.plan import Plan, validate

TEXTS = [f"The {noun} was {adjective} at {place}." for noun in ("soup", "chair", "train", "coat") for adjective in (
    "cold", "fine", "odd", "grand", "slow") for place in ("home", "night", "sea", "lunch", "first", "last")]  # fmt: skip
MANY = [f"city {number}" for number in range(45)]


def folder(path: Path, **config: Any) -> ModelInfo:
    """The description of a model with this config, as known without loading the model."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
    listed = bundled_info("minilm-l6")
    assert listed is not None
    return replace(listed, model=str(path), source="folder", architecture="BertForSequenceClassification")


def classifier(path: Path, *names: str, **config: Any) -> ModelInfo:
    return folder(path, id2label={str(index): name for index, name in enumerate(names)}, **config)


def task(path: Path, labels: list[str], family: str = "head", column: str = "label", **more: Any) -> Task:
    table = {"text": TEXTS, column: [labels[index % len(labels)] for index in range(len(TEXTS))]}
    pd.DataFrame(table).to_csv(path / "mine.csv", index=False)
    return Task(name="mine", family=family, data=str(path / "mine.csv"), **more)


def fault(found: Task, info: ModelInfo) -> str:
    said = task_fault(found, info)
    assert said is not None and "\n" not in said and said.endswith((".", "?")) and len(said) < 500
    return said


def test_classes_of_another_number_are_refused_and_not_all_named(tmp_path: Path) -> None:
    said = fault(task(tmp_path, MANY), classifier(tmp_path / "model", "NEGATIVE", "POSITIVE"))
    assert "has 2 classes, but the data have 45: city 0, city 1, city 10, city 11, city 12 and 40 more" in said
    assert "city 44" not in said


def test_classes_of_other_names_are_refused(tmp_path: Path) -> None:
    said = fault(task(tmp_path, ["sport", "money"]), classifier(tmp_path / "model", "NEGATIVE", "POSITIVE"))
    assert "NEGATIVE, POSITIVE" in said and "money, sport" in said and "labels" in said


@pytest.mark.parametrize("names", [("NEGATIVE", "POSITIVE"), ("Pos", "neg"), ("LABEL_0", "LABEL_1"), ()])
def test_classes_that_fit_pass(tmp_path: Path, names: tuple[str, ...]) -> None:
    info = classifier(tmp_path / "model", *names) if names else folder(tmp_path / "model")
    assert task_fault(task(tmp_path, ["negative", "positive"]), info) is None


def test_the_option_labels_settles_the_names(tmp_path: Path) -> None:
    found = task(tmp_path, ["sport", "money"], options={"labels": ["sport", "money"]})
    assert task_fault(found, classifier(tmp_path / "model", "A", "B")) is None


def test_only_rows_that_are_tested_on_and_filled_count(tmp_path: Path) -> None:
    """A last line "total" without a text is not a class, and a class that only the training split has is not counted."""
    rows = [(text, ("negative", "positive")[i % 2], "test") for i, text in enumerate(TEXTS)]
    rows += [("", "total", "test"), ("A text of another kind.", "neutral", "train")]
    pd.DataFrame(rows, columns=["text", "label", "split"]).to_csv(tmp_path / "mine.csv", index=False)
    found = Task(name="mine", family="head", data=str(tmp_path / "mine.csv"))
    assert task_fault(found, classifier(tmp_path / "model", "NEGATIVE", "POSITIVE")) is None
    counts = classes_of(tmp_path / "mine.csv", {"text": "text", "label": "label"})
    assert counts == {"negative": 60, "positive": 60}


def test_a_head_with_one_output_takes_scores_and_no_classes(tmp_path: Path) -> None:
    info = classifier(tmp_path / "model", "LABEL_0")
    assert task_fault(task(tmp_path, ["0.5", "2.25", "4"], column="score"), info) is None
    assert task_fault(task(tmp_path, ["0.5", "2.25", "4"], "head-regression", "score"), info) is None
    assert "needs the columns text and score" in fault(task(tmp_path, ["good", "bad"]), info)
    several = classifier(tmp_path / "several", "a", "b", "c")
    assert "3 classes (a, b, c)" in fault(task(tmp_path, ["1", "2"], "head-regression", "score"), several)


def test_a_head_with_several_labels_a_text_is_refused(tmp_path: Path) -> None:
    info = classifier(tmp_path / "model", "a", "b", problem_type="multi_label_classification")
    for family in ("head", "head-regression"):
        assert "multi_label_classification" in fault(task(tmp_path, ["a", "b"], family), info)


def test_columns_are_checked_for_every_family(tmp_path: Path) -> None:
    listed = bundled_info("minilm-l6")
    assert listed is not None
    assert "needs the columns text and score" in fault(task(tmp_path, ["a", "b"], "regression"), listed)
    assert task_fault(task(tmp_path, ["a", "b"], "probe", "mood"), listed) is None


def test_the_plan_is_refused_before_anything_runs(tmp_path: Path) -> None:
    info = classifier(tmp_path / "model", "NEGATIVE", "POSITIVE")
    with pytest.raises(PlanError, match="the data have 45") as error:
        validate(Plan(model=info.model, groups=(), tasks=(task(tmp_path, MANY),)), info)
    assert len(error.value.faults) == 1


def test_a_bundled_task_is_checked_against_the_head_too(tmp_path: Path) -> None:
    sentiment = find_task("sentiment-head")
    assert task_fault(sentiment, classifier(tmp_path / "model", "NEGATIVE", "POSITIVE")) is None
    assert "has 3 classes" in fault(sentiment, classifier(tmp_path / "model", "a", "b", "c"))
    info = bundled_info("offcomp-bert-sentiment")
    assert info is not None and task_fault(sentiment, info) is None


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"1": "b", "0": "a"}}, ("a", "b")),
    ],
)
def test_the_head_of_a_config(config: dict[str, Any], names: tuple[str, ...]) -> None:
    head = ModelHead.from_config("m", config)
    assert head is not None and head.names == names


@pytest.mark.parametrize("config", [{"id2label": {"a": "b"}}, {"id2label": []}, {"num_labels": "two"}, {"id2label": {}}])
def test_a_config_that_is_not_plain_says_nothing_of_the_head(config: dict[str, Any]) -> None:
    assert ModelHead.from_config("m", config) is None


def test_a_model_without_a_head_or_a_folder_has_none_to_check(tmp_path: Path) -> None:
    info = classifier(tmp_path / "model", "a", "b")
    assert head_of_model(replace(info, architecture="BertModel")) is None
    assert head_of_model(replace(info, model="some/hub-id")) is None
    assert head_of_model(replace(info, model=str(tmp_path / "gone"))) is None


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = task_check.read_table
    monkeypatch.setattr(task_check, "read_table", lambda path: read.append(path) or original(path))
    found = task(tmp_path, ["a", "b"], "probe")
    path = Path(found.data)
    assert view_of(path).rows == view_of(path).rows == len(TEXTS) and len(read) == 1
    with path.open("a") as file:
        file.write("One more text of some words.,a\n")
    assert view_of(path).rows == len(TEXTS) + 1 and len(read) == 2


@pytest.mark.parametrize("damage", ["nested", "two of one name", "list"])
def test_a_column_that_is_not_used_refuses_no_table(tmp_path: Path, damage: str) -> None:
    rows = [(text, ("negative", "positive")[i % 2]) for i, text in enumerate(TEXTS)]
    path = tmp_path / ("mine.csv" if damage == "two of one name" else "mine.jsonl")
    if path.suffix == ".csv":
        path.write_text("\n".join(["text,label,n,n", *(f"{text},{label},1,2" for text, label in rows)]))
    else:
        odd = {"x": 1} if damage == "nested" else [1, 2]
        path.write_text("\n".join(json.dumps({"text": text, "label": label, "meta": odd}) for text, label in rows))
    for family in ("head", "probe"):
        assert (
            task_fault(Task(name="mine", family=family, data=str(path)), classifier(tmp_path / "model", "NEGATIVE", "POSITIVE"))
            is None
        )
    view = view_of(path)
    assert view.rows == len(TEXTS) and view.first[0]["text"] == TEXTS[0] and set(view.first[0]) == set(view.contents)
    assert classes_of(path, {"text": "text", "label": "label"}) == {"negative": 60, "positive": 60}


@pytest.mark.parametrize(
    ("tested", "other"), [("testing.csv", "train.csv"), ("dev.jsonl", "train.csv"), ("training.tsv", "notes.csv")]
)
def test_a_folder_is_checked_by_the_file_that_the_run_tests_on(tmp_path: Path, tested: str, other: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    task(data, ["negative", "positive"])
    (data / "mine.csv").rename(data / other)
    table = pd.DataFrame({"text": TEXTS, "label": ["a", "b", "c"] * (len(TEXTS) // 3)})
    if tested.endswith("jsonl"):
        table.to_json(data / tested, orient="records", lines=True)
    else:
        table.to_csv(data / tested, index=False, sep="\t" if tested.endswith("tsv") else ",")
    (data / "test.md").write_text("What these data are.")  # not a table, so no run reads it
    said = fault(Task(name="mine", family="head", data=str(data)), classifier(tmp_path / "model", "NEGATIVE", "POSITIVE"))
    assert "the data have 3: a, b, c" in said


def test_a_file_of_the_same_size_and_time_is_read_again(tmp_path: Path) -> None:
    found = task(tmp_path, ["negative", "positive"])
    path, info = Path(found.data), classifier(tmp_path / "model", "NEGATIVE", "POSITIVE")
    assert task_fault(found, info) is None
    before = path.stat()
    path.write_text(path.read_text().replace("negative", "cheerful"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert "cheerful, positive" in fault(found, info)
    assert list(classes_of(path, {"text": "text", "label": "label"})) == ["cheerful", "positive"]


def test_answers_that_are_not_published_are_not_tested_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split, labels in (("test", ["-1"]), ("valid", ["negative", "positive"])):
        task(data, labels)
        (data / "mine.csv").rename(data / f"{split}.csv")
    assert (
        task_fault(Task(name="mine", family="head", data=str(data)), classifier(tmp_path / "model", "NEGATIVE", "POSITIVE"))
        is None
    )
