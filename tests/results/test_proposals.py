"""Proposed plans meet their targets as predicted, and are no larger and no less accurate than necessary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from offcomp.errors import InputError
from offcomp.files import write_json
from offcomp.models.catalogue import ModelInfo
from offcomp.models.sources import bundled_info
from offcomp.planning.plan import Plan, make_groups, validate
from offcomp.planning.sizes import predict
from offcomp.results.known_errors import measured_of
from offcomp.results.proposals import Proposal, propose
from offcomp.results.targets import parse_target
from offcomp.runs import sensitivity

GPT, MINILM = "offcomp-gpt", "minilm-l6"


def info_of(model: str) -> ModelInfo:
    info = bundled_info(model)
    assert info
    return info


def plan_of(model: str, kinds: tuple[str, ...], grouping: str = "module", task: str = "similarity", **settings: Any) -> Plan:
    specs = [spec for spec in info_of(model).modules if spec.kind in kinds]
    return Plan(model=model, groups=make_groups(specs, grouping, **settings), tasks=(task,))


def proposed(plan: Plan, text: str, home: Path, *, allocate: bool = False) -> Proposal:
    info = info_of(plan.model)
    found = propose(plan, parse_target(text), info, home, measured_of([], info.fingerprint), allocate=allocate)
    validate(found.plan, info)
    assert [(g.name, g.modules, g.method, g.dtype) for g in found.plan.groups] == [
        (g.name, g.modules, g.method, g.dtype) for g in plan.groups
    ]
    assert list(found.reasons) == [group.name for group in found.plan.groups]
    return found


LINEAR = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")


def test_a_size_is_that_of_the_whole_model_and_is_used_up(tmp_path: Path) -> None:
    plan = plan_of(GPT, LINEAR)
    for allocate in (False, True):
        found = proposed(plan, "3 MB", tmp_path, allocate=allocate)
        whole = predict(found.plan, info_of(GPT)).model.whole
        assert 2.95e6 < whole.bytes_after <= 3e6
        assert f"The whole model takes {whole.bytes_after / 1e6:.2f} MB instead of 3.72 MB" in found.notes[0]


def test_allocating_a_size_lowers_the_expected_loss(tmp_path: Path) -> None:
    plan = plan_of(GPT, LINEAR, task="causal-prose")
    same, allocated = (proposed(plan, "3x", tmp_path, allocate=allocate) for allocate in (False, True))
    assert same.expected and allocated.expected
    assert allocated.expected.value < same.expected.value
    assert len({group.ratio for group in same.plan.groups}) == 1 < len({group.ratio for group in allocated.plan.groups})
    sizes = [predict(found.plan, info_of(GPT)).model.chosen.parameters_after for found in (same, allocated)]
    assert sizes[1] <= sizes[0]
    assert "spent where it does most to preserve the score on causal-prose" in " ".join(allocated.notes)


@pytest.mark.parametrize("allocate", [False, True])
def test_an_error_is_met_with_the_fewest_parameters(tmp_path: Path, allocate: bool) -> None:
    plan = plan_of(MINILM, ("query", "key"))
    found = proposed(plan, "error 0.3", tmp_path, allocate=allocate)
    smaller = proposed(plan, "error 0.31", tmp_path, allocate=allocate)
    assert found.error and smaller.error and 0.29 < found.error <= 0.3 < smaller.error <= 0.31
    sizes = [predict(each.plan, info_of(MINILM)).model.chosen.parameters_after for each in (found, smaller)]
    assert sizes[1] < sizes[0]


def test_allocation_meets_an_error_with_fewer_parameters_than_equal_ratios(tmp_path: Path) -> None:
    plan = plan_of(MINILM, ("query", "key"))
    same, allocated = (proposed(plan, "error 0.4", tmp_path, allocate=allocate) for allocate in (False, True))
    sizes = [predict(each.plan, info_of(MINILM)).model.chosen.parameters_after for each in (same, allocated)]
    assert sizes[1] < sizes[0]
    assert any("its error costs" in reason for reason in allocated.reasons.values())
    assert not any("its error costs" in reason for reason in same.reasons.values())


def test_a_loss_is_met_in_expectation_and_a_larger_one_by_a_smaller_plan(tmp_path: Path) -> None:
    plan = plan_of(MINILM, ("query", "key"))
    little, more = (proposed(plan, f"lose {points} points of similarity", tmp_path) for points in (0.5, 1.5))
    assert little.expected and more.expected
    assert little.expected.loss <= 0.005 < more.expected.loss <= 0.015
    assert more.expected.low < more.expected.value < more.expected.high
    assert more.plan.groups[0].ratio > little.plan.groups[0].ratio


def test_a_loss_of_perplexity_is_relative(tmp_path: Path) -> None:
    plan = plan_of(GPT, LINEAR, task="sentiment")
    found = proposed(plan, "lose 5 % of perplexity", tmp_path, allocate=True)
    assert found.expected and found.expected.task == "causal-prose"
    assert found.expected.original * 1.03 < found.expected.value <= found.expected.original * 1.05
    with pytest.raises(InputError, match="a perplexity is not measured in points"):
        proposed(plan, "lose 1 point of perplexity", tmp_path)


@pytest.mark.parametrize(("text", "sizes"), [("rank 16", {16}), ("4x", {16, 25}), ("energy 0.9", None)])
def test_what_a_plan_can_state_itself_is_stated(tmp_path: Path, text: str, sizes: set[int] | None) -> None:
    found = proposed(plan_of(GPT, ("query", "ffn_in")), text, tmp_path)
    ranks = {group.size for group in predict(found.plan, info_of(GPT)).groups}
    assert ranks == sizes if sizes else len(ranks) > 2
    assert all("% of its energy" in reason for reason in found.reasons.values())


@pytest.mark.parametrize(
    ("plan", "text", "message"),
    [
        (plan_of(MINILM, LINEAR), "12 MB", r"at least 48\.\d+ MB .* could be reached with word_embeddings compressed as well"),
        (plan_of(MINILM, LINEAR), "12 MB", "Quantization on these groups and on word_embeddings"),
        (plan_of(MINILM, LINEAR), "0.1 MB", r"is out of reach; the nearest is \d"),
        (plan_of(MINILM, LINEAR), "error 0.01", r"reaches a relative error of 0\.01; the nearest is 0\.\d+"),
        (plan_of(MINILM, LINEAR), "lose 0.1 points of similarity", r"the smallest expected loss is \d\.\d points"),
        (plan_of(GPT, LINEAR), "1000x", "the largest ratio of these groups is 64x"),
        (
            plan_of(GPT, ("query",), method="kronecker"),
            "error 0.3",
            "needs a measured error of Kronecker .* run this plan once",
        ),
        (Plan(model=GPT), "3x", "the plan has no groups"),
    ],
)
def test_what_cannot_be_reached_names_the_nearest_value_or_a_way(tmp_path: Path, plan: Plan, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        proposed(plan, text, tmp_path)


def test_singular_values_that_are_not_known_are_asked_for(tmp_path: Path) -> None:
    plan = plan_of(GPT, ("query", "ffn_in"), "all", stack="residual")
    with pytest.raises(InputError, match="compute them with 'offcomp spectra'"):
        proposed(plan, "error 0.3", tmp_path)


def test_errors_of_other_methods_are_estimated_from_measurements(tmp_path: Path) -> None:
    plan = plan_of(MINILM, LINEAR, "kind", method="quantization", unit="bytes", dtype="float32")
    found = proposed(plan, "lose 2 points of similarity", tmp_path, allocate=True)
    assert found.expected and 0 < found.expected.loss <= 0.02
    assert predict(found.plan, info_of(MINILM)).model.chosen.byte_ratio > 4
    assert "Every group has the same ratio" in " ".join(found.notes)


def measured_by_hand(plan: Plan, home: Path, sensitivities: dict[str, float]) -> None:
    """Cache sensitivities that do not depend on the size, with the errors of a Gaussian source at 4 and 2 bits per entry."""
    info = info_of(plan.model)
    paths = sensitivity._paths(plan, info, home)
    for group in plan.groups:
        (spec,) = (spec for spec in info.modules if spec.name == group.modules[0])
        probes = [
            sensitivity.Probe(
                num_parameters=spec.num_parameters,
                num_bytes=spec.num_parameters * bits // 8,
                relative_error=2.0**-bits,
                loss=sensitivities[group.name] * 4.0**-bits,
            )
            for bits in (4, 2)
        ]
        found = sensitivity.Sensitivity(family="causal-fidelity", num_texts=7, squared_norm=2.0, probes=tuple(probes))
        write_json(paths[group.name], found.to_dict())


def test_any_method_is_allocated_by_sensitivity(tmp_path: Path) -> None:
    """With E = 2^(-2R), four times the sensitivity is worth one more bit per weight."""
    settings = {"method": "autoencoder", "options": {"preset": "trellis"}, "unit": "bytes"}
    plan = plan_of(GPT, ("query", "value"), **settings)
    info, felt = info_of(GPT), {group.name: 0.1 if "query" in group.name else 0.4 for group in plan.groups}
    arguments = (plan, parse_target("5x"), info, tmp_path, [])
    with pytest.raises(InputError, match=r"the sensitivity of query\.0.* has not been measured yet"):
        propose(*arguments, allocate=True, weighting="sensitivity")
    measured_by_hand(plan, tmp_path, felt)
    found = propose(*arguments, allocate=True, weighting="sensitivity")
    sizes = {group.name: group for group in predict(found.plan, info).groups}
    bits = {name: 8 * group.num_bytes / group.num_parameters for name, group in sizes.items()}
    assert bits["value.1"] - bits["query.1"] == pytest.approx(1.0, abs=0.05)
    alike = propose(*arguments, allocate=False)
    stored = [predict(each.plan, info).model.chosen.bytes_after for each in (found, alike)]
    assert 0.99 * stored[1] < stored[0] <= stored[1]
    assert any("the predicted loss is" in note and "on 7 texts" in note for note in found.notes)
    assert found.error is not None and 0.05 < found.error < 0.3
    assert "larger than most" in found.reasons["value.0"] and "smaller than most" in found.reasons["query.0"]


def test_an_error_is_met_by_sizes_allocated_by_sensitivity(tmp_path: Path) -> None:
    settings = {"method": "autoencoder", "options": {"preset": "trellis"}, "unit": "bytes"}
    plan = plan_of(GPT, ("query", "value"), **settings)
    measured_by_hand(plan, tmp_path, {group.name: 0.1 if "query" in group.name else 0.4 for group in plan.groups})
    found = propose(plan, parse_target("error 0.1"), info_of(GPT), tmp_path, [], allocate=True, weighting="sensitivity")
    assert found.error is not None and 0.09 < found.error <= 0.1
