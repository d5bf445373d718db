"""The statistics of experts are those of the tokens that reach them, and calibrated methods use them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import blocks, read
from offcomp.runs.calibration.batches import token_batches
from offcomp.runs.calibration.experts import MIN_TOKENS
from offcomp.runs.calibration.gradients import sum_gradients
from offcomp.runs.calibration.likelihood import Likelihood
from offcomp.runs.calibration.moments import sum_magnitudes, sum_moments
from tests import tiny_models
from tests.family_models import family_model

TEXTS = [" ".join(f"w{(7 * text + word * word) % 55 + 2}" for word in range(3 + text % 9)) for text in range(60)]
MIXTURES = ("mixtral", "qwen2_moe", "deepseek_v3", "granitemoe", "gpt_oss", "llama4", "dbrx")


@pytest.fixture(scope="module")
def loaded_mixture(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return cache(lambda name: load(str(tiny_models.save(family_model(name), tmp_path_factory.mktemp(name)))))


def experts(loaded: LoadedModel) -> list[ModuleSpec]:
    return [spec for spec in loaded.info.modules if spec.kind.startswith("expert_")]


def test_the_inputs_of_an_expert_are_those_of_the_tokens_routed_to_it(loaded_mixture: Any) -> None:
    """Checked against the router's answer, text by text without padding."""
    loaded = loaded_mixture("mixtral")
    specs = [spec for spec in experts(loaded) if spec.layer == 1]
    seen: dict[int, list[Tensor]] = {}

    def note(module: Any, arguments: tuple[Tensor, ...]) -> None:
        states, chosen, _ = arguments
        for expert in range(5):
            seen.setdefault(expert, []).append(states[(chosen == expert).any(1)].double())

    handle = loaded.model.model.layers[1].mlp.experts.register_forward_pre_hook(note)
    for text in TEXTS:
        loaded.model(**loaded.tokenizer(text, return_tensors="pt"))
    handle.remove()
    batches = token_batches(loaded, TEXTS, 16, special_tokens=True)
    assert not batches[0].real.all(), "nothing is padded: the test would pass on anything"
    usual = loaded.model.get_experts_implementation()
    sums = sum_moments(loaded.model, specs, batches, "equal")
    assert loaded.model.get_experts_implementation() == usual
    magnitudes = sum_magnitudes(loaded.model, specs, batches)
    for spec in specs:
        inputs = torch.cat(seen[spec.expert])
        if spec.kind == "expert_out":
            names = [f"{kind}.1.e{spec.expert}" for kind in ("expert_gate", "expert_in")]
            gate, up = (read(loaded.model, loaded.info.module(name)).double() for name in names)
            inputs = torch.nn.functional.silu(inputs @ gate.T) * (inputs @ up.T)
        found = sums.means(spec)
        assert found.num_tokens == len(inputs) >= MIN_TOKENS
        torch.testing.assert_close(found.second, inputs.T @ inputs / len(inputs), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(magnitudes.means(spec), inputs.abs().mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_gradients_of_experts_are_those_of_autograd(name: str, loaded_mixture: Any) -> None:
    """In every way in which families store and compute experts: the squared gradient of each text's likelihood, averaged."""
    loaded = loaded_mixture(name)
    specs, texts = experts(loaded), TEXTS[:24]
    model = loaded.model
    batches = token_batches(loaded, texts, 16, special_tokens=True)
    found = sum_gradients(model, specs, batches, ["fisher"], Likelihood(model, loaded.tokenizer, 0))
    expected = {spec: torch.zeros(spec.shape) for spec in specs}
    parameters = {spec.path: model.get_parameter(spec.path) for spec in specs}
    for batch in batches:
        for part in batch.parts(1):
            for parameter in parameters.values():
                parameter.grad = None
                parameter.requires_grad_(True)
            with torch.enable_grad():
                Likelihood(model, loaded.tokenizer, 0)(part).sum().backward()
            for spec in specs:
                if (gradient := parameters[spec.path].grad) is not None:
                    expected[spec] += blocks(gradient, spec).flatten(0, 1).square() / len(texts)
    for parameter in parameters.values():
        parameter.requires_grad_(False)
        parameter.grad = None
    enough = [spec for spec in specs if found[spec].num_tokens >= MIN_TOKENS]
    assert len(enough) > len(specs) // 2
    for spec in enough:
        torch.testing.assert_close(found[spec].means()["fisher"], expected[spec], rtol=1e-3, atol=1e-7)
