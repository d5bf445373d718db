"""Tasks of a plan: named or described, written back as they were read, and checked with every fault at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from offcomp.errors import PlanError, TaskError
from offcomp.models.sources import bundled_info
from offcomp.plan import Plan, validate
from offcomp.tasks import FAMILIES, TASKS, Task, find_task

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
    assert plan.tasks == ("topics", Task("stars", "probe", "reviews.csv", columns={"text": "body", "label": "stars"}))
    assert json.loads(plan.to_json())["tasks"] == ["topics", OWN | {"version": "1"}]
    assert Plan.from_json(plan.to_json()) == plan


def test_asked_tasks_have_their_family() -> None:
    assert [task.family for task in plan_of("similarity", OWN).asked_tasks] == ["similarity", "probe"]
    assert Plan("minilm-l6").asked_tasks == (find_task("sentiment"),)
    with pytest.raises(TaskError, match="did you mean 'topics'"):
        _ = plan_of("topic").asked_tasks


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
        (OWN | {"data": "bundled:sentiment", "options": {"refit": 1}}, ["refit 1", "true or false"]),
        (OWN | {"data": "bundled:sentiment", "columns": {"body": "text"}}, ["'body'", "sentence1", "label"]),
        (OWN, ["'stars'", "'reviews.csv'", "not there"]),
        (OWN | {"data": "reviews.docx"}, ["'reviews.docx'", ".csv"]),
        (OWN | {"data": "bundled:chess"}, ["'bundled:chess'", "bundled:prose"]),
        (OWN | {"name": "topics", "data": "bundled:sentiment"}, ["'topics'", "another name"]),
    ],
)
def test_a_task_that_cannot_be_scored_is_one_sentence(task: Any, parts: list[str]) -> None:
    (fault,) = faults_of(task)
    assert all(part in fault for part in parts)


def test_two_tasks_of_one_name_are_refused() -> None:
    (fault,) = faults_of("topics", "topics")
    assert "'topics'" in fault and "twice" in fault


def test_a_file_of_ones_own_and_a_hub_task_pass(tmp_path: Path) -> None:
    assert INFO is not None
    (tmp_path / "reviews.csv").write_text("body,stars\n")
    numbers = {"name": "masked", "family": "masked-lm", "data": str(tmp_path), "options": {"fraction": 1, "tokens": 64}}
    validate(plan_of(OWN | {"data": str(tmp_path / "reviews.csv")}, "sst2", OWN | {"name": "hub", "data": "hub:a/b/c"}), INFO)
    assert [fault for fault in faults_of(numbers) if "option" in fault] == []


def test_every_task_of_the_catalogue_can_be_described() -> None:
    for task in TASKS:
        assert plan_of(task.to_dict()).tasks == (task,)
