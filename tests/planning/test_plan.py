"""Plans are read from JSON, written back, and checked against their model, with all faults reported at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from offcomp.errors import PlanError
from offcomp.methods import default_options, stated_options
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.json_fields import JsonModel
from offcomp.planning.plan import PLAN_SCHEMA, Group, Plan, validate
from offcomp.planning.sizes import predict
from tests.minilm import minilm_info

INFO = minilm_info()
GROUP: dict[str, Any] = {
    "name": "key",
    "modules": ["key.0", "key.1"],
    "stack": "columns",
    "method": "autoencoder",
    "options": {"epochs": 3},
    "ratio": 4.0,
    "unit": "bytes",
    "dtype": "float16",
}
PLAN: dict[str, Any] = {"schema": 1, "model": "minilm-l6", "seed": 5, "tasks": ["sentiment"], "groups": [GROUP]}


def with_group(**changes: Any) -> dict[str, Any]:
    """The document `PLAN` with changed fields in its group."""
    return PLAN | {"groups": [GROUP | changes]}


def faults_of_reading(document: Any) -> tuple[str, ...]:
    with pytest.raises(PlanError) as raised:
        Plan.from_dict(document)
    return raised.value.faults


def faults_of(*groups: Group, tasks: tuple[str, ...] = ()) -> tuple[str, ...]:
    with pytest.raises(PlanError) as raised:
        validate(Plan(model="minilm-l6", groups=groups, tasks=tasks), INFO)
    return raised.value.faults


def svd_group(*modules: str, **fields: Any) -> Group:
    return Group(**{"name": "some", "modules": modules, **fields})


# ---------------------------------------------------------------------------------------------------- to and from JSON


def test_a_plan_survives_json_with_every_field_set() -> None:
    plan = Plan.from_dict(PLAN)
    assert plan.groups[0].modules == ("key.0", "key.1")
    assert (plan.seed, plan.groups[0].ratio, plan.groups[0].unit, plan.groups[0].dtype) == (5, 4.0, "bytes", "float16")
    written = json.loads(plan.to_json())
    assert written == PLAN | {"groups": [GROUP | {"options": stated_options("autoencoder", {"epochs": 3})}]}
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()


def test_the_plan_of_the_design_is_read() -> None:
    key = {"name": "key", "modules": [f"key.{i}" for i in range(6)], "stack": "rows", "method": "svd", "options": {}}
    value = {"name": "value", "modules": ["value.0", "value.1"], "stack": "columns", "method": "autoencoder"}
    options = {"preset": "banaei2023", "encoder": "nonlinear", "decoder": "linear", "epochs": 30}
    groups = [
        key | {"ratio": 3.0, "unit": "parameters", "dtype": "float32"},
        value | {"options": options, "ratio": 10.0, "unit": "bytes", "dtype": "float16"},
    ]
    document = {"schema": 1, "model": "minilm-l6", "seed": 0, "tasks": ["sentiment"], "groups": groups}
    plan = Plan.from_json(json.dumps(document))
    validate(plan, INFO)
    assert [group.method for group in plan.groups] == ["svd", "autoencoder"]
    assert all(value == options[key] for key, value in plan.groups[1].options.items())


def test_omitted_fields_get_defaults_and_are_written_out() -> None:
    short = Plan.from_dict({"model": "minilm-l6", "groups": [{"name": "key", "modules": ["key.0"]}]})
    written = short.to_dict()
    assert written["schema"] == PLAN_SCHEMA
    assert (written["seed"], written["tasks"]) == (0, ["sentiment"])
    assert written["groups"] == [
        {
            "name": "key",
            "modules": ["key.0"],
            "stack": "rows",
            "method": "svd",
            "options": stated_options("svd", {}),
            "ratio": 2.0,
            "unit": "parameters",
            "dtype": "stored",
        }
    ]
    assert Plan.from_dict(written).to_dict() == written


def test_plans_that_differ_in_omitted_defaults_only_are_written_alike() -> None:
    short = Plan.from_dict(with_group(options={}))
    long = Plan.from_dict(with_group(options=default_options("autoencoder")))
    other = Plan.from_dict(with_group(options={"epochs": 29}))
    assert short != long
    assert short.to_dict() == long.to_dict()
    assert short.to_json() == long.to_json()
    assert other.to_dict() != long.to_dict()


def test_a_whole_number_as_ratio_is_written_like_its_decimal() -> None:
    whole, decimal = (Plan.from_json(json.dumps(with_group(ratio=ratio))) for ratio in (3, 3.0))
    assert whole.to_json() == decimal.to_json()  # the id of a run is a hash of this text


def test_a_plan_without_groups_is_the_baseline() -> None:
    plan = Plan.from_dict({"model": "minilm-l6"})
    assert plan.groups == ()
    validate(plan, INFO)


def test_a_finished_plan_is_not_changed_by_its_document() -> None:
    document = json.loads(json.dumps(PLAN))
    plan = Plan.from_dict(document)
    written = plan.to_dict()
    document["groups"][0]["modules"].append("key.2")
    assert plan.groups[0].modules == ("key.0", "key.1")
    written["groups"][0]["options"]["epochs"] = 99
    assert plan.to_dict()["groups"][0]["options"]["epochs"] == 3


# ------------------------------------------------------------------------------------------------ wrong field by field

WRONG_IN_GROUP = [
    ("name", ""),
    ("name", 3),
    ("name", None),
    ("modules", []),
    ("modules", "key.0"),
    ("modules", ["key.0", 1]),
    ("modules", [""]),
    ("modules", {"key.0": 1}),
    ("stack", "diagonal"),
    ("stack", None),
    ("stack", ["rows"]),
    ("method", 1),
    ("method", ""),
    ("options", []),
    ("options", None),
    ("ratio", float("nan")),
    ("ratio", float("inf")),
    ("ratio", -float("inf")),
    ("ratio", True),
    ("ratio", "3"),
    ("ratio", None),
    ("ratio", [2.0]),
    ("unit", "kilobytes"),
    ("unit", 4),
    ("dtype", "float8"),
    ("dtype", {}),
]
WRONG_IN_PLAN = [
    ("model", ""),
    ("model", 7),
    ("model", None),
    ("tasks", "sentiment"),
    ("tasks", {"sentiment": 1}),
    ("seed", -1),
    ("seed", 1.5),
    ("seed", True),
    ("seed", "0"),
    ("seed", 2**31),
    ("groups", "key"),
    ("groups", {"name": "key"}),
    ("groups", 5),
    ("groups", None),
    ("groups", True),
]


@pytest.mark.parametrize(("field", "value"), WRONG_IN_GROUP)
def test_a_wrong_field_of_a_group_gives_one_sentence_with_its_group_name_and_value(field: str, value: Any) -> None:
    (fault,) = faults_of_reading(with_group(**{field: value}))
    assert field in fault and repr(value) in fault
    if field != "name":
        assert "'key'" in fault
    assert fault.endswith(".") and "\n" not in fault


@pytest.mark.parametrize(("field", "value"), WRONG_IN_PLAN)
def test_a_wrong_field_of_a_plan_gives_one_sentence_with_its_name_and_value(field: str, value: Any) -> None:
    (fault,) = faults_of_reading(PLAN | {field: value})
    assert field in fault and repr(value) in fault
    assert fault.endswith(".") and "\n" not in fault


def test_what_a_seed_may_be_is_true_of_no_seed_that_is_refused() -> None:
    (fault,) = faults_of_reading(PLAN | {"seed": 2**31})
    assert not fault.endswith("must be 0 or more.")  # as 2147483648 is


@pytest.mark.parametrize("entry", [None, 3, "key", ["key"]])
def test_a_group_that_is_no_object_is_named_by_its_number(entry: Any) -> None:
    (fault,) = faults_of_reading(PLAN | {"groups": [GROUP, entry]})
    assert "group 1" in fault and repr(entry) in fault


@pytest.mark.parametrize("schema", [0, 2, "1", None, 1.5, [1]])
def test_another_schema_is_refused_with_its_number(schema: Any) -> None:
    (fault,) = faults_of_reading(PLAN | {"schema": schema})
    assert "schema" in fault and repr(schema) in fault and str(PLAN_SCHEMA) in fault


def test_unknown_fields_are_refused_at_both_levels_with_those_that_exist() -> None:
    of_plan, of_group = faults_of_reading(PLAN | {"task": [], "groups": [GROUP | {"bits": 3}]})
    assert "'task'" in of_plan and "tasks" in of_plan and "groups" in of_plan
    assert "'bits'" in of_group and "'key'" in of_group and "ratio" in of_group


@pytest.mark.parametrize(
    ("document", "field"),
    [({"groups": []}, "model"), ({"model": "m", "groups": [{"name": "k"}]}, "modules")],
)
def test_a_field_that_is_needed_is_named_where_it_lacks(document: dict[str, Any], field: str) -> None:
    (fault,) = faults_of_reading(document)
    assert "lacks" in fault and f"'{field}'" in fault


def test_a_group_without_a_name_is_found_by_its_number() -> None:
    (fault,) = faults_of_reading(PLAN | {"groups": [GROUP, {"modules": ["key.3"]}]})
    assert "group 1" in fault and "'name'" in fault


def test_all_faults_of_reading_come_at_once() -> None:
    second = GROUP | {"name": "a/b", "stack": "up", "unit": "bits", "dtype": "int3"}
    faults = faults_of_reading({"schema": 9, "seed": -4, "colour": 1, "groups": [GROUP | {"ratio": "x"}, second]})
    expected = [
        "schema 9",
        "'colour'",
        "'model'",
        "seed -4",
        "ratio 'x'",
        "letters",
        "stack 'up'",
        "unit 'bits'",
        "dtype 'int3'",
    ]
    assert len(faults) == len(expected)
    for part in expected:
        assert sum(part in fault for fault in faults) == 1, part


TASK: dict[str, Any] = {"name": "stars", "family": "probe", "data": "reviews.csv"}
FULL = PLAN | {
    "tasks": ["topics", TASK, "sentiment"],
    "groups": [GROUP, GROUP | {"name": "other"}],
    "calibration": {"num_texts": 9},
}
FAULTS: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "schema": (("schema",), 3, "plan schema 3 is unknown; this version reads schema 1."),
    "model": (("model",), "a\nb", r"plan has model 'a\nb', which contains a line break, a control character or a"),
    "seed": (("seed",), 0.5, "plan has seed 0.5; it must be a whole number from 0 to 2147483647."),
    "field of the plan": (
        ("colour",),
        1,
        "plan has an unknown field 'colour'; the known fields are schema, model, seed, tasks,",
    ),
    "task": (("tasks", 0), 7, "task 0 is 7; it must be the name of a task or a JSON object."),
    "name of a task": (("tasks", 2), "a\nb", r"task 2 is 'a\nb'; it must be the name of a task or a JSON object."),
    "family": (("tasks", 1, "family"), "x", "task 'stars' has family 'x'; it must be one of head, head-regression, probe,"),
    "columns": (
        ("tasks", 1, "columns"),
        {"text": ""},
        "task 'stars' has columns {'text': ''}; it must be a JSON object of column",
    ),
    "named like a tag": (("tasks", 1, "<name>"), 1, "task 'stars' has an unknown field '<name>'; the known fields are name,"),
    "modules": (("groups", 0, "modules"), [], "group 'key' has modules []; it must be a list of one or more module names."),
    "ratio": (("groups", 0, "ratio"), True, "group 'key' has ratio True; it must be a number, 1 or greater."),
    "options": (
        ("groups", 0, "options"),
        {"a": ["\u202e"]},
        r"group 'key' has options {'a': ['\u202e']}, which contains a line",
    ),
    "rank": (("groups", 1, "rank"), 0, "group 'other' has rank 0; it must be a whole number, 1 or greater."),
    "energy": (
        ("groups", 1, "energy"),
        2,
        "group 'other' has energy 2; it must be a share of the energy, above 0 and at most 1.",
    ),
    "field of a group": (
        ("groups", 1, "<object>"),
        1,
        "group 'other' has an unknown field '<object>'; the known fields are name,",
    ),
    "calibration": (("calibration", "num_texts"), "9", "calibration has num_texts '9'; it must be a whole number from 1 to"),
}
"""Case -> the path in `FULL` at which a fault is inserted, the wrong value, and the beginning of the message."""


@settings(max_examples=100, deadline=None, derandomize=True)
@given(chosen=st.sets(st.sampled_from(sorted(FAULTS)), min_size=1))
@example(chosen=set(FAULTS))
def test_each_of_several_faults_is_one_sentence(chosen: set[str]) -> None:
    document = json.loads(json.dumps(FULL))
    for path, value, _ in (FAULTS[name] for name in chosen):
        inner = document
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
    faults = faults_of_reading(document)
    assert len(faults) == len(chosen)
    for name in chosen:
        assert sum(fault.startswith(FAULTS[name][2]) and fault.endswith(".") for fault in faults) == 1, (name, faults)


@pytest.mark.parametrize(
    ("kind", "values"), [(Group, {"modules": ("a",), "rank": 0}), (CalibrationText, {"max_tokens": 1, "text": ""})]
)
def test_faults_of_a_part_are_named_where_it_is_made(kind: type[JsonModel], values: dict[str, Any]) -> None:
    with pytest.raises(PlanError) as raised:
        kind(**values)
    assert len(raised.value.faults) == len(values)


def test_no_field_is_replaced_that_does_not_exist() -> None:
    with pytest.raises(TypeError, match="Group has no field ratios"):
        svd_group("key.0").replace(ratios=3.0)


def test_the_message_of_an_error_holds_every_fault() -> None:
    with pytest.raises(PlanError) as raised:
        Plan.from_dict(PLAN | {"seed": -4, "model": ""})
    assert len(raised.value.faults) == 2
    assert all(fault in str(raised.value) for fault in raised.value.faults)


@pytest.mark.parametrize("document", [[], [PLAN], "plan", 3, None, True])
def test_anything_but_an_object_is_refused(document: Any) -> None:
    (fault,) = faults_of_reading(document)
    assert "JSON object" in fault and type(document).__name__ in fault


@pytest.mark.parametrize("text", ["", "{", "model: minilm-l6", '{"model": }', "\x00", "{} {}"])
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="not valid JSON"):
        Plan.from_json(text)


@pytest.mark.parametrize("digits", [400, 5000], ids=["beyond a float", "beyond what Python reads"])
def test_a_ratio_of_very_many_digits_is_a_fault_and_no_crash(digits: int) -> None:
    text = json.dumps(with_group(ratio=3)).replace('"ratio": 3', '"ratio": 1' + "0" * digits)
    with pytest.raises(PlanError):
        validate(Plan.from_json(text), INFO)


def test_json_that_nests_too_deep_is_a_fault_and_no_crash() -> None:
    with pytest.raises(PlanError):
        Plan.from_json("[" * 100_000)


# ------------------------------------------------------------------------------------------------------------ anything

SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 10**400, -(10**400)])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["rows", "svd", "autoencoder", "bytes", "int8", "key.0", "sentiment", "minilm-l6", "pooler"])
)
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
PLAN_FIELDS = st.sampled_from([*PLAN, "extra"])
GROUP_FIELDS = st.sampled_from([*GROUP, "extra"])
OPTIONS = st.dictionaries(st.sampled_from([*default_options("autoencoder"), "extra"]), JSON_VALUES, max_size=3)


def document_with(of_plan: dict[str, Any], of_group: dict[str, Any]) -> dict[str, Any]:
    return with_group(**of_group) | of_plan


DOCUMENTS = st.one_of(
    JSON_VALUES,
    st.builds(
        document_with,
        st.dictionaries(PLAN_FIELDS, JSON_VALUES, max_size=1),
        st.dictionaries(GROUP_FIELDS, JSON_VALUES, max_size=3),
    ),
    st.builds(lambda options: with_group(options=options), OPTIONS),
)


def only_plan_errors(action: Callable[[], Any]) -> Any:
    """The result of an action, or None if it raises a PlanError with at least one sentence. Other exceptions are not caught."""
    try:
        return action()
    except PlanError as error:
        assert error.faults and all(fault.endswith(".") for fault in error.faults)
        return None


@settings(max_examples=250, deadline=None, derandomize=True)
@given(document=DOCUMENTS)
@example(document=PLAN | {"groups": 5})
@example(document=with_group(ratio=10**400))
@example(document=with_group(ratio=1e308))
@example(document=with_group(ratio=5e-324))
def test_no_json_value_raises_anything_but_a_plan_error(document: Any) -> None:
    plan = only_plan_errors(lambda: Plan.from_dict(document))
    if plan is None:
        return
    assert Plan.from_dict(plan.to_dict()).to_dict() == plan.to_dict()
    if only_plan_errors(lambda: validate(plan, INFO) or True):
        prediction = predict(plan, INFO)  # a valid plan can be predicted, and both can be written as JSON
        json.dumps(plan.to_dict(), allow_nan=False)
        json.dumps(prediction.to_dict(), allow_nan=False)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(name=st.text(max_size=12))
def test_every_name_that_passes_is_one_plain_file_name(name: str) -> None:
    if only_plan_errors(lambda: validate(Plan(model="minilm-l6", groups=(svd_group("key.0", name=name),)), INFO) or True):
        assert name.isascii() and name[0].isalnum() and not set(name) & set("/\\:\x00\n ")


def test_options_added_later_do_not_change_plans_that_do_not_use_them() -> None:
    def written(options: dict[str, Any]) -> dict[str, Any]:
        return Group(name="key", modules=("key.0",), options=options).to_dict()["options"]

    assert written({}) == written({"follow": False}) == stated_options("svd", {})
    assert written({"follow": True}) == {**written({}), "follow": True}
    assert default_options("svd").keys() - written({}).keys() == {"follow", "toward_original"}
