"""Gradient statistics equal those of plain autograd on one text at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel, last_hidden_state
from offcomp.runs.calibration.batches import TokenBatch, token_batches
from offcomp.runs.calibration.gradients import sum_gradients
from offcomp.runs.calibration.likelihood import Likelihood
from tests.calibration_texts import TEXTS, calibrate, spec_of
from tests.tiny_models import Tiny


def fixed_likelihood(loaded: LoadedModel) -> Any:
    """A log-likelihood without random draws, so that it can be computed text by text: a fixed projection of the last states."""
    model = loaded.model

    def of_batch(batch: TokenBatch) -> Tensor:
        hidden = last_hidden_state(model, **batch.inputs)
        direction = torch.linspace(-1, 1, hidden.shape[-1]).sin()
        return ((hidden.tanh() @ direction) * batch.real).sum(1)

    return of_batch


def single_batches(batches: list[TokenBatch]) -> list[TokenBatch]:
    """Split the batches into batches of one text each, without padding."""
    singles = []
    for batch in batches:
        for text in range(len(batch.counted)):
            length = int(batch.real[text].sum())
            inputs = {key: value[text : text + 1, :length] for key, value in batch.inputs.items()}
            singles.append(TokenBatch(inputs, batch.counted[text : text + 1, :length]))
    return singles


def gradients_one_by_one(loaded: LoadedModel, spec: ModuleSpec, batches: list[TokenBatch], likelihood: Any) -> list[Tensor]:
    """Reference implementation: the gradient with respect to the weight, from autograd on one text at a time."""
    weight = loaded.model.get_parameter(spec.path)
    gradients = []
    weight.requires_grad_(True)
    try:
        for batch in single_batches(batches):
            (gradient,) = torch.autograd.grad(likelihood(batch).sum(), weight)
            canonical = gradient.T if spec.transposed else gradient
            gradients.append(canonical[spec.start : spec.start + spec.rows].clone())
    finally:
        weight.requires_grad_(False)
    return gradients


@pytest.mark.parametrize(
    "name, module",
    [
        ("bert_base", "query.0"),
        ("bert_base", "ffn_out.1"),
        ("bert_base", "word_embeddings"),
        ("gpt2", "key.1"),
        ("gpt2", "ffn_in.0"),
        ("llama", "ffn_gate.0"),
        ("albert", "ffn_out.0"),
        ("t5", "word_embeddings"),
        ("distilbert", "attention_output.1"),
    ],
)
def test_the_fisher_information_is_the_mean_of_squared_gradients_of_single_texts(tiny: Tiny, name: str, module: str) -> None:
    loaded = tiny(name)
    spec = spec_of(loaded, module)
    batches = token_batches(loaded, TEXTS, 16, special_tokens=True)
    likelihood = fixed_likelihood(loaded)
    gradients = torch.stack(gradients_one_by_one(loaded, spec, batches, likelihood))
    assert gradients.abs().max() > 0
    names = ["fisher", "sensitivity"]
    found = sum_gradients(loaded.model, [spec], batches, names, likelihood)[spec].means()
    scale = gradients.abs().max().item()
    torch.testing.assert_close(found["fisher"], gradients.square().mean(0), rtol=1e-3, atol=1e-5 * scale**2)
    torch.testing.assert_close(found["sensitivity"], gradients.abs().mean(0), rtol=1e-3, atol=1e-5 * scale)
    mean = gradients.sum(0).square() / len(TEXTS)
    assert (found["fisher"] - mean).norm() > 0.1 * mean.norm(), "the square of the summed gradient would pass as well"


def test_a_module_that_no_gradient_reaches_is_refused(tiny: Tiny) -> None:
    loaded = tiny("bert_base")
    pooler = next(spec for spec in loaded.info.modules if "pooler" in spec.path)
    with calibrate(loaded, TEXTS, [pooler], "rows") as hints, pytest.raises(InputError, match="no gradient reaches"):
        _ = hints.statistics(0).fisher


def test_the_row_moment_is_that_of_gradients_at_the_output(tiny: Tiny) -> None:
    loaded = tiny("bert_base")
    spec = spec_of(loaded, "ffn_in.1")
    batches = token_batches(loaded, TEXTS, 16, special_tokens=True)
    likelihood = fixed_likelihood(loaded)
    found = sum_gradients(loaded.model, [spec], batches, ["row_moment"], likelihood)[spec].means()["row_moment"]
    seen: list[Tensor] = []

    def keep(_module: Any, _arguments: Any, output: Tensor) -> None:
        output.requires_grad_().register_hook(lambda gradient: seen.append(gradient[0].double()))

    handle = loaded.model.get_submodule(spec.path.removesuffix(".weight")).register_forward_hook(keep)
    for batch in single_batches(batches):
        likelihood(batch).sum().backward()
    handle.remove()
    expected = sum(g.T @ g for g in seen) / sum(len(g) for g in seen)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "opt", "t5", "bert_classifier", "distilbert", "bert_base"])
def test_every_sort_of_head_gives_a_seeded_likelihood_to_each_text(tiny: Tiny, name: str) -> None:
    loaded = tiny(name)
    batch = token_batches(loaded, TEXTS, 16, special_tokens=True)[0]
    with torch.no_grad():
        first, again, other = (Likelihood(loaded.model, loaded.tokenizer, seed)(batch) for seed in (0, 0, 1))
    assert first.shape == (len(TEXTS),)
    assert torch.equal(first, again)
    assert first.isfinite().all()
    if name == "bert_base":
        assert not torch.equal(first, other)
    elif name not in {"distilbert", "bert_classifier"}:
        assert (first < 0).all()
    spec = spec_of(loaded, next(m.name for m in loaded.info.modules if m.kind == "ffn_in"))
    with calibrate(loaded, TEXTS, [spec], "rows") as hints:
        fisher = hints.statistics(0).fisher
        assert fisher.shape == spec.shape
        assert fisher.max() > 0
        assert hints.statistics(0).row_moment.shape == (spec.rows, spec.rows)


def test_masked_tokens_are_hidden_from_the_model(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny("bert")
    batch = token_batches(loaded, TEXTS, 16, special_tokens=True)[0]
    likelihood = Likelihood(loaded.model, loaded.tokenizer, 0)
    likelihood.mask_token = 60
    seen: list[Tensor] = []
    handle = loaded.model.get_input_embeddings().register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    likelihood(batch)
    handle.remove()
    masked = seen[0] == 60
    assert masked.any(1).all()
    assert not (masked & ~batch.counted).any()
    assert torch.equal(seen[0][~masked], batch.inputs["input_ids"][~masked])


def test_gradients_that_belong_to_no_text_are_refused(tiny: Tiny) -> None:
    loaded = tiny("bert_base")
    positions = next(spec for spec in loaded.info.modules if "position" in spec.path)
    with calibrate(loaded, TEXTS, [positions], "rows") as hints, pytest.raises(InputError, match="separated into individual"):
        _ = hints.statistics(0).fisher
