"""Statistics gathered from text equal those of plain loops over tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from offcomp.errors import InputError
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import read
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.data.row_counts import Truncation
from offcomp.runs.calibration import Calibration, GroupHints
from offcomp.runs.calibration.batches import token_batches
from offcomp.runs.calibration.moments import sum_magnitudes, sum_moments, token_weights
from tests import tiny_models
from tests.calibration_texts import PLENTY, TEXTS, calibrate, spec_of
from tests.tiny_models import Tiny


def inputs_one_by_one(loaded: LoadedModel, path: str, texts: list[str]) -> Tensor:
    """The inputs (tokens, width) of the module at `path`, computed text by text without padding."""
    seen: list[Tensor] = []
    module = loaded.model.get_submodule(path)
    handle = module.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0][0]))
    for text in texts:
        loaded.model(**loaded.tokenizer(text, return_tensors="pt"))
    handle.remove()
    return torch.cat(seen).double()


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "distilbert"])
@pytest.mark.parametrize("module", ["query.0", "key.1", "attention_output.1", "ffn_out.0"])
def test_moments_are_means_over_real_tokens_whatever_the_padding(tiny: Tiny, name: str, module: str) -> None:
    loaded = tiny(name)
    spec = spec_of(loaded, module)
    inputs = inputs_one_by_one(loaded, spec.path.removesuffix(".weight"), TEXTS)
    batches = token_batches(loaded, TEXTS, 16, special_tokens=True)
    assert not batches[0].real.all(), "nothing is padded: the test would pass on anything"
    found = sum_moments(loaded.model, [spec], batches, "equal").means(spec)
    assert found.num_tokens == len(inputs) == sum(len(text.split()) for text in TEXTS)
    torch.testing.assert_close(found.second, inputs.T @ inputs / len(inputs), rtol=1e-5, atol=1e-6)
    magnitude = sum_magnitudes(loaded.model, [spec], batches).means(spec)
    torch.testing.assert_close(magnitude, inputs.abs().mean(0), rtol=1e-5, atol=1e-6)
    assert found.second.dtype == torch.float64


@pytest.mark.parametrize("name, module", [("bert", "ffn_in.0"), ("gpt2", "key.1"), ("gpt2", "value.0")])
def test_tokens_can_weigh_by_the_norm_of_what_the_module_makes_of_them(tiny: Tiny, name: str, module: str) -> None:
    loaded = tiny(name)
    spec = spec_of(loaded, module)
    path = spec.path.removesuffix(".weight")
    inputs = inputs_one_by_one(loaded, path, TEXTS)
    bias = loaded.model.get_submodule(path).bias[spec.start : spec.start + spec.rows]
    outputs = inputs @ read(loaded.model, spec).double().T + bias.double()
    scaled = inputs / outputs.norm(dim=1, keepdim=True)
    expected = scaled.T @ scaled / outputs.norm(dim=1).square().reciprocal().sum()
    found = sum_moments(loaded.model, [spec], token_batches(loaded, TEXTS, 16, True), "output").means(spec)
    torch.testing.assert_close(found.second, expected, rtol=1e-5, atol=1e-6)


def test_a_token_with_next_to_no_output_does_not_outweigh_all_others() -> None:
    output = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    usual = token_weights(output)
    output[3] *= 1e-9
    output[7] = 0
    weights = token_weights(output)
    assert weights[7] == 0
    assert weights[3] <= 200 * usual.median()
    kept = torch.ones(40, dtype=torch.bool)
    kept[[3, 7]] = False
    torch.testing.assert_close(weights[kept], usual[kept])


def test_special_tokens_are_left_out_unless_asked_for(tiny: Tiny) -> None:
    loaded = tiny("bert")

    class Marking:
        """A tokenizer that marks the first token of each text as special."""

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


def test_long_texts_are_cut_at_the_most_tokens_and_at_what_the_model_takes(tiny: Tiny) -> None:
    loaded = tiny("bert")
    assert token_batches(loaded, ["w2 " * 50], 5, True)[0].real.sum() == 5
    assert token_batches(loaded, ["w2 " * 50], 500, True)[0].real.sum() == tiny_models.POSITIONS - 2


def test_of_an_embedding_the_rows_have_the_share_of_each_token(tiny: Tiny) -> None:
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


def test_a_module_that_shares_its_input_is_not_computed_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny("bert")
    calibration = Calibration(loaded, TEXTS, weighting="equal")
    query, key, out = (spec_of(loaded, name) for name in ("query.1", "key.1", "attention_output.1"))
    first = calibration.moments([query], PLENTY)
    assert calibration.moments([key], PLENTY) is first
    assert calibration.moments([out], PLENTY) is not first
    by_output = Calibration(loaded, TEXTS, weighting="output")
    assert by_output.moments([query], PLENTY) is not by_output.moments([key], PLENTY)


@pytest.mark.parametrize("name", ["albert", "t5", "deberta_v2", "opt", "electra", "bert_classifier"])
def test_every_compressible_module_of_a_family_has_moments(tiny: Tiny, name: str) -> None:
    loaded = tiny(name)
    for spec in loaded.info.modules:
        if spec.default:
            with calibrate(loaded, TEXTS, [spec], "rows") as hints:
                statistics = hints.statistics(0)
                moment = statistics.row_moment if spec.kind == "word_embeddings" else statistics.column_moment
                assert moment.diagonal().sum() > 0 if moment.ndim == 2 else moment.sum() > 0
                assert moment.shape[0] == (spec.rows if spec.kind == "word_embeddings" else spec.cols)


def test_without_tokens_or_a_tokenizer_there_is_one_sentence(tiny: Tiny) -> None:
    loaded = tiny("bert")
    with pytest.raises(InputError, match="no tokens"):
        Calibration(loaded, ["", " "])
    with pytest.raises(InputError, match="no tokenizer"):
        Calibration(LoadedModel(loaded.model, None, loaded.info), TEXTS)


def test_statistics_are_those_of_the_seed_and_leave_the_global_generator_alone(tiny: Tiny) -> None:
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


def test_a_fifth_of_the_texts_is_held_out(tiny: Tiny) -> None:
    calibration = Calibration(tiny("bert"), [f"w{number}" for number in range(2, 22)])
    fitted, held_out = (
        {int(token) for batch in batches for token in batch.inputs["input_ids"].flatten()}
        for batches in (calibration.batches, calibration.held_out)
    )
    assert (len(fitted), len(held_out)) == (16, 4)
    assert not fitted & held_out


def test_texts_that_are_cut_are_counted(tiny: Tiny) -> None:
    loaded = tiny("bert")
    texts = [*(" ".join(["w3"] * length) for length in (1, 4, 5, 6, 7, 30)), *["w2"] * 30]
    calibration = Calibration(loaded, texts, max_tokens=5)
    assert calibration.cut == Truncation(texts=3, of=36, tokens=5)  # includes held-out texts, but not those of five tokens
    with GroupHints(calibration, [spec_of(loaded, "query.0")], "rows") as hints:
        assert hints.summary().cut == calibration.cut
    assert Calibration(loaded, texts, max_tokens=500).cut == Truncation(texts=1, of=36, tokens=tiny_models.POSITIONS - 2)
    assert Calibration(loaded, TEXTS).cut is None


def test_texts_that_are_cut_before_they_are_tokens_are_counted(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("\n".join(["w2 " * 9000, "w3", "w4 " * 9000]))
    found = CalibrationText(text=str(tmp_path / "long.txt")).read(0)
    assert max(map(len, found.texts)) == 20_000
    assert found.rows.notes == ("2 texts truncated to 20,000 characters",)


def test_texts_are_read_as_the_folder_declares(tmp_path: Path) -> None:
    folder = tiny_models.save(tiny_models.shared("bert_base"), tmp_path / "model")
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    prompts = {"prompts": {"query": "w9 W8 "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (batch,) = token_batches(load(str(folder)), ["W5 w6"], 16, True)
    assert batch.inputs["input_ids"].tolist() == [[9, 8, 5, 6]]
    modules.append({"type": "sentence_transformers.models.CNN", "path": "2"})  # unsupported, so nothing declared applies
    (folder / "modules.json").write_text(json.dumps(modules))
    (batch,) = token_batches(load(str(folder)), ["w5 w6"], 16, True)
    assert batch.inputs["input_ids"].tolist() == [[5, 6]]
