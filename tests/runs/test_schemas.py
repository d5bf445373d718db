"""The JSON Schemas in docs/schema equal those of the models, and agree with the documents that are read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from offcomp.planning.plan import Plan
from offcomp.runs.schemas import DOCUMENTS, schema_text
from tests.planning.test_plan import PLAN, WRONG_IN_GROUP, WRONG_IN_PLAN, with_group

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "schema"
REWRITE = "'python -m offcomp.runs.schemas docs/schema' rewrites it"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_schema_in_the_documentation_is_that_of_the_model(name: str) -> None:
    written = (FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")
    assert written == schema_text(name), f"docs/schema/{name}.schema.json is out of date; {REWRITE}"


def test_there_is_no_other_schema() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {f"{name}.schema.json" for name in DOCUMENTS}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_schema_is_valid(name: str) -> None:
    Draft202012Validator.check_schema(json.loads(schema_text(name)))


@pytest.mark.parametrize("name", ["plan", "manifest"])
def test_every_field_of_a_plan_is_described(name: str) -> None:
    schema = json.loads(schema_text(name))
    plan = schema if name == "plan" else schema["$defs"]["Plan"]
    for kind in (plan, *(schema["$defs"][part] for part in ("Group", "Task", "CalibrationText"))):
        assert [field for field, value in kind["properties"].items() if "description" not in value] == []


def accepts(document: Any) -> bool:
    """Return whether the schema of plans accepts a document."""
    return bool(Draft202012Validator(json.loads(schema_text("plan"))).is_valid(document))


def test_a_plan_follows_its_schema() -> None:
    assert accepts(PLAN) and accepts(Plan.from_dict(PLAN).to_dict())
    for file in (ROOT / "tests" / "planning" / "old_plans").iterdir():
        assert accepts(json.loads(file.read_text())), file.name
    for file in (ROOT / "assets" / "runs").glob("minilm-l6-*.json"):
        document = json.loads(file.read_text())
        for row in [document, *document.get("sweep", [])]:
            assert "plan" not in row or accepts(row["plan"]), file.name


NO_JSON = [case for case in WRONG_IN_GROUP if isinstance(case[1], float)]  # infinity or NaN


@pytest.mark.parametrize(("field", "value"), [*(case for case in WRONG_IN_GROUP if case not in NO_JSON), ("extra", 1)])
def test_the_schema_refuses_what_is_refused_in_a_group(field: str, value: Any) -> None:
    assert not accepts(with_group(**{field: value}))


@pytest.mark.parametrize(("field", "value"), [*WRONG_IN_PLAN, ("schema", 2), ("extra", 1)])
def test_the_schema_refuses_what_is_refused_in_a_plan(field: str, value: Any) -> None:
    assert not accepts(PLAN | {field: value})
