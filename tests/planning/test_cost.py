"""Estimates of the cost of a run: its stages, its memory, times learnt from earlier runs, and the wording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest

from offcomp.methods import METHODS, own_options
from offcomp.models.catalogue import ModelInfo
from offcomp.models.sources import bundled_info
from offcomp.planning.cost import PROCESS_BYTES, duration, estimate, free_memory, gigabytes
from offcomp.planning.plan import Plan, make_groups
from offcomp.planning.sizes import predict
from offcomp.results.bundled import bundled_runs
from offcomp.results.runs import stage_times
from tests.made_runs import made_group, made_run, with_result

KINDS = ("query", "key")


def minilm() -> ModelInfo:
    found = bundled_info("minilm-l6")
    assert found is not None
    return found


INFO = minilm()


def plan_of(kinds: tuple[str, ...] = KINDS, grouping: str = "kind", **settings: Any) -> Plan:
    specs = [spec for spec in INFO.modules if spec.kind in kinds]
    return Plan(model=INFO.model, groups=make_groups(specs, grouping, **settings))


def estimated(plan: Plan, known: dict[str, float] | None = None) -> Any:
    return estimate(plan, INFO, predict(plan, INFO), known)


def test_the_stages_are_those_that_a_run_goes_through() -> None:
    for run in bundled_runs():
        assert run.result
        assert list(estimated(run.plan).stages) == [name for name in run.result.timings if name != "total"]


def test_the_time_of_compressing_is_that_of_the_prediction() -> None:
    plan = plan_of(method="autoencoder", ratio=3.0)
    stages = estimated(plan).stages
    assert sum(stages[f"compress {kind}"] for kind in KINDS) == pytest.approx(predict(plan, INFO).seconds)
    assert estimated(plan).seconds == pytest.approx(sum(stages.values()))


def test_every_task_and_reading_text_cost_time() -> None:
    plan = plan_of(method="svd", options={"preset": "whitened"})
    plain = estimated(plan.replace(tasks=())).seconds
    assert estimated(plan.replace(tasks=("sentiment", "topics"))).seconds > plain + 10
    assert plain > estimated(plan_of().replace(tasks=())).seconds + 10


@pytest.mark.parametrize("method", METHODS, ids=[method.style_key for method in METHODS])
def test_memory_is_that_of_the_model_or_of_a_fit_whichever_is_more(method: Any) -> None:
    plan = plan_of(("query", "ffn_in"), method=method.name, options=own_options(method), ratio=2.0, unit="bytes")
    largest, model = 4 * 6 * 1536 * 384, 4 * INFO.num_parameters
    assert estimated(plan).memory == PROCESS_BYTES + model + 2 * largest
    alone = replace(INFO, num_parameters=largest // 4)
    held = max(3 * largest, largest * (1 + method.memory))
    assert estimate(plan, alone, predict(plan, INFO)).memory == round(PROCESS_BYTES + held)


def test_text_that_runs_through_the_model_needs_more_memory() -> None:
    whitened = plan_of(method="svd", options={"preset": "whitened"})
    assert estimated(whitened).memory - estimated(plan_of(method="svd")).memory == 4 * 6 * 384 * 384


def test_a_plan_without_groups_needs_the_model_alone() -> None:
    assert estimated(Plan(model=INFO.model)).memory == PROCESS_BYTES + 4 * INFO.num_parameters


def test_smaller_groups_need_less_memory() -> None:
    assert estimated(plan_of(grouping="module")).memory < estimated(plan_of(grouping="all")).memory


def test_a_stage_that_was_seen_before_takes_its_time() -> None:
    known = {"load the model": 1.5, "compress key": 2.5, "compress value": 99.0}
    before, after = estimated(plan_of()), estimated(plan_of(), known)
    assert list(after.stages) == list(before.stages)
    assert after.stages == dict(before.stages) | {"load the model": 1.5, "compress key": 2.5}
    assert after.to_dict()["seconds"] == after.seconds


@pytest.mark.parametrize("method", [method for method in METHODS if method.fast_options], ids=lambda method: method.style_key)
def test_quick_options_are_options_and_take_a_fraction_of_the_time(method: Any) -> None:
    own = own_options(method)
    usual, fast_options = (
        predict(plan_of(("ffn_in",), method=method.name, options=own | options, ratio=8.0, unit="bytes"), INFO)
        for options in ({}, method.fast_options)
    )
    assert fast_options.seconds < 0.6 * usual.seconds
    assert fast_options.model == usual.model  # stored sizes do not change


def test_free_memory_is_that_of_this_machine() -> None:
    free = free_memory()
    assert free is not None and 0 < free <= psutil.virtual_memory().total


def test_unknown_free_memory_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no /proc here")

    monkeypatch.setattr(psutil, "virtual_memory", fail)
    assert free_memory() is None


@pytest.mark.parametrize(
    ("say", "value", "text"),
    [
        (duration, 0.2, "1 s"),
        (duration, 7.6, "8 s"),
        (duration, 33, "35 s"),
        (duration, 89, "90 s"),
        (duration, 240, "4 min"),
        (duration, 9000, "2.5 h"),
        (gigabytes, 698_000_000, "0.7 GB"),
        (gigabytes, 24_100_000_000, "24 GB"),
    ],
)
def test_rough_numbers_are_told_roughly(say: Callable[[Any], str], value: float, text: str) -> None:
    assert say(value) == text


def timed(name: str, seconds: float, submitted: float, *, key: str = "key", model: str = "tiny") -> Any:
    """A finished run of one group in which every stage took this many seconds."""
    run = made_run(name, [made_group(key, 0.5)], model=model)
    stages = ("load the model", f"compress {key}", "total")
    return replace(with_result(run, timings=dict.fromkeys(stages, seconds)), submitted=submitted)


def test_the_newest_run_tells_how_long_a_stage_takes() -> None:
    runs = [timed("b", 2.0, 20.0), timed("a", 1.0, 10.0), timed("other", 7.0, 30.0, model="another")]
    known = stage_times(runs[0].plan, "tiny", runs)
    assert (known["load the model"], known["compress key"]) == (2.0, 2.0)


def test_compressing_other_groups_tells_nothing_of_these() -> None:
    asked = timed("a", 1.0, 10.0).plan
    other = timed("b", 2.0, 20.0, key="query")
    ratio = asked.replace(groups=tuple(group.replace(ratio=5.0) for group in asked.groups))
    for run in (other, replace(timed("c", 3.0, 30.0), plan=ratio)):
        known = stage_times(asked, "tiny", [run])
        assert "load the model" in known and "compress key" not in known


def test_a_run_that_failed_tells_nothing() -> None:
    run = replace(timed("a", 1.0, 10.0), status="failed")
    assert stage_times(run.plan, "tiny", [run]) == {}
