"""Checks of plans against their model: modules, shapes, methods, tasks, names, and the groups that presets form."""

from __future__ import annotations

from typing import Any

import pytest

from offcomp.errors import InputError, ModelError, PlanError
from offcomp.planning.plan import Plan, make_groups, members, validate
from tests.planning.test_plan import INFO, PLAN, faults_of, svd_group


def test_a_good_plan_passes() -> None:
    validate(Plan.from_dict(PLAN), INFO)


@pytest.mark.parametrize("ratio", [0.999, 0.5, 0.0, -3.0])
def test_a_ratio_below_one_is_refused(ratio: float) -> None:
    (fault,) = faults_of(svd_group("key.0", ratio=ratio))
    assert f"{ratio:g}" in fault and "'some'" in fault and "1 or more" in fault


def test_ratio_one_is_allowed() -> None:
    validate(Plan(model="minilm-l6", groups=(svd_group("key.0", ratio=1.0),)), INFO)


def test_two_groups_of_one_name_are_refused() -> None:
    (fault,) = faults_of(svd_group("key.0"), svd_group("key.1"))
    assert "'some'" in fault and "twice" in fault


def test_a_module_in_two_groups_is_refused_with_both_names() -> None:
    (fault,) = faults_of(svd_group("key.0", "key.1", name="first"), svd_group("key.1", "key.2", name="second"))
    assert all(part in fault for part in ("'key.1'", "'first'", "'second'"))


def test_a_module_twice_in_one_group_is_refused() -> None:
    (fault,) = faults_of(svd_group("key.0", "key.0"))
    assert "'key.0'" in fault and "already" in fault


def test_an_unknown_module_is_refused_with_the_closest_name() -> None:
    (fault,) = faults_of(svd_group("key.0", "qury.3"))
    assert "'qury.3'" in fault and "'some'" in fault and "minilm-l6" in fault
    assert "query.3" in fault  # the closest match


def test_members_of_an_unknown_module_name_the_closest_one() -> None:
    with pytest.raises(ModelError, match=r"did you mean 'attention_output\.5'"):
        members(svd_group("atention_output.5"), INFO)


def test_a_word_like_no_module_is_refused_with_where_to_look() -> None:
    (fault,) = faults_of(svd_group("zzz"))
    assert "'zzz'" in fault and "offcomp modules" in fault


def test_members_keep_the_order_of_the_group() -> None:
    assert [spec.name for spec in members(svd_group("value.3", "key.1", "value.0"), INFO)] == ["value.3", "key.1", "value.0"]


@pytest.mark.parametrize(
    ("modules", "stack"),
    [
        (("key.0", "ffn_out.0"), "rows"),
        (("key.0", "ffn_in.0"), "columns"),
        (("ffn_out.1", "ffn_in.0"), "rows"),
    ],
)
def test_shapes_that_cannot_be_stacked_are_refused_with_both_modules(modules: tuple[str, ...], stack: str) -> None:
    (fault,) = faults_of(svd_group(*modules, stack=stack))
    assert all(module in fault for module in modules)
    assert stack in fault and "384" in fault and "1536" in fault


def test_what_does_not_fit_by_rows_or_columns_may_fit_by_residual() -> None:
    modules = ("key.0", "ffn_in.0", "ffn_out.0", "attention_output.0", "word_embeddings")
    validate(Plan(model="minilm-l6", groups=(svd_group(*modules, stack="residual"),)), INFO)


@pytest.mark.parametrize("module", ["pooler", "embeddings.position_embeddings"])
def test_a_kind_without_a_residual_side_cannot_be_stacked_by_it(module: str) -> None:
    (fault,) = faults_of(svd_group("key.0", module, stack="residual"))
    assert module in fault and "rows or columns" in fault
    validate(Plan(model="minilm-l6", groups=(svd_group("key.0", module, stack="rows"),)), INFO)


def test_an_unknown_method_is_refused_with_those_that_exist() -> None:
    (fault,) = faults_of(svd_group("key.0", method="nmf"))
    assert all(part in fault for part in ("'nmf'", "'some'", "svd", "autoencoder"))


@pytest.mark.parametrize(
    ("method", "options", "parts"),
    [
        ("svd", {"epochs": 3}, ["'epochs'", "'svd'"]),
        ("autoencoder", {"epoch": 3}, ["'epoch'", "epochs", "batch_size"]),
        ("autoencoder", {"epochs": 0}, ["'epochs'", "0", "between 1 and 1000"]),
        ("autoencoder", {"epochs": "30"}, ["'epochs'", "'30'", "int"]),
        ("autoencoder", {"epochs": True}, ["'epochs'", "True", "int"]),
        ("autoencoder", {"epochs": 2.5}, ["'epochs'", "2.5", "int"]),
        ("autoencoder", {"encoder": "deep"}, ["'encoder'", "'deep'", "nonlinear"]),
        ("autoencoder", {"learning_rate": float("nan")}, ["'learning_rate'", "nan"]),
        ("autoencoder", {"enforce_norm": 1}, ["'enforce_norm'", "1", "bool"]),
        ("autoencoder", {"preset": ["banaei2023"]}, ["'preset'", "['banaei2023']"]),
    ],
)
def test_a_wrong_option_is_refused_with_its_value(method: str, options: dict[str, Any], parts: list[str]) -> None:
    (fault,) = faults_of(svd_group("key.0", method=method, options=options))
    assert all(part in fault for part in ["'some'", *parts])


def test_an_unknown_task_is_refused_with_those_that_exist() -> None:
    (fault,) = faults_of(tasks=("sentiment", "weather"))
    assert "'weather'" in fault and "sentiment" in fault


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        ".hidden",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "",
        " ",
        "a b",
        "a\n",
        "a\x00",
        "-rf",
        "näme",
        "a" * 101,
        "C:a",
        "~",
    ],
)
def test_a_group_name_that_is_no_safe_file_name_is_refused(name: str) -> None:
    with pytest.raises(PlanError) as raised:
        svd_group("key.0", name=name)
    (fault,) = raised.value.faults
    assert repr(name) in fault and "letters" in fault


@pytest.mark.parametrize("name", ["a", "key.0", "K-1_2+3", "a" * 100, "0", "a..b"])
def test_a_plain_group_name_is_allowed(name: str) -> None:
    validate(Plan(model="minilm-l6", groups=(svd_group("key.0", name=name),)), INFO)


def test_all_faults_against_the_model_come_at_once() -> None:
    first = svd_group("key.0", "ffn_out.0", ratio=0.5, method="nmf")
    second = svd_group("key.0", "nonsense", name="second")
    faults = faults_of(first, second, tasks=("weather",))
    expected = ["'weather'", "ratio 0.5", "'nmf'", "cannot be stacked", "already in group", "'nonsense'"]
    assert len(faults) == len(expected)
    for part in expected:
        assert sum(part in fault for fault in faults) == 1, part


# ------------------------------------------------------------------------------------------------------------- presets


def test_made_groups_carry_what_was_asked_for() -> None:
    specs = members(svd_group("key.0", "key.1", "attention_output.0"), INFO)
    options = {"epochs": 2}
    made = make_groups(specs, "kind", method="autoencoder", options=options, ratio=5.0, unit="bytes", dtype="int8")
    assert [(group.name, group.modules, group.stack) for group in made] == [
        ("key", ("key.0", "key.1"), "rows"),
        ("attention_output", ("attention_output.0",), "columns"),
    ]
    for group in made:
        assert (group.method, group.options, group.ratio, group.unit, group.dtype) == (
            "autoencoder",
            {"epochs": 2},
            5.0,
            "bytes",
            "int8",
        )
    options["epochs"] = 99
    assert made[0].options == {"epochs": 2}
    validate(Plan(model="minilm-l6", groups=made), INFO)


def test_a_stacking_that_is_asked_for_is_kept() -> None:
    specs = members(svd_group("key.0", "attention_output.0"), INFO)
    assert [group.stack for group in make_groups(specs, "module", stack="columns")] == ["columns", "columns"]


def test_an_unknown_grouping_is_refused_with_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"unknown grouping 'pairs'.*kind.*qkv"):
        make_groups(INFO.modules, "pairs")
