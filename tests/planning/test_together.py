"""Which groups of a plan are compressed in one call, and what that costs."""

from __future__ import annotations

from typing import Any

import pytest

from offcomp.methods import Autoencoder
from offcomp.models.catalogue import ModelInfo
from offcomp.planning import together
from offcomp.planning.cost import FLOAT32_BYTES, PROCESS_BYTES, estimate
from offcomp.planning.plan import Group, Plan, make_groups
from offcomp.planning.sizes import predict
from offcomp.planning.together import sets_of_groups
from tests.minilm import minilm_info

INFO: ModelInfo = minilm_info()
KINDS = ("query", "ffn_in", "key", "value", "ffn_out", "attention_output")


def groups_of(kinds: tuple[str, ...] = KINDS, by: str = "kind", **settings: Any) -> tuple[Group, ...]:
    specs = [spec for spec in INFO.modules if spec.kind in kinds]
    return tuple(make_groups(specs, by, **{"method": "autoencoder", "stack": "residual", "ratio": 10.0} | settings))


def names_of_sets(groups: tuple[Group, ...]) -> list[list[str]]:
    return [[group.name for group in found] for found in sets_of_groups(groups, INFO)]


def test_groups_of_equal_shape_are_compressed_together_wherever_they_are_in_the_plan() -> None:
    groups = {group.name: group for group in groups_of()}
    found = names_of_sets(tuple(groups[kind] for kind in KINDS))
    assert found == [["query", "key", "value", "attention_output"], ["ffn_in", "ffn_out"]]


@pytest.mark.parametrize(
    "change",
    [{"ratio": 5.0}, {"unit": "bytes"}, {"dtype": "float16"}, {"options": {"epochs": 2}}, {"method": "svd"}],
    ids=lambda change: next(iter(change)),
)
def test_groups_that_differ_in_anything_else_are_compressed_alone(change: dict[str, Any]) -> None:
    query, key = groups_of(("query", "key"))
    assert names_of_sets((query, key)) == [["query", "key"]]
    assert names_of_sets((query, key.replace(**change))) == [["query"], ["key"]]


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "svd"},
        {"options": {"preset": "residual"}},
        {"options": {"coefficients": "fisher_rows"}},
        {"ratio": 1.0},  # stored dense
    ],
    ids=str,
)
def test_other_methods_and_dense_groups_are_compressed_alone(settings: dict[str, Any]) -> None:
    assert names_of_sets(groups_of(("query", "key"), **settings)) == [["query"], ["key"]]


def test_a_set_is_full_at_the_largest_number_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = groups_of(("query",), "module")
    monkeypatch.setattr(together, "MAX_NUMBERS", 4 * 384 * 384)
    assert [len(found) for found in names_of_sets(groups)] == [4, 2]
    monkeypatch.setattr(together, "MAX_NUMBERS", 384 * 384 - 1)
    assert [len(found) for found in names_of_sets(groups)] == [1] * 6


def test_the_first_stage_of_a_set_takes_its_time_and_memory_is_that_of_the_set() -> None:
    plan = Plan(model=INFO.model, groups=groups_of(("query", "key")), tasks=())
    prediction = predict(plan, INFO)
    cost = estimate(plan, INFO, prediction)
    alone = prediction.groups[0].seconds
    assert list(cost.stages)[1:] == ["compress query", "compress key"]
    assert alone / 2 < cost.stages["compress query"] < 2 * alone
    assert cost.stages["compress key"] == 0
    fits = 2 * FLOAT32_BYTES * 6 * 384 * 384 * (1 + Autoencoder.memory)
    small = ModelInfo(**{**vars(INFO), "num_parameters": 1})
    assert estimate(plan, small, prediction).memory == round(PROCESS_BYTES + fits)
