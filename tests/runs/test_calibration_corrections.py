"""Corrected biases and normalisations: in the corrected model, every module has the mean outputs of the original."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from offcomp.models.catalogue import ModuleSpec
from offcomp.models.live import loaded_from
from offcomp.models.loading import LoadedModel
from offcomp.models.weights import MATRIX_MODULES, read, substituted
from offcomp.runs.calibration import Calibration, correctable, corrections
from offcomp.runs.calibration.batches import TokenBatch
from offcomp.runs.calibration.correctable import is_norm
from offcomp.runs.calibration.corrections import Corrector, corrected_vectors, joined
from tests import tiny_models
from tests.calibration_texts import TEXTS, Earlier
from tests.tiny_models import Tiny

WITH_UNSHARED_LAYERS = ("bert", "deberta_v2", "distilbert", "gpt2", "llama", "opt", "qwen2", "t5")


@pytest.fixture
def undamped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make corrections trust even a short text fully, and hardly limit their ratios."""
    monkeypatch.setattr(correctable, "PRIOR_TOKENS", 0)
    monkeypatch.setattr(correctable, "WIDEST_RATIO", 100.0)


def text(model: PreTrainedModel, number: int = 12) -> TokenBatch:
    """A batch of texts of two lengths, in which all tokens except padding are counted."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(number, 12, dtype=torch.long)
    mask[::2, 9:] = 0
    ids = torch.randint(2, tiny_models.VOCABULARY, mask.shape, generator=generator)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.roll(1, 1)
    return TokenBatch(inputs, mask.bool())


def noisy(model: PreTrainedModel, names: tuple[str, ...] = (), scale: float = 0.1) -> dict[ModuleSpec, Tensor]:
    """Matrices that differ from those of the model, as after compression."""
    generator = torch.Generator().manual_seed(2)
    specs = [spec for spec in loaded_from(model).info.modules if (spec.name in names if names else spec.default)]
    return {spec: read(model, spec) + scale * torch.randn(spec.shape, generator=generator) for spec in specs}


def corrected(
    model: PreTrainedModel, matrices: dict[ModuleSpec, Tensor], what: str, batch: TokenBatch | None = None
) -> dict[str, Tensor]:
    corrector = Corrector(model, matrices, [batch or text(model)], what, "equal")
    corrector.read_original()
    with substituted(model, matrices):
        return corrector.correct()


def moments(model: PreTrainedModel, batch: TokenBatch) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and mean square (channels,) over the counted tokens of the output of every module, by its path."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(path: str) -> Callable[..., None]:
        def see(_module: nn.Module, _arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.numel() // output.shape[-1] == batch.counted.numel():
                tokens = output.reshape(*batch.counted.shape, -1)[batch.counted].double()
                found[path] = tokens.mean(0), tokens.square().mean(0)

        return see

    with ExitStack() as stack, torch.no_grad():
        for path, module in model.named_modules():
            stack.callback(module.register_forward_hook(hook(path)).remove)
        model(**batch.inputs)
    return found


@pytest.mark.usefixtures("undamped")
@pytest.mark.parametrize("name", WITH_UNSHARED_LAYERS)
def test_every_corrected_module_has_the_moments_of_the_original(name: str) -> None:
    model = tiny_models.shared(name)
    matrices, batch = noisy(model), text(model)
    before = {path: parameter.clone() for path, parameter in model.named_parameters()}
    vectors = corrected(model, matrices, "norms", batch)
    assert all(torch.equal(before[path], parameter) for path, parameter in model.named_parameters())
    original = moments(model, batch)
    with substituted(model, matrices):
        compressed = moments(model, batch)
    with substituted(model, matrices, vectors):
        repaired = moments(model, batch)
    modules = {path.rpartition(".")[0] for path in vectors}
    assert len(modules) >= 5
    for path in modules:
        module = model.get_submodule(path)
        for index in ([0] if getattr(module, "bias", None) is not None else []) + [1] * is_norm(module):
            torch.testing.assert_close(repaired[path][index], original[path][index], rtol=1e-4, atol=1e-5)
            assert not torch.allclose(compressed[path][index], original[path][index], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("undamped")
@pytest.mark.parametrize("name", ["albert", "bert_base"])
def test_outputs_come_closer_to_those_of_the_original_also_if_layers_share_their_weights(name: str) -> None:
    model = tiny_models.shared(name)
    matrices, batch = noisy(model), text(model)

    def error(vectors: dict[str, Tensor]) -> float:
        original = tiny_models.outputs(model, batch.inputs)[0][batch.counted]
        with substituted(model, matrices, vectors):
            found = tiny_models.outputs(model, batch.inputs)[0][batch.counted]
        return float((found - original).norm() / original.norm())

    plain, *others = (error(corrected(model, matrices, what, batch) if what else {}) for what in ("", "biases", "norms"))
    assert max(others) < 0.95 * plain


@pytest.mark.parametrize("name", ["albert", "bert", "gpt2", "llama", "t5"])
def test_a_model_that_is_not_changed_needs_no_correction(name: str) -> None:
    model = tiny_models.shared(name)
    assert corrected(model, {spec: read(model, spec) for spec in noisy(model)}, "norms") == {}


def test_what_is_corrected_depends_on_the_plan() -> None:
    model = tiny_models.shared("gpt2")
    matrices = noisy(model, ("query.0", "ffn_in.1"))
    norms = {f"transformer.{name}" for name in ("h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f")}  # after the first changed weight
    linear = {"transformer.h.0.attn.c_attn.bias", "transformer.h.1.mlp.c_fc.bias"}
    biases = linear | {f"{norm}.bias" for norm in norms}
    assert corrected(model, matrices, "shift").keys() == {"transformer.ln_f.bias"}
    assert corrected(model, matrices, "biases").keys() == biases
    assert corrected(model, matrices, "norms").keys() == biases | {f"{norm}.weight" for norm in norms}
    assert corrected(tiny_models.shared("llama"), noisy(tiny_models.shared("llama")), "biases") == {}


def test_only_the_compressed_part_of_a_fused_bias_is_corrected() -> None:
    model = tiny_models.shared("gpt2")
    path = "transformer.h.1.attn.c_attn.bias"
    vectors = corrected(model, noisy(model, ("word_embeddings", "key.1")), "biases")
    changed = vectors[path] != model.get_parameter(path)
    width = tiny_models.HIDDEN
    assert not changed[:width].any() and changed[width : 2 * width].all() and not changed[2 * width :].any()


def test_dead_channels_are_left_alone() -> None:
    model = tiny_models.bert_base()
    norm = model.get_submodule("encoder.layer.1.output.LayerNorm")
    norm.weight[3], norm.bias[3] = 1e-9, 0.5
    vectors = corrected(model, noisy(model), "norms")
    for name in ("weight", "bias"):
        same = vectors[f"encoder.layer.1.output.LayerNorm.{name}"] == norm.get_parameter(name)
        assert same.nonzero().flatten().tolist() == [3]


def test_a_short_text_corrects_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = tiny_models.shared("bert_base"), "embeddings.LayerNorm.bias"
    matrices, changes = noisy(model, ("word_embeddings",)), {}
    for number in (1, 60):
        batch = text(model, number)
        for prior in (32, 0):
            monkeypatch.setattr(correctable, "PRIOR_TOKENS", prior)
            vector = corrected(model, matrices, "biases", batch)[path]
            changes[number, prior] = vector - model.get_parameter(path)
        tokens = int(batch.counted.sum())
        torch.testing.assert_close(changes[number, 32], changes[number, 0] * tokens / (tokens + 32), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bert_base", "albert"])
def test_a_module_that_is_used_otherwise_than_in_the_original_is_left_alone(name: str) -> None:
    model = tiny_models.shared(name)
    matrices = noisy(model)
    corrector = Corrector(model, matrices, [text(model)], "biases", "equal")
    corrector.read_original()
    more_often, for_other_tokens, *others = corrector.targets
    more_often.num_uses += 1
    more_often.weights.append(more_often.weights[0])
    for_other_tokens.weights[0] = for_other_tokens.weights[0][1:]
    with substituted(model, matrices):
        found = corrector.correct()
    assert {path.rpartition(".")[0] for path in found} == {target.path for target in others}


def test_tokens_count_as_the_calibration_weights_them(tiny: Tiny) -> None:
    loaded = tiny("bert_base")
    matrices = noisy(loaded.model)
    found = [
        corrected_vectors(Calibration(loaded, TEXTS, weighting=weighting), matrices, [Earlier(matrices)], "biases")
        for weighting in ("equal", "output")
    ]
    assert found[0].keys() == found[1].keys()
    assert all(not torch.equal(found[0][path], found[1][path]) for path in found[0])


def test_a_model_that_is_offloaded_is_corrected_alike(tiny: Tiny) -> None:
    loaded = tiny("gpt2")
    matrices = noisy(loaded.model)
    calibration = Calibration(loaded, TEXTS)
    before = bits(loaded)
    expected = corrected_vectors(calibration, matrices, [Earlier(matrices)], "norms")
    with calibration.offloaded():
        found = corrected_vectors(calibration, matrices, [Earlier(matrices)], "norms")
        assert all(parameter.numel() == 0 for parameter in loaded.model.parameters())
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[path], found[path]) for path in expected)
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())


def bits(loaded: LoadedModel) -> dict[str, Tensor]:
    return {path: parameter.clone() for path, parameter in loaded.model.named_parameters()}


def test_a_long_text_is_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrections, "MAX_TOKENS", 60)
    batches = [
        TokenBatch({"attention_mask": torch.ones(4, width)}, torch.zeros(4, width, dtype=torch.bool)) for width in (3, 6, 10)
    ]
    batch = joined(batches)
    assert batch.counted.sum(1).tolist() == [3, 3, 6, 6, 10, 10]
    assert torch.equal(batch.counted, batch.inputs["attention_mask"] > 0)


class _FromOne(nn.Module):
    """A normalisation whose gain is 1 + weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.rms_norm(inputs, (4,)) * (1 + self.weight)


def test_normalisations_are_recognised_by_what_they_compute() -> None:
    for name in tiny_models.TINY:
        for path, module in tiny_models.shared(name).named_modules():
            assert is_norm(module) == ("norm" in type(module).__name__.lower()), path
            assert not (is_norm(module) and isinstance(module, MATRIX_MODULES))
    assert not is_norm(_FromOne())
    assert not is_norm(nn.PReLU(4))
