"""Cross moments of the inputs of the original and the compressed model equal those of two explicit models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.live import loaded_from
from offcomp.models.loading import LoadedModel
from offcomp.models.weights import read, replace
from offcomp.runs.calibration import Calibration, GroupHints
from offcomp.runs.calibration.blocks import ModelPair
from offcomp.runs.calibration.cross import CrossSums, Use, sum_cross_moments
from tests.calibration_texts import PLENTY, TEXTS, calibrate, spec_of
from tests.tiny_models import Tiny


def one_by_one(model: PreTrainedModel, calibration: Calibration, spec: ModuleSpec) -> tuple[Tensor, Tensor]:
    """The inputs (tokens, cols) and outputs (tokens, rows) of a module, computed text by text without padding."""
    inputs, outputs = [], []

    def see(_: object, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(arguments[0][0])
        outputs.append(output[0, :, spec.start : spec.start + spec.rows])

    hook = model.get_submodule(spec.path.removesuffix(".weight")).register_forward_hook(see)
    for batch in calibration.batches:
        for text, mask in zip(batch.inputs["input_ids"], batch.real, strict=True):
            model(input_ids=text[mask][None])
    hook.remove()
    return torch.cat(inputs).double(), torch.cat(outputs).double()


def same_values(loaded: LoadedModel, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())


@pytest.mark.parametrize("weighting", ["output", "equal"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("module", ["key.1", "ffn_out.1"])
def test_statistics_are_those_of_two_explicit_models(tiny: Tiny, name: str, module: str, weighting: str) -> None:
    loaded = tiny(name)
    earlier, later, spec = (spec_of(loaded, each) for each in ("ffn_in.0", "value.0", module))
    changed = {earlier: 0.4 * read(loaded.model, earlier), later: 0.3 * read(loaded.model, later)}
    compressed = copy.deepcopy(loaded.model)
    replace(compressed, changed)
    calibration = Calibration(loaded, TEXTS, weighting=weighting, special_tokens=True)
    (x, outputs), (y, _) = (one_by_one(model, calibration, spec) for model in (loaded.model, compressed))
    weights = outputs.square().sum(1).reciprocal() if weighting == "output" else torch.ones(len(x), dtype=torch.float64)
    weights = (weights / weights.sum())[:, None]

    before = {path: parameter.clone() for path, parameter in loaded.model.named_parameters()}
    with GroupHints(calibration, [earlier, spec], "columns", lambda: [{later: changed[later]}]) as hints:
        hints.use_compressed_predecessors(keep_original=True)
        hints.calibration.substitute(earlier, changed[earlier])
        statistics = hints.statistics(1)
        assert statistics.num_tokens == len(x)
        found = [statistics.cross_moment, statistics.column_moment, *statistics.input_means]
    expected = [(weights * x).T @ y, (weights * y).T @ y, (weights * x).sum(0), (weights * y).sum(0)]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert (found[0] - found[0].T).norm() > 1e-3 * found[0].norm(), "a transposed cross moment would pass"
    assert (found[0] - found[1]).norm() > 1e-3 * found[1].norm()
    assert same_values(loaded, before)


@pytest.mark.parametrize("weighting", ["output", "equal"])
def test_without_substitutions_both_models_are_the_same(tiny: Tiny, weighting: str) -> None:
    loaded = tiny("gpt2")
    spec = spec_of(loaded, "ffn_in.1")
    with calibrate(loaded, TEXTS, [spec], "rows", weighting=weighting) as hints:
        usual = hints.statistics(0).column_moment
        hints.use_compressed_predecessors(keep_original=True)
        statistics = hints.statistics(0)
        assert torch.equal(statistics.column_moment, usual)
        torch.testing.assert_close(statistics.cross_moment, usual, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(*statistics.input_means, rtol=1e-12, atol=1e-14)


def test_the_statistics_of_a_member_take_one_pass(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny("bert")
    spec = spec_of(loaded, "query.1")
    passes: list[Sequence[ModuleSpec]] = []

    def counted(models: ModelPair, specs: Sequence[ModuleSpec], *rest: Any) -> CrossSums:
        passes.append(specs)
        return sum_cross_moments(models, specs, *rest)

    monkeypatch.setattr("offcomp.runs.calibration.passes.sum_cross_moments", counted)
    with calibrate(loaded, TEXTS, [spec], "rows", cache_bytes=PLENTY) as hints:
        hints.use_compressed_predecessors(keep_original=True)
        statistics = hints.statistics(0)
        for name in ("column_moment", "cross_moment", "input_means", "num_tokens"):
            assert getattr(statistics, name) is not None
    assert passes == [[spec]]


def test_there_are_none_without_the_original(tiny: Tiny) -> None:
    loaded = tiny("bert")
    specs = [spec_of(loaded, name) for name in ("word_embeddings", "query.1")]
    with calibrate(loaded, TEXTS, specs, "rows") as hints:

        def has_cross(index: int) -> bool:
            statistics = hints.statistics(index)
            assert (statistics.cross_moment is None) == (statistics.input_means is None)
            return statistics.cross_moment is not None

        assert not has_cross(1)
        hints.use_compressed_predecessors()
        assert not has_cross(1)
        hints.restore()
        hints.use_compressed_predecessors(keep_original=True)
        assert has_cross(1) and not has_cross(0)
        assert hints.statistics(0).row_moment is not None
        hints.restore()
        assert not has_cross(1)
    calibration = Calibration(loaded, TEXTS, cache_bytes=PLENTY)
    with calibration.offloaded(), GroupHints(calibration, specs, "rows") as hints:
        hints.use_compressed_predecessors(keep_original=True)
        assert not has_cross(1)
        assert hints.statistics(1).column_moment is not None


def test_the_original_must_be_kept_before_weights_are_replaced(tiny: Tiny) -> None:
    loaded = tiny("bert")
    spec = spec_of(loaded, "query.0")
    with calibrate(loaded, TEXTS, [spec], "rows") as hints:
        hints.substitute(0, torch.zeros(spec.shape))
        with pytest.raises(InputError, match="before the first replacement"):
            hints.use_compressed_predecessors(keep_original=True)
    with calibrate(loaded, TEXTS, [spec], "rows") as hints:
        hints.use_compressed_predecessors(keep_original=True)
        hints.substitute(0, torch.zeros(spec.shape))
        hints.use_compressed_predecessors(keep_original=True)  # allowed, because the original has already been kept


def test_the_kept_copy_has_no_gradients_and_the_original_weights(tiny: Tiny) -> None:
    live = copy.deepcopy(tiny("bert").model).train().requires_grad_(True)
    loaded = loaded_from(live, tiny("bert").tokenizer)
    before = {path: parameter.detach().clone() for path, parameter in live.named_parameters()}
    spec = spec_of(loaded, "query.0")
    with calibrate(loaded, TEXTS, [spec], "rows") as hints:
        hints.use_compressed_predecessors(keep_original=True)
        hints.substitute(0, torch.zeros(spec.shape))
        kept = hints.calibration._models.original
        assert kept is not None and not kept.model.training
        for path, parameter in kept.model.named_parameters():
            assert torch.equal(parameter, before[path]) and not parameter.requires_grad
    assert live.training and all(parameter.requires_grad for parameter in live.parameters())


def test_inputs_of_different_tokens_are_refused(tiny: Tiny) -> None:
    spec = spec_of(tiny("bert"), "query.0")
    some, fewer = (Use(spec, torch.ones(count, spec.cols), torch.ones(count, spec.rows)) for count in (3, 2))
    for substituted in ([fewer], [], [some, some]):
        with pytest.raises(InputError, match="is not used for the same tokens"):
            CrossSums("output").add_uses([some], substituted)
