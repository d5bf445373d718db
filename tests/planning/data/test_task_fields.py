"""The tasks of a plan are names or descriptions, are written as they were read, and have all faults reported at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offcomp.errors import PlanError, TaskError
from offcomp.models.sources import bundled_info
from offcomp.planning.data.tasks import FAMILIES, TASKS, Task, find_task
from offcomp.planning.plan import Plan, validate
from offcomp.runs.inputs import inputs_of, run_id

INFO = bundled_info("minilm-l6")
OWN: dict[str, Any] = {"name": "stars", "family": "probe", "data": "reviews.csv", "columns": {"text": "body", "label": "stars"}}


def plan_of(*tasks: Any) -> Plan:
    return Plan.from_dict({"model": "minilm-l6", "tasks": list(tasks)})


def faults_of(*tasks: Any) -> tuple[str, ...]:
    assert INFO is not None
    with pytest.raises(PlanError) as raised:
        validate(plan_of(*tasks), INFO)
    return raised.value.faults


def test_named_and_described_tasks_survive_json() -> None:
    plan = plan_of("topics", OWN)
    assert plan.tasks == (
        "topics",
        Task(name="stars", family="probe", data="reviews.csv", columns={"text": "body", "label": "stars"}),
    )
    assert json.loads(plan.to_json())["tasks"] == ["topics", OWN | {"version": "1"}]
    assert Plan.from_json(plan.to_json()) == plan


def test_resolved_tasks_have_their_family() -> None:
    assert [task.family for task in plan_of("similarity", OWN).resolved_tasks] == ["similarity", "probe"]
    assert Plan(model="minilm-l6").resolved_tasks == (find_task("sentiment"),)
    with pytest.raises(TaskError, match="did you mean 'topics'"):
        _ = plan_of("topic").resolved_tasks


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        (OWN | {"family": "magic"}, ["'stars'", "'magic'", *FAMILIES]),
        (OWN | {"family": ["probe"]}, ["'stars'", "['probe']"]),
        ({"name": "stars", "family": "probe"}, ["'stars'", "'data'"]),
        (OWN | {"name": "../x"}, ["'../x'", "letters"]),
        (OWN | {"columns": {"text": 1}}, ["columns", "1"]),
        (OWN | {"metric": "f1"}, ["'metric'", "family"]),
        (3, ["task 0", "3"]),
        ("", ["task 0", "''"]),
    ],
)
def test_what_is_no_task_is_one_sentence(task: Any, parts: list[str]) -> None:
    with pytest.raises(PlanError) as raised:
        plan_of(task)
    (fault,) = raised.value.faults
    assert all(part in fault for part in parts)


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        ("simlarity", ["did you mean 'similarity'?"]),
        ("masked-prose", ["'masked-prose'", "ForMaskedLM", "BertModel"]),
        (OWN | {"data": "bundled:sentiment", "options": {"epochs": 3}}, ["'epochs'", "refit"]),
        (OWN | {"data": "bundled:sentiment", "options": {"refit": 1}}, ["refit to 1", "true or false"]),
        (OWN | {"data": "bundled:sentiment", "columns": {"body": "text"}}, ["'body'", "sentence1", "label"]),
        (OWN, ["'stars'", "'reviews.csv'", "does not exist"]),
        (OWN | {"data": "reviews.docx"}, ["'reviews.docx'", ".csv"]),
        (OWN | {"data": "bundled:chess"}, ["'bundled:chess'", "bundled:prose"]),
        (OWN | {"name": "topics", "data": "bundled:sentiment"}, ["'topics'", "a different name"]),
    ],
)
def test_a_task_that_cannot_be_scored_is_one_sentence(task: Any, parts: list[str]) -> None:
    (fault,) = faults_of(task)
    assert all(part in fault for part in parts)


def test_labels_of_a_head_are_a_list_of_names(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("text,label\n" + "fine,good\nnot so,bad\n" * 10)
    task = {"name": "mine", "family": "head", "data": str(tmp_path / "mine.csv")}
    classifier = replace(INFO, architecture="BertForSequenceClassification")
    validate(Plan.from_dict({"model": "minilm-l6", "tasks": [task | {"options": {"labels": ["good", "bad"]}}]}), classifier)
    with pytest.raises(PlanError, match="a list of class names"):
        validate(Plan.from_dict({"model": "minilm-l6", "tasks": [task | {"options": {"labels": "good"}}]}), classifier)


@pytest.mark.parametrize("data", ["~nobody-of-that-name/f.csv", "x" * 5000 + ".csv"])
def test_a_path_that_cannot_be_used_is_one_sentence(data: str) -> None:
    (fault,) = faults_of(OWN | {"data": data})
    assert "the path of a file or folder" in fault


def test_a_run_is_another_when_the_examples_changed(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    plan = plan_of({"name": "mine", "family": "probe", "data": str(file)})
    names = set()
    for text in ("text,label\n", "text,label\na,b\n"):
        file.write_text(text)
        names.add(run_id(plan, inputs_of(plan, "weights")))
    assert len(names) == 2


def test_two_tasks_of_one_name_are_refused() -> None:
    (fault,) = faults_of("topics", "topics")
    assert "'topics'" in fault and "twice" in fault


def test_a_file_of_ones_own_and_a_hub_task_pass(tmp_path: Path) -> None:
    assert INFO is not None
    (tmp_path / "reviews.csv").write_text("body,stars\n" + "fine,5\nnot so,1\n" * 10)
    numbers = {"name": "masked", "family": "masked-lm", "data": str(tmp_path), "options": {"fraction": 1, "tokens": 64}}
    validate(plan_of(OWN | {"data": str(tmp_path / "reviews.csv")}, "sst2", OWN | {"name": "hub", "data": "hub:a/b/c"}), INFO)
    assert [fault for fault in faults_of(numbers) if "option" in fault] == []


def test_every_task_of_the_catalogue_can_be_described() -> None:
    for task in TASKS:
        assert plan_of(task.to_dict()).tasks == (task,)
