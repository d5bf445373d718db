"""Sensitivities agree with second-order theory and a plain loop, are cached by all of their inputs, and improve budgets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offcomp.errors import InputError, TaskError
from offcomp.models import weights
from offcomp.models.catalogue import ModelInfo
from offcomp.models.live import loaded_from
from offcomp.models.loading import LoadedModel, load
from offcomp.planning.allocation import allocated_plan, of_sizes, waterfill, weights_for
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.plan import Group, Plan, members
from offcomp.planning.sizes import predict
from offcomp.runs import sensitivity
from offcomp.runs.compress import compress_group
from offcomp.runs.sensitivity import RATIOS, Probe, Sensitivity, compute, find, loss_curves, measure, missing
from tests import language_models, tiny_models

TEXTS = [f"w{n} w{n + 1} w{n + 2} w{3 * n} w{n + 5} w{2 * n} w{n + 7} w{n + 9}" for n in range(2, 14)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


def saved(tmp_path: Path, name: str, change: Callable[[Any], object] | None = None) -> str:
    model = tiny_models.TINY[name]()
    if change is not None:
        with torch.no_grad():
            change(model)
    return str(tiny_models.save(model, tmp_path / name))


def plan_of(model: str, text: Path, *modules: str, **settings: Any) -> Plan:
    groups = tuple(Group(name=name, modules=(name,), **settings) for name in modules)
    return Plan(model=model, groups=groups, tasks=(), calibration=CalibrationText(text=str(text)))


def predictions(loaded: LoadedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """The hidden states (positions, hidden) and logits (positions, vocabulary) at every position with a next token."""
    hidden, logits = [], []
    for each in TEXTS:
        ids = loaded.tokenizer(each, return_tensors="pt", add_special_tokens=False)["input_ids"]  # type: ignore[misc]
        out = loaded.model(input_ids=ids, output_hidden_states=True)
        hidden.append(out.hidden_states[-1][0, :-1])
        logits.append(out.logits[0, :-1])
    return torch.cat(hidden).double(), torch.cat(logits).double()


def test_a_small_error_of_the_output_matrix_costs_what_its_fisher_information_says(tmp_path: Path, text: Path) -> None:
    """KL ≈ ½ E[δz' (diag p - p p') δz] with δz = (Ŵ - W) h if only the last matrix has an error."""
    loaded = load(saved(tmp_path, "llama"))
    (name,) = (spec.name for spec in loaded.info.modules if spec.path == "lm_head.weight")
    plan = plan_of(loaded.info.model, text, name, method="quantization", unit="bytes")
    ((_, found),) = measure(loaded, plan)
    probes = found.probes
    done = compress_group(loaded.model, loaded.info, plan.groups[0].at_ratio(RATIOS[0]))
    (spec,) = members(plan.groups[0], loaded.info)
    hidden, logits = predictions(loaded)
    p = logits.softmax(1)
    change = hidden @ (done.reconstructions[spec] - weights.read(loaded.model, spec)).double().T
    expected = 0.5 * ((p * change**2).sum(1) - (p * change).sum(1) ** 2).mean()
    assert probes[0].loss == pytest.approx(float(expected), rel=0.03)
    assert probes[0].relative_error == pytest.approx(done.figures.relative_error)


def test_losses_are_those_of_a_plain_loop_and_the_model_is_left_alone(tmp_path: Path, text: Path) -> None:
    loaded = load(saved(tmp_path, "gpt2"))
    before = {name: parameter.clone() for name, parameter in loaded.model.named_parameters()}
    plan = plan_of(loaded.info.model, text, "ffn_in.0", "value.1")
    found, again = dict(measure(loaded, plan)), dict(measure(loaded, plan))
    assert found == again
    assert all(torch.equal(before[name], parameter) for name, parameter in loaded.model.named_parameters())
    _, original = predictions(loaded)
    for group in plan.groups:
        assert len(found[group.name].probes) >= 2
        for probe, ratio in zip(found[group.name].probes, RATIOS, strict=False):  # a square matrix cannot reach the last one
            done = compress_group(loaded.model, loaded.info, group.at_ratio(ratio))
            assert (probe.num_parameters, probe.num_bytes) == (done.figures.num_parameters, done.figures.num_bytes)
            with weights.substituted(loaded.model, done.reconstructions):
                _, changed = predictions(loaded)
            divergence = torch.nn.functional.kl_div(
                changed.log_softmax(1), original.log_softmax(1), log_target=True, reduction="batchmean"
            )
            assert probe.loss == pytest.approx(float(divergence), rel=1e-4)


def test_a_group_without_effect_gets_the_least(tmp_path: Path, text: Path) -> None:
    """Nothing reads the queries of a layer whose attention output is multiplied by zero."""
    loaded = load(saved(tmp_path, "gpt2", lambda model: model.transformer.h[0].attn.c_proj.weight.zero_()))
    plan = plan_of(loaded.info.model, text, "query.0", "ffn_in.0", "value.1")
    found = dict(measure(loaded, plan))
    assert {probe.loss for probe in found["query.0"].probes} == {0.0}
    curves = [found[group.name].curve(group, loaded.info, "parameters") for group in plan.groups]
    losses = loss_curves(found, curves, "parameters")
    total = sum(curve.original for curve in curves) // 3
    result = waterfill(losses, total, weights_for(losses, "frobenius"))
    by_error = waterfill(curves, total, weights_for(curves, "relative"))
    assert result.sizes[0] <= 2 * losses[0].sizes[0] < by_error.sizes[0]
    assert result.objective < of_sizes(losses, by_error.sizes, weights_for(losses, "frobenius")).objective
    planned = predict(allocated_plan(plan, result, loaded.info, "parameters"), loaded.info)
    assert [group.num_parameters for group in planned.groups] == list(result.sizes)
    with pytest.raises(InputError, match="leaves the model's outputs unchanged"):
        loss_curves(found, curves[:1], "parameters")


FAMILIES = {
    "bert": "masked-fidelity",
    "bert_base": "embedding-fidelity",
    "bert_classifier": "head-fidelity",
    "gpt2": "causal-fidelity",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_outputs_that_the_model_is_used_for_are_compared(tmp_path: Path, text: Path, name: str) -> None:
    loaded = language_models.opened(tmp_path, name, framed=name != "gpt2")
    text.write_text("\n".join(language_models.TEXTS), encoding="utf-8")
    ((_, found),) = measure(loaded, plan_of(loaded.info.model, text, "ffn_in.0"))
    assert (found.family, found.num_texts) == (FAMILIES[name], len(language_models.TEXTS))
    assert min(probe.loss for probe in found.probes) > 0
    assert "12 texts" in sensitivity.basis({"ffn_in.0": found})


METHODS: dict[str, dict[str, Any]] = {
    "whitened svd": {"method": "svd", "options": {"preset": "asvd"}},
    "codebook": {"method": "autoencoder", "options": {"preset": "codebook"}, "unit": "bytes"},
    "pruning": {"method": "pruning", "unit": "bytes"},
    "quantization": {"method": "quantization", "unit": "bytes"},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_curve_whose_sizes_can_be_stored(tmp_path: Path, text: Path, name: str) -> None:
    loaded = load(saved(tmp_path, "gpt2"))
    plan, unit = plan_of(loaded.info.model, text, "ffn_in.0", "ffn_out.1", **METHODS[name]), "bytes"
    found = dict(measure(loaded, plan))
    curves = [found[group.name].curve(group, loaded.info, unit) for group in plan.groups]
    for probe in found["ffn_in.0"].probes:  # the curve passes through the measured points
        index = curves[0].largest_within(probe.num_bytes)
        assert curves[0].sizes[index] == probe.num_bytes
        assert curves[0].errors[index] == pytest.approx(probe.relative_error**2 * curves[0].energy)
    losses = loss_curves(found, curves, unit)
    total = sum(curve.original for curve in curves) // 5
    result = waterfill(losses, total, weights_for(losses, "frobenius"))
    planned = predict(allocated_plan(plan, result, loaded.info, unit), loaded.info)
    assert [group.num_bytes for group in planned.groups] == list(result.sizes) and result.total <= total


def made(*probes: tuple[int, float, float]) -> Sensitivity:
    return Sensitivity(
        family="causal-fidelity",
        num_texts=3,
        squared_norm=2.0,
        probes=tuple(
            Probe(num_parameters=size, num_bytes=4 * size, relative_error=error, loss=loss) for size, error, loss in probes
        ),
    )


def test_between_probes_the_logarithms_are_interpolated() -> None:
    found = made((900, 0.1, 0.01), (100, 0.5, 1.0))
    assert found.at(np.array([100.0, 300.0, 900.0, 5000.0, 10.0]), "parameters") == pytest.approx([4.0, 2.0, 1.0, 1.0, 4.0])
    assert found.at(np.array([1200.0]), "bytes") == pytest.approx([2.0])


def test_it_is_measured_once_and_again_if_anything_it_depends_on_changes(tmp_path: Path, text: Path) -> None:
    home, model = tmp_path / "home", saved(tmp_path, "gpt2")
    info: ModelInfo = load(model).info
    plan = plan_of(model, text, "ffn_in.0", "value.1")
    found = compute(plan, home)
    assert find(plan, info, home) == found and missing(plan, info, home) == []
    files = {path: path.stat().st_mtime_ns for path in (home / "sensitivities").rglob("*.json")}
    assert compute(plan, home) == found and len(files) == 2
    assert files == {path: path.stat().st_mtime_ns for path in (home / "sensitivities").rglob("*.json")}
    resized = plan.replace(groups=tuple(group.replace(ratio=7.0, name=f"{group.name}x") for group in plan.groups))
    assert missing(resized, info, home) == []

    def with_group(**changes: Any) -> Plan:
        return plan.replace(groups=tuple(group.replace(**changes) for group in plan.groups))

    everything = [group.name for group in plan.groups]
    for other in (
        with_group(method="kronecker"),
        with_group(options={"preset": "asvd"}),
        with_group(dtype="float16"),
        with_group(unit="bytes"),
        with_group(multiple=4),
        plan.replace(seed=1),
        plan.replace(calibration=CalibrationText(text=str(text), num_texts=5)),
    ):
        assert missing(other, info, home) == everything
    assert missing(plan, ModelInfo.from_dict(info.to_dict() | {"reads": "other"}), home) == everything
    text.write_text("w2 w3 w4", encoding="utf-8")
    assert missing(plan, info, home) == everything
    next(iter(files)).write_text(json.dumps({"family": 3}), encoding="utf-8")
    text.write_text("\n".join(TEXTS), encoding="utf-8")
    assert len(missing(plan, info, home)) == 1  # the damaged file


def test_what_cannot_be_measured_is_one_sentence(tmp_path: Path, text: Path) -> None:
    loaded = load(saved(tmp_path, "gpt2"))
    tiny = plan_of(loaded.info.model, text, "query.0", multiple=16)
    with pytest.raises(
        InputError, match=r"group 'query.0' cannot be compressed at any of the ratios 2\.5, 6, 15; leave it out"
    ):
        dict(measure(loaded, tiny))
    wordless = loaded_from(tiny_models.shared("gpt2"), None)
    with pytest.raises(TaskError, match="tokenizer"):
        dict(measure(wordless, plan_of(wordless.info.model, text, "query.0")))
    with pytest.raises(InputError, match="does not exist"):
        dict(measure(loaded, plan_of(loaded.info.model, tmp_path / "missing.txt", "query.0")))
