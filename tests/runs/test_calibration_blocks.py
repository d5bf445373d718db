"""Passes that start at the block of a member give the same statistics as full passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn import Module

from offcomp.models.catalogue import ModuleSpec
from offcomp.models.live import loaded_from
from offcomp.models.loading import LoadedModel
from offcomp.models.weights import read
from offcomp.runs.calibration import Calibration, GroupHints
from offcomp.runs.calibration.blocks import block_of
from offcomp.runs.calibration.forward import parts_of, run
from tests.calibration_texts import PLENTY, TEXTS, spec_of
from tests.tiny_models import Tiny

NO_BYTES = 0  # nothing is captured, so every pass is full
LAYERED = ("bert", "gpt2", "llama", "distilbert", "deberta_v2", "opt", "t5")
OF_TWO_BLOCKS = ("query.0", "ffn_out.0", "query.1", "ffn_in.1", "ffn_out.1")


@pytest.fixture(autouse=True)
def several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offcomp.runs.calibration.forward.TOKENS_AT_ONCE", 16)


@pytest.fixture
def full_passes(monkeypatch: pytest.MonkeyPatch) -> list[Module]:
    """The module run by each later full pass, one entry per part of the text."""
    passes: list[Module] = []
    monkeypatch.setattr("offcomp.runs.calibration.blocks.run", lambda entry, part: (passes.append(entry), run(entry, part)))
    return passes


def compressible(loaded: LoadedModel) -> list[ModuleSpec]:
    return [spec for spec in loaded.info.modules if spec.default and spec.kind != "word_embeddings"]


def one_after_another(
    loaded: LoadedModel, specs: Sequence[ModuleSpec], cache_bytes: int, *, keep_original: bool = False
) -> list[Tensor]:
    """Gather the statistics of each member and then halve its weights, in order; restore the model at the end.

    Returns the statistics, followed by the column moment of the last member in the restored model.
    """
    found: list[Tensor | None] = []
    with GroupHints(Calibration(loaded, TEXTS, cache_bytes=cache_bytes), specs, "columns") as hints:
        hints.use_compressed_predecessors(keep_original=keep_original)
        for index, spec in enumerate(specs):
            statistics = hints.statistics(index)
            found += [statistics.column_moment, statistics.cross_moment, statistics.column_magnitude]
            half = 0.5 * read(loaded.model, spec)
            hints.substitute(index, half.T if hints.transposed[index] else half)
        hints.restore()
        found.append(hints.statistics(len(specs) - 1).column_moment)
    assert keep_original == all(each is not None for each in found)
    return [each for each in found if each is not None]


def assert_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert len(found) == len(expected) > 0
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def num_parts(loaded: LoadedModel) -> int:
    return len(list(parts_of(Calibration(loaded, TEXTS).batches)))


@pytest.mark.parametrize("keep_original", [False, True])
@pytest.mark.parametrize("name", [*LAYERED, "albert"])
def test_statistics_are_bit_for_bit_those_of_full_passes(
    tiny: Tiny, full_passes: list[Module], name: str, keep_original: bool
) -> None:
    loaded = tiny(name)
    assert num_parts(loaded) > 1
    expected = one_after_another(loaded, compressible(loaded), NO_BYTES, keep_original=keep_original)
    number = len(full_passes)
    full_passes.clear()
    found = one_after_another(loaded, compressible(loaded), PLENTY, keep_original=keep_original)
    assert_equal(found, expected)
    assert len(full_passes) == number if name == "albert" else len(full_passes) < number


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("changed", ["value.1", "ffn_out.1", "ffn_out.0", "word_embeddings"])
def test_a_weight_that_changes_in_the_block_or_before_it_is_seen(tiny: Tiny, name: str, changed: str) -> None:
    loaded = tiny(name)
    specs = [spec_of(loaded, each) for each in ("attention_output.1", "ffn_out.1", changed)]

    def found(cache_bytes: int) -> list[Tensor]:
        with GroupHints(Calibration(loaded, TEXTS, cache_bytes=cache_bytes), specs, "columns") as hints:
            hints.use_compressed_predecessors(keep_original=True)
            moments = [hints.statistics(index).cross_moment for index in (0, 1)]
            hints.calibration.substitute(specs[2], 0.5 * read(loaded.model, specs[2]))
            moments += [hints.statistics(index).cross_moment for index in (0, 1)]
            return [each for each in moments if each is not None]

    moments = found(PLENTY)
    assert_equal(moments, found(NO_BYTES))
    assert torch.equal(moments[0], moments[2]) == torch.equal(moments[1], moments[3]) == (changed == "ffn_out.1")


def test_each_block_takes_one_full_pass(tiny: Tiny, full_passes: list[Module]) -> None:
    loaded = tiny("bert")
    specs = [spec_of(loaded, name) for name in OF_TWO_BLOCKS]
    with GroupHints(Calibration(loaded, TEXTS, cache_bytes=PLENTY), specs, "columns") as hints:
        hints.use_compressed_predecessors(keep_original=True)
        for index, spec in enumerate(specs):
            assert hints.statistics(index).cross_moment is not None
            hints.calibration.substitute(spec, 0.5 * read(loaded.model, spec))
    of_the_model = sum(entry is loaded.model.base_model for entry in full_passes)
    assert of_the_model == len(full_passes) - of_the_model == 2 * num_parts(loaded)


def test_a_weight_outside_the_block_ends_the_use_of_its_inputs(tiny: Tiny, full_passes: list[Module]) -> None:
    loaded = tiny("bert")
    inside, other, outside = (spec_of(loaded, name) for name in ("query.1", "ffn_out.1", "ffn_out.0"))
    calibration = Calibration(loaded, TEXTS, cache_bytes=PLENTY)

    def passes_after(change: Callable[[], None]) -> int:
        change()
        full_passes.clear()
        calibration.moments([other], 0)
        return len(full_passes) // num_parts(loaded)

    def half(spec: ModuleSpec) -> Tensor:
        return 0.5 * read(loaded.model, spec)

    assert passes_after(lambda: None) == 1
    assert passes_after(lambda: None) == 0
    assert passes_after(lambda: calibration.substitute(inside, half(inside))) == 0
    assert passes_after(lambda: calibration.substitute(outside, half(outside))) == 1
    assert passes_after(lambda: calibration.change(lambda: [{inside: half(inside)}])) == 1
    assert passes_after(calibration.restore) == 1
    assert passes_after(calibration.forget) == 1


def layers_of_one(loaded: LoadedModel) -> LoadedModel:
    """A BERT whose two layers are the same module."""
    model = copy.deepcopy(loaded.model)
    model.base_model.encoder.layer[1] = model.base_model.encoder.layer[0]
    return loaded_from(model, loaded.tokenizer)


def test_blocks_that_are_used_more_than_once_take_full_passes(tiny: Tiny, full_passes: list[Module]) -> None:
    for loaded in (tiny("albert"), layers_of_one(tiny("bert"))):
        spec = next(each for each in loaded.info.modules if each.kind == "ffn_in")
        assert_equal(one_after_another(loaded, [spec] * 2, PLENTY), one_after_another(loaded, [spec] * 2, NO_BYTES))
        calibration = Calibration(loaded, TEXTS, cache_bytes=PLENTY)
        full_passes.clear()
        for _ in range(2):
            calibration.moments([spec], 0)
        assert len(full_passes) == 2 * num_parts(loaded)


def test_a_weight_that_two_blocks_share_takes_full_passes_and_changes_both(tiny: Tiny) -> None:
    live = copy.deepcopy(tiny("bert").model)
    layers = live.base_model.encoder.layer
    layers[1].attention.self.query = layers[0].attention.self.query
    loaded = loaded_from(live, tiny("bert").tokenizer)
    shared, other = spec_of(loaded, "query.0"), spec_of(loaded, "ffn_in.0")
    assert shared.tied
    assert_equal(one_after_another(loaded, [shared] * 2, PLENTY), one_after_another(loaded, [shared] * 2, NO_BYTES))
    calibration = Calibration(loaded, TEXTS, cache_bytes=PLENTY)
    calibration.moments([other], 0)
    inputs = calibration._models.substituted
    assert inputs.path == "bert.encoder.layer.0"
    calibration.substitute(shared, torch.zeros(shared.shape))
    assert inputs.path is None


def test_inputs_are_captured_only_if_they_fit_in_the_cache(tiny: Tiny, full_passes: list[Module]) -> None:
    loaded = tiny("bert")
    spec = spec_of(loaded, "ffn_in.1")
    hidden = sum(batch.counted.numel() for batch in Calibration(loaded, TEXTS).batches) * loaded.model.config.hidden_size * 4
    for cache_bytes, expected in ((hidden - 1, 2), (2 * hidden, 1)):  # the attention mask is smaller than the hidden states
        calibration = Calibration(loaded, TEXTS, cache_bytes=cache_bytes)
        full_passes.clear()
        for _ in range(2):
            calibration.moments([spec], 0)
        assert len(full_passes) == expected * num_parts(loaded)
        captured = calibration._models.substituted._calls
        assert bool(captured) == (expected == 1)


def test_decoders_run_without_a_cache_and_a_block_that_gets_one_takes_full_passes(
    tiny: Tiny, full_passes: list[Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny("llama")
    spec = spec_of(loaded, "attention_output.1")
    caches: list[object] = []
    block = loaded.model.get_submodule(block_of(loaded.model, [spec]) or "")
    watching = block.register_forward_pre_hook(lambda _, __, named: caches.append(named["past_key_values"]), with_kwargs=True)
    loaded.model.config.use_cache = True
    expected = one_after_another(loaded, [spec], NO_BYTES)
    assert caches and all(cache is None for cache in caches)
    assert loaded.model.config.use_cache is True
    monkeypatch.setattr("offcomp.runs.calibration.watching.without_cache", nullcontext)
    caches.clear()
    calibration = Calibration(loaded, TEXTS, cache_bytes=PLENTY)
    full_passes.clear()
    found = [calibration.moments([spec], 0).second for _ in range(2)]
    watching.remove()
    assert caches and all(cache is not None for cache in caches)
    assert len(full_passes) == 2 * num_parts(loaded)
    assert_equal(found, [expected[0]] * 2)


def test_a_block_may_modify_its_inputs_in_place(tiny: Tiny) -> None:
    loaded = tiny("bert")
    specs = [spec_of(loaded, name) for name in ("query.1", "ffn_in.1", "ffn_out.1")]
    block = loaded.model.get_submodule(block_of(loaded.model, specs) or "")

    def modify(_: Module, arguments: tuple[Tensor, ...]) -> None:
        arguments[0].mul_(1.5)

    hook = block.attention.register_forward_pre_hook(modify)
    try:
        found = one_after_another(loaded, specs, PLENTY)
        assert_equal(found, one_after_another(loaded, specs, NO_BYTES))
    finally:
        hook.remove()
    assert not torch.equal(found[0], one_after_another(loaded, specs, NO_BYTES)[0])


def test_an_offloaded_model_captures_nothing(tiny: Tiny, full_passes: list[Module]) -> None:
    loaded = tiny("gpt2")
    spec = spec_of(loaded, "ffn_in.1")
    calibration = Calibration(loaded, TEXTS, cache_bytes=PLENTY)
    with calibration.offloaded():
        for _ in range(2):
            calibration.moments([spec], 0)
    assert len(full_passes) == 2 * num_parts(loaded)


@pytest.mark.parametrize(
    ("name", "modules", "block"),
    [
        ("bert", ("query.1", "ffn_out.1"), "bert.encoder.layer.1"),
        ("bert", ("query.0", "query.1"), None),
        ("bert", ("word_embeddings",), None),
        ("gpt2", ("key.0",), "transformer.h.0"),
        ("t5", ("encoder.query.0",), "encoder.block.0.layer.0"),
        ("t5", ("encoder.query.0", "encoder.ffn_in.0"), "encoder.block.0"),
    ],
)
def test_the_block_is_the_innermost_item_of_a_list_that_contains_all_modules(
    tiny: Tiny, name: str, modules: tuple[str, ...], block: str | None
) -> None:
    loaded = tiny(name)
    specs = [spec_of(loaded, module) for module in modules]
    assert block_of(loaded.model, specs) == block
