"""Statistics from text, against plain loops over tokens and over texts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from offcomp.calibration import Calibration, calibrate
from offcomp.calibration import moments as moments_module
from offcomp.calibration.batches import TokenBatch, token_batches
from offcomp.calibration.gradients import gather_gradients
from offcomp.calibration.likelihood import Likelihood
from offcomp.calibration.moments import InputMoments, gather_moments, output_errors
from offcomp.calibration.passes import ROOM
from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import LoadedModel, last_hidden_state, load
from offcomp.models.parking import StoredMatrices
from offcomp.models.weights import read, substituted
from tests import tiny_models

TEXTS = ["w2 w3 w4 w5 w6 w7 w8 w9", "w9 w8", "w10 w11 w12 w13 w14", "w5 w5 w5", "w20 w21 w22 w23", "w30 w31"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedModel]:
    """A tiny model as it is loaded from a folder."""
    return functools.cache(lambda name: load(str(tiny_models.save(tiny_models.shared(name), tmp_path_factory.mktemp(name)))))


def spec_of(loaded: LoadedModel, name: str) -> ModuleSpec:
    return loaded.info.module(name)


def bits_of(loaded: LoadedModel) -> dict[str, Tensor]:
    return {path: parameter.clone() for path, parameter in loaded.model.named_parameters()}


def inputs_one_by_one(loaded: LoadedModel, path: str, texts: list[str]) -> Tensor:
    """What the module at `path` is multiplied with, text by text without padding: (tokens, width)."""
    seen: list[Tensor] = []
    module = loaded.model.get_submodule(path)
    handle = module.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0][0]))
    for text in texts:
        loaded.model(**loaded.tokenizer(text, return_tensors="pt"))
    handle.remove()
    return torch.cat(seen).double()


# ------------------------------------------------------------------------------------------------------------- moments


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "distilbert"])
@pytest.mark.parametrize("module", ["query.0", "key.1", "attention_output.1", "ffn_out.0"])
def test_moments_are_means_over_real_tokens_whatever_the_padding(
    tiny: Callable[[str], LoadedModel], name: str, module: str
) -> None:
    loaded = tiny(name)
    spec = spec_of(loaded, module)
    inputs = inputs_one_by_one(loaded, spec.path.removesuffix(".weight"), TEXTS)
    batches = token_batches(loaded, TEXTS, 16, special_tokens=True)
    assert not batches[0].real.all(), "nothing is padded: the test would pass on anything"
    found = gather_moments(loaded.model, [spec], batches, "equal")[spec]
    assert found.num_tokens == len(inputs) == sum(len(text.split()) for text in TEXTS)
    torch.testing.assert_close(found.second, inputs.T @ inputs / len(inputs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.magnitude, inputs.abs().mean(0), rtol=1e-5, atol=1e-6)
    assert found.second.dtype == torch.float64


@pytest.mark.parametrize("name, module", [("bert", "ffn_in.0"), ("gpt2", "key.1"), ("gpt2", "value.0")])
def test_tokens_can_weigh_by_the_norm_of_what_the_module_makes_of_them(
    tiny: Callable[[str], LoadedModel], name: str, module: str
) -> None:
    loaded = tiny(name)
    spec = spec_of(loaded, module)
    path = spec.path.removesuffix(".weight")
    inputs = inputs_one_by_one(loaded, path, TEXTS)
    bias = loaded.model.get_submodule(path).bias[spec.start : spec.start + spec.rows]
    outputs = inputs @ read(loaded.model, spec).double().T + bias.double()
    scaled = inputs / outputs.norm(dim=1, keepdim=True)
    expected = scaled.T @ scaled / outputs.norm(dim=1).square().reciprocal().sum()
    found = gather_moments(loaded.model, [spec], token_batches(loaded, TEXTS, 16, True), "output")[spec]
    torch.testing.assert_close(found.second, expected, rtol=1e-5, atol=1e-6)


def test_special_tokens_are_left_out_unless_asked_for(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("bert")

    class Marking:
        """A tokenizer that calls the first token of each text special."""

        pad_token = "[PAD]"  # noqa: S105

        def __call__(self, texts: list[str], **arguments: Any) -> Any:
            encoded = loaded.tokenizer(texts, **arguments)
            encoded["special_tokens_mask"] = torch.zeros_like(encoded["input_ids"])
            encoded["special_tokens_mask"][:, 0] = 1
            return encoded

    marked = LoadedModel(loaded.model, Marking(), loaded.info)  # type: ignore[arg-type]
    real, ordinary = (sum(int(b.counted.sum()) for b in token_batches(marked, TEXTS, 16, keep)) for keep in (True, False))
    assert real - ordinary == len(TEXTS)
    assert "special_tokens_mask" not in token_batches(marked, TEXTS, 16, True)[0].inputs


def test_long_texts_are_cut_at_the_most_tokens_and_at_what_the_model_takes(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("bert")
    assert token_batches(loaded, ["w2 " * 50], 5, True)[0].real.sum() == 5
    assert token_batches(loaded, ["w2 " * 50], 500, True)[0].real.sum() == tiny_models.POSITIONS - 2


def test_of_an_embedding_the_rows_have_the_share_of_each_token(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("bert")
    words = [int(word[1:]) for text in TEXTS for word in text.split()]
    with calibrate(loaded, [*TEXTS], [spec_of(loaded, "word_embeddings")], "rows", seed=1) as hints:
        statistics = hints.statistics(0)
        share = statistics.row_moment
        assert share.shape == (tiny_models.VOCABULARY,)
        assert share.sum() == pytest.approx(1)
        assert set(share.nonzero()[:, 0].tolist()) <= set(words)
        assert statistics.column_moment is None
        assert statistics.column_magnitude is None


def test_a_module_that_shares_its_input_is_not_computed_again(
    tiny: Callable[[str], LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny("bert")
    calibration = Calibration(loaded, TEXTS, weighting="equal")
    query, key, out = (spec_of(loaded, name) for name in ("query.1", "key.1", "attention_output.1"))
    first = calibration.moments([query], ROOM)
    assert calibration.moments([key], ROOM) is first
    assert calibration.moments([out], ROOM) is not first
    by_output = Calibration(loaded, TEXTS, weighting="output")
    assert by_output.moments([query], ROOM) is not by_output.moments([key], ROOM)


@pytest.mark.parametrize(("room", "passes"), [(ROOM, 1), (2 * 8 * 24**2, 2), (0, 4)])
def test_statistics_that_outweigh_the_room_take_more_passes_and_are_the_same(
    tiny: Callable[[str], LoadedModel], monkeypatch: pytest.MonkeyPatch, room: int, passes: int
) -> None:
    loaded = tiny("bert")
    specs = [spec_of(loaded, name) for name in ("query.0", "key.0", "query.1", "key.1")]
    gathered: list[int] = []

    def counted(model: Any, wanted: Any, *rest: Any) -> Any:
        gathered.append(len(wanted))
        return gather_moments(model, wanted, *rest)

    monkeypatch.setattr("offcomp.calibration.passes.gather_moments", counted)
    calibration = Calibration(loaded, TEXTS)
    with calibration.hints(specs, "rows") as hints:
        hints.room = room
        found = [hints.statistics(index).column_moment for index in range(4)]
    alone = [gather_moments(loaded.model, [spec], calibration.batches, "output")[spec].second for spec in specs]
    assert len(gathered) == passes and sum(gathered) == 4
    assert sum(8 * width**2 for width in [24] * len(calibration._kept)) <= max(room, 0)
    assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


@pytest.mark.parametrize(("limit", "heights"), [(1000, [6]), (16, [2, 2, 2]), (1, [1] * 6)])
def test_a_batch_comes_apart_into_whole_texts(tiny: Callable[[str], LoadedModel], limit: int, heights: list[int]) -> None:
    (batch,) = token_batches(tiny("bert"), TEXTS, 6, False)
    parts = list(batch.parts(limit))
    assert [len(part.counted) for part in parts] == heights
    assert torch.equal(torch.cat([part.counted for part in parts]), batch.counted)
    for name, tensor in batch.inputs.items():
        assert torch.equal(torch.cat([part.inputs[name] for part in parts]), tensor)


@pytest.mark.parametrize(
    ("texts", "tokens", "heights"), [(6, 16, [2, 2, 2]), (5, 1, [2, 3]), (3, 8, [3]), (1, 1, [1]), (2, 1, [2]), (6, 32, [3, 3])]
)
def test_parts_have_at_least_so_many_texts(
    tiny: Callable[[str], LoadedModel], texts: int, tokens: int, heights: list[int]
) -> None:
    (batch,) = token_batches(tiny("bert"), [TEXTS[0]] * texts, 8, False)
    assert [len(part.counted) for part in batch.parts(tokens, at_least=2)] == heights


@pytest.mark.parametrize("weighting", ["equal", "output"])
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("bert", "ffn_in.0"),
        ("bert", "word_embeddings"),
        ("bert", "bert.embeddings.position_embeddings"),
        ("bert", "pooler"),
        ("deberta_v2", "key.0"),
        ("t5", "encoder.query.0"),
    ],
)
def test_a_batch_says_the_same_in_parts(
    tiny: Callable[[str], LoadedModel],
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    module: str,
    weighting: str,
) -> None:
    """Vectors of positions belong to no text: they go through a DeBERTa's key projection once a pass."""
    shared_keys = name == "deberta_v2"
    loaded = load(str(tiny_models.save(tiny_models.deberta_v2(share_att_key=True), tmp_path))) if shared_keys else tiny(name)
    spec = spec_of(loaded, module)
    batches = token_batches(loaded, TEXTS, 16, special_tokens=False)
    error = {spec: read(loaded.model, spec) * 0.9}

    def found() -> tuple[InputMoments, tuple[float, float]]:
        moments = gather_moments(loaded.model, [spec], batches, weighting)[spec]
        return moments, output_errors(loaded.model, error, batches, weighting)[spec]

    (whole, whole_error), parts = found(), []
    monkeypatch.setattr("offcomp.calibration.moments.TOKENS_AT_ONCE", 16)
    run = moments_module.run
    monkeypatch.setattr("offcomp.calibration.moments.run", lambda *pass_: (parts.append(pass_), run(*pass_)))
    split, split_error = found()
    assert len(parts) == 6
    assert split.num_tokens == whole.num_tokens
    torch.testing.assert_close(split.second, whole.second, rtol=1e-5, atol=1e-7)
    assert split_error == pytest.approx(whole_error, rel=1e-5)


@pytest.mark.parametrize("name", ["fisher", "row_moment"])
def test_gradients_are_the_same_in_one_pass_and_in_several(tiny: Callable[[str], LoadedModel], name: str) -> None:
    loaded = tiny("bert")
    specs = [spec_of(loaded, module) for module in ("query.0", "key.0", "query.1")]

    def found(room: int) -> list[Tensor]:
        with calibrate(loaded, TEXTS, specs, "rows") as hints:
            hints.room = room
            return [getattr(hints.statistics(index), name) for index in range(3)]

    assert all(torch.equal(one, other) for one, other in zip(found(ROOM), found(0), strict=True))


@pytest.mark.parametrize("room", [0, ROOM])
@pytest.mark.parametrize("name", ["column_moment", "row_moment"])
def test_a_moment_may_be_overwritten_and_comes_whole_the_next_time(
    tiny: Callable[[str], LoadedModel], name: str, room: int
) -> None:
    loaded = tiny("bert")
    with calibrate(loaded, TEXTS, [spec_of(loaded, module) for module in ("query.0", "word_embeddings")], "rows") as hints:
        hints.room = room
        for index in (0, 1) if name == "row_moment" else (0,):
            first = getattr(hints.statistics(index), name)
            expected = first.clone()
            first.zero_()
            torch.testing.assert_close(getattr(hints.statistics(index), name), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["albert", "t5", "deberta_v2", "opt", "electra", "bert_classifier"])
def test_every_compressible_module_of_a_family_has_moments(tiny: Callable[[str], LoadedModel], name: str) -> None:
    loaded = tiny(name)
    for spec in loaded.info.modules:
        if spec.default:
            with calibrate(loaded, TEXTS, [spec], "rows") as hints:
                statistics = hints.statistics(0)
                moment = statistics.row_moment if spec.kind == "word_embeddings" else statistics.column_moment
                assert moment.diagonal().sum() > 0 if moment.ndim == 2 else moment.sum() > 0
                assert moment.shape[0] == (spec.rows if spec.kind == "word_embeddings" else spec.cols)


def test_without_tokens_or_a_tokenizer_there_is_one_sentence(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("bert")
    with pytest.raises(InputError, match="no tokens"):
        Calibration(loaded, ["", " "])
    with pytest.raises(InputError, match="no tokenizer"):
        Calibration(LoadedModel(loaded.model, None, loaded.info), TEXTS)


# ----------------------------------------------------------------------------------------------------------- gradients


def fixed_likelihood(loaded: LoadedModel) -> Any:
    """A log-likelihood without draws, so that it can be asked for text by text: a fixed projection of the last states."""
    model = loaded.model

    def of_batch(batch: TokenBatch) -> Tensor:
        hidden = last_hidden_state(model, **batch.inputs)
        direction = torch.linspace(-1, 1, hidden.shape[-1]).sin()
        return ((hidden.tanh() @ direction) * batch.real).sum(1)

    return of_batch


def single_batches(batches: list[TokenBatch]) -> list[TokenBatch]:
    """One text a batch, without its padding."""
    singles = []
    for batch in batches:
        for text in range(len(batch.counted)):
            length = int(batch.real[text].sum())
            inputs = {key: value[text : text + 1, :length] for key, value in batch.inputs.items()}
            singles.append(TokenBatch(inputs, batch.counted[text : text + 1, :length]))
    return singles


def gradients_one_by_one(loaded: LoadedModel, spec: ModuleSpec, batches: list[TokenBatch], likelihood: Any) -> list[Tensor]:
    """The plain reference: autograd by the weight itself, a text at a time."""
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
def test_the_fisher_information_is_the_mean_of_squared_gradients_of_single_texts(
    tiny: Callable[[str], LoadedModel], name: str, module: str
) -> None:
    loaded = tiny(name)
    spec = spec_of(loaded, module)
    batches = token_batches(loaded, TEXTS, 16, special_tokens=True)
    likelihood = fixed_likelihood(loaded)
    gradients = torch.stack(gradients_one_by_one(loaded, spec, batches, likelihood))
    assert gradients.abs().max() > 0
    found = gather_gradients(loaded.model, [spec], batches, ["fisher", "sensitivity"], likelihood)[spec]
    scale = gradients.abs().max().item()
    torch.testing.assert_close(found["fisher"], gradients.square().mean(0), rtol=1e-3, atol=1e-5 * scale**2)
    torch.testing.assert_close(found["sensitivity"], gradients.abs().mean(0), rtol=1e-3, atol=1e-5 * scale)
    mean = gradients.sum(0).square() / len(TEXTS)
    assert (found["fisher"] - mean).norm() > 0.1 * mean.norm(), "the square of the summed gradient would pass as well"


def test_the_row_moment_is_that_of_gradients_at_the_output(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("bert_base")
    spec = spec_of(loaded, "ffn_in.1")
    batches = token_batches(loaded, TEXTS, 16, special_tokens=True)
    likelihood = fixed_likelihood(loaded)
    found = gather_gradients(loaded.model, [spec], batches, ["row_moment"], likelihood)[spec]["row_moment"]
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
def test_every_sort_of_head_gives_a_seeded_likelihood_to_each_text(tiny: Callable[[str], LoadedModel], name: str) -> None:
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


def test_masked_tokens_are_hidden_from_the_model(tiny: Callable[[str], LoadedModel], monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_gradients_that_belong_to_no_text_are_refused(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("bert_base")
    positions = next(spec for spec in loaded.info.modules if "position" in spec.path)
    with calibrate(loaded, TEXTS, [positions], "rows") as hints, pytest.raises(InputError, match="told apart by text"):
        _ = hints.statistics(0).fisher


# ------------------------------------------------------------------------------------------------------------ settling


def test_later_statistics_see_a_settled_member_and_the_model_is_restored_bit_by_bit(
    tiny: Callable[[str], LoadedModel],
) -> None:
    loaded = tiny("bert")
    before = bits_of(loaded)
    specs = [spec_of(loaded, name) for name in ("ffn_out.0", "query.1", "ffn_in.0")]
    calibration = Calibration(loaded, TEXTS)
    with calibration.hints(specs, "residual") as hints:
        assert hints.turned == (True, False, False)
        assert hints.heights == (40, 24, 40)
        assert hints.order == (2, 0, 1) or [specs[i].name for i in hints.order] == ["ffn_in.0", "ffn_out.0", "query.1"]
        query, ffn_in = hints.statistics(1).column_moment, hints.statistics(2).column_moment
        settled = read(loaded.model, specs[0]).T * 0.3
        hints.settle(0, settled)
        assert torch.equal(read(loaded.model, specs[0]), settled.T)
        changed = hints.statistics(1).column_moment
        assert (changed - query).norm() > 1e-3 * query.norm()
        torch.testing.assert_close(hints.statistics(2).column_moment, ffn_in)
        hints.settle(0, settled * 0.5)
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())
    with calibration.hints(specs, "residual") as hints:
        torch.testing.assert_close(hints.statistics(1).column_moment, query, rtol=0, atol=0)


def test_a_group_that_follows_sees_the_groups_before_it_and_others_do_not(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("bert")
    weights = bits_of(loaded)
    earlier, spec = spec_of(loaded, "ffn_out.0"), spec_of(loaded, "query.1")
    before = {earlier: read(loaded.model, earlier) * 0.3}
    with Calibration(loaded, TEXTS).hints([spec], "rows", lambda: [before]) as hints:
        alone = hints.statistics(0).column_moment
        hints.follow()
        following = hints.statistics(0).column_moment
    with calibrate(loaded, TEXTS, [spec], "rows") as hints:
        torch.testing.assert_close(hints.statistics(0).column_moment, alone, rtol=0, atol=0)
    with substituted(loaded.model, before), calibrate(loaded, TEXTS, [spec], "rows") as hints:
        torch.testing.assert_close(hints.statistics(0).column_moment, following, rtol=0, atol=0)
    assert (following - alone).norm() > 1e-3 * alone.norm()
    assert all(torch.equal(weights[path], parameter) for path, parameter in loaded.model.named_parameters())


def test_settled_weights_can_be_restored_from_the_files(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("gpt2")
    before = bits_of(loaded)
    spec, earlier = spec_of(loaded, "key.0"), spec_of(loaded, "ffn_in.1")
    stored = StoredMatrices(loaded, [spec, earlier])
    calibration = Calibration(loaded, TEXTS, stored=stored)
    with calibration.hints([spec], "rows", lambda: [{earlier: 2 * stored.read(earlier)}]) as hints:
        hints.follow()
        hints.settle(0, 3 * stored.read(spec))
        assert torch.equal(read(loaded.model, spec), 3 * stored.read(spec))
        assert torch.equal(read(loaded.model, earlier), 2 * stored.read(earlier))
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())


def test_a_parked_model_is_in_memory_while_text_runs_through_it_or_a_weight_is_settled(
    tiny: Callable[[str], LoadedModel],
) -> None:
    loaded = tiny("bert")
    before, spec = bits_of(loaded), spec_of(loaded, "ffn_in.0")
    with calibrate(loaded, TEXTS, [spec], "rows") as hints:
        statistics = hints.statistics(0)
        expected = [statistics.column_moment, statistics.row_moment, statistics.fisher]
        error = hints.output_error({spec: 0.5 * read(loaded.model, spec)}, held_out=True)

    def is_parked() -> bool:
        return all(parameter.numel() == 0 for parameter in loaded.model.parameters())

    stored = StoredMatrices(loaded, [spec])
    calibration = Calibration(loaded, TEXTS, stored=stored)
    with calibration.parked():
        assert is_parked()
        with calibration.hints([spec], "rows") as hints:
            statistics = hints.statistics(0)
            found = [statistics.column_moment, statistics.row_moment, statistics.fisher]
            assert is_parked()
            assert hints.output_error({spec: 0.5 * stored.read(spec)}, held_out=True) == error
            assert is_parked()
            hints.settle(0, 0.5 * stored.read(spec))
            assert not is_parked()
            assert hints.statistics(0).num_tokens == statistics.num_tokens
            assert not is_parked()
        assert is_parked()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())


def test_a_parked_model_is_whole_after_an_exception(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("bert")
    before, spec = bits_of(loaded), spec_of(loaded, "ffn_in.0")
    calibration = Calibration(loaded, TEXTS)
    with pytest.raises(KeyError), calibration.parked(), calibration.hints([spec], "rows") as hints:
        hints.settle(0, torch.zeros(spec.shape))
        raise KeyError
    with calibration.hints([spec], "rows") as hints:
        assert hints.statistics(0).column_moment is not None
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())


def test_an_exception_restores_the_model_too(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("gpt2")
    before = bits_of(loaded)
    spec = spec_of(loaded, "key.0")
    with pytest.raises(KeyError), calibrate(loaded, TEXTS, [spec], "columns") as hints:
        hints.settle(0, read(loaded.model, spec).T * 2)
        raise KeyError
    assert all(torch.equal(before[path], parameter) for path, parameter in loaded.model.named_parameters())


def test_statistics_are_those_of_the_seed_and_leave_the_global_generator_alone(tiny: Callable[[str], LoadedModel]) -> None:
    loaded = tiny("bert")
    spec = spec_of(loaded, "query.0")
    state = torch.random.get_rng_state()
    found = []
    for seed in (0, 0, 1):
        with calibrate(loaded, TEXTS, [spec], "rows", seed=seed) as hints:
            found.append((hints.statistics(0).column_moment, hints.statistics(0).fisher))
    assert torch.equal(state, torch.random.get_rng_state())
    for one, again, other in zip(*found, strict=True):
        assert torch.equal(one, again)
        assert not torch.equal(one, other)


def test_a_fifth_of_the_texts_is_held_out(tiny: Callable[[str], LoadedModel]) -> None:
    calibration = Calibration(tiny("bert"), [f"w{number}" for number in range(2, 22)])
    fitted, held_out = (
        {int(token) for batch in batches for token in batch.inputs["input_ids"].flatten()}
        for batches in (calibration.batches, calibration.held_out)
    )
    assert (len(fitted), len(held_out)) == (16, 4)
    assert not fitted & held_out
