"""The statistics of experts are those of the tokens that reach them, and calibrated methods use them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

import offcomp
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import blocks, read
from offcomp.planning.plan import make_groups
from offcomp.runs.calibration.batches import token_batches
from offcomp.runs.calibration.experts import MIN_TOKENS, scarce_notes
from offcomp.runs.calibration.gradients import sum_gradients
from offcomp.runs.calibration.likelihood import Likelihood
from offcomp.runs.calibration.moments import sum_magnitudes, sum_moments
from offcomp.runs.compress import compress_group
from tests import tiny_models
from tests.calibration_texts import calibrate
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


def output_error(loaded: LoadedModel, name: str, **options: Any) -> float:
    """The output error, on the text itself, of an expert compressed alone by SVD."""
    spec = loaded.info.module(name)
    (group,) = make_groups([spec], "module", method="svd", options=options, ratio=2.0, unit="parameters")
    hints = calibrate(loaded, TEXTS, [spec], group.stack, special_tokens=True)
    done = compress_group(loaded.model, loaded.info, group, hints=hints)
    return hints.output_error(done.reconstructions, held_out=False) or 0.0


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "switch"])
def test_a_calibrated_svd_of_an_expert_has_a_smaller_output_error(name: str, loaded_mixture: Any, tmp_path: Path) -> None:
    """In a model without a tensor of experts, too, where each expert has modules of its own."""
    loaded = load(str(tiny_models.save(switch(), tmp_path))) if name == "switch" else loaded_mixture(name)
    for expert in (
        ("encoder.expert_in.1.e1", "decoder.expert_out.1.e0") if name == "switch" else ("expert_in.1.e0", "expert_out.0.e1")
    ):
        assert 0 < output_error(loaded, expert, preset="whitened") < 0.98 * output_error(loaded, expert)


CALIBRATED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("svd", {"preset": "two_sided", "follow": True}),
    ("svd", {"preset": "fwsvd_rows"}),
    ("svd", {"preset": "asvd"}),
    ("codebook", {"feedback": True}),
    ("quantization", {"feedback": True}),
    ("trellis", {"feedback": True}),
)


@pytest.mark.parametrize(("method", "options"), CALIBRATED)
def test_every_calibrated_method_compresses_experts(method: str, options: dict[str, Any], loaded_mixture: Any) -> None:
    """Beside other weights, with norms corrected afterwards; the experts of a layer are compressed together."""
    loaded = loaded_mixture("gpt_oss")
    choices: dict[str, Any] = {"together": "kind", "ratio": 3.0, "unit": "bytes", "correct": "norms", "progress": False}
    chosen = dict(method=method, options=options, calibration=TEXTS, **choices)
    done = offcomp.compress(loaded, ["expert_*", "query"], layers="1", **chosen)
    assert all(0 < group.figures.relative_error < 1 for group in done)
    assert any(path.endswith("norm.weight") for path in done.corrections)
    assert not any("experts" in path for path in done.corrections)


def test_an_expert_that_few_tokens_reach_is_compressed_as_if_there_were_no_text(loaded_mixture: Any) -> None:
    loaded = loaded_mixture("mixtral")
    choices: dict[str, Any] = {"together": "module", "ratio": 2.0, "progress": False}
    plain = offcomp.compress(loaded, "expert_out.1", **choices)
    few = offcomp.compress(loaded, "expert_out.1", options={"preset": "whitened"}, calibration=TEXTS[:3], **choices)
    for one, other in zip(plain, few, strict=True):
        assert other.figures.calibration
        assert other.figures.calibration.scarce_experts == other.figures.modules
        for spec, matrix in one.reconstructions.items():
            torch.testing.assert_close(other.reconstructions[spec], matrix, rtol=1e-4, atol=1e-5)
    (note,) = scarce_notes([group.figures for group in few])
    assert note.startswith("5 matrices of experts were compressed as if there were no text (expert_out.1.e0, expert_out.1.e1,")
    assert f"fewer than {MIN_TOKENS} tokens" in note
    enough = offcomp.compress(loaded, "expert_out.1", options={"preset": "whitened"}, calibration=TEXTS, **choices)
    assert not any(group.figures.calibration.scarce_experts for group in enough if group.figures.calibration)


def switch() -> PreTrainedModel:
    """A model whose experts are modules of their own."""
    config = transformers.SwitchTransformersConfig(
        vocab_size=61,
        d_model=24,
        d_kv=5,
        d_ff=40,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        num_experts=3,
        expert_capacity=64,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        decoder_start_token_id=0,
    )
    torch.manual_seed(0)
    return transformers.SwitchTransformersForConditionalGeneration(config).eval()
