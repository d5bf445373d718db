"""The pooling, dense layers, normalisation, token limit and prompt that a sentence-transformers folder declares are applied."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from offcomp.errors import ModelError, PlanError, TaskError
from offcomp.evaluation import open_task
from offcomp.evaluation.embeddings import embed
from offcomp.evaluation.pooling import POOLINGS as FORMULAS
from offcomp.evaluation.pooling import Pooler
from offcomp.models.listing import model_info
from offcomp.models.loading import LoadedModel, load
from offcomp.models.positions import longest_text, position_limit
from offcomp.models.sentence_modules import POOLINGS, TITLES, SentenceModules, sentence_modules
from offcomp.planning.data.task_fields import described_faults
from offcomp.planning.data.tasks import Task
from offcomp.planning.plan import Plan, validate
from tests import tiny_models
from tests.evaluation.test_probe import WORDS, word_tokenizer
from tests.language_models import ids_of, opened

HIDDEN = tiny_models.HIDDEN
TRANSFORMER = {"type": "sentence_transformers.models.Transformer", "path": ""}
POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
DENSE = {"type": "sentence_transformers.base.modules.dense.Dense", "path": "2_Dense"}
NORMALIZE = {"type": "sentence_transformers.models.Normalize", "path": "3_Normalize"}


def write(file: Path, document: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))


def declare(folder: Path, *modules: dict[str, str], pooling: dict[str, Any] | None = None) -> Path:
    write(folder / "modules.json", [{"idx": i, "name": str(i), **module} for i, module in enumerate(modules)])
    write(folder / "1_Pooling" / "config.json", pooling or {"pooling_mode_mean_tokens": True})
    return folder


def add_dense(folder: Path, rows: int, cols: int, **config: Any) -> dict[str, Tensor]:
    tensors = {"linear.weight": torch.linspace(-1, 1, rows * cols).view(rows, cols), "linear.bias": torch.linspace(0, 1, rows)}
    (folder / "2_Dense").mkdir(exist_ok=True)
    save_file(tensors, folder / "2_Dense" / "model.safetensors")
    usual = {"in_features": cols, "out_features": rows, "bias": True}
    write(folder / "2_Dense" / "config.json", usual | {"activation_function": "torch.nn.modules.activation.Tanh"} | config)
    return tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tiny_models.save(tiny_models.shared("bert_base"), tmp_path / "model", tokenizer=False)
    word_tokenizer(pad_token="<end>", model_max_length=12).save_pretrained(place)  # noqa: S106
    return place


def hidden_states(loaded: LoadedModel, text: str) -> Tensor:
    assert loaded.tokenizer is not None
    with torch.inference_mode():
        return loaded.model(**loaded.tokenizer(text, return_tensors="pt")).last_hidden_state[0]


def by_hand(way: str, hidden: Tensor) -> Tensor:
    """Reference implementation of each kind of pooling, for the hidden states (tokens, hidden) of one text."""
    count = len(hidden)
    weights = torch.arange(1.0, count + 1)[:, None]
    return {
        "cls": hidden[0],
        "max": hidden.max(0).values,
        "mean": hidden.mean(0),
        "mean_sqrt_len_tokens": hidden.sum(0) / count**0.5,
        "weightedmean": (weights * hidden).sum(0) / weights.sum(),
        "lasttoken": hidden[-1],
    }[way]


def test_every_way_of_pooling_has_a_formula_and_words():
    assert set(POOLINGS) == set(FORMULAS) == set(TITLES)


@pytest.mark.parametrize("way", POOLINGS)
@pytest.mark.parametrize("form", ["flags", "name"])
def test_pooling_is_the_one_that_the_folder_declares(folder: Path, way: str, form: str):
    config = {POOLINGS[way]: True} if form == "flags" else {"pooling_mode": way}
    declare(folder, TRANSFORMER, POOLING, pooling=config)
    loaded = load(str(folder))
    found = embed(loaded, ["w3 w9 w4 w22", "w5"])  # of unequal length, so that the shorter one is padded
    for row, text in zip(found, ["w3 w9 w4 w22", "w5"], strict=True):
        np.testing.assert_allclose(row, by_hand(way, hidden_states(loaded, text)), atol=1e-5)


def test_several_ways_of_pooling_stand_side_by_side(folder: Path):
    declare(folder, TRANSFORMER, POOLING, pooling={"pooling_mode": ["max", "cls"]})
    loaded = load(str(folder))
    hidden = hidden_states(loaded, "w3 w4 w9")
    np.testing.assert_allclose(
        embed(loaded, ["w3 w4 w9"])[0], torch.cat([by_hand("max", hidden), by_hand("cls", hidden)]), atol=1e-5
    )


def test_a_folder_without_modules_is_pooled_by_the_mean(folder: Path):
    loaded = load(str(folder))
    assert not loaded.sentence_modules.declared
    np.testing.assert_allclose(embed(loaded, ["w3 w4"])[0], by_hand("mean", hidden_states(loaded, "w3 w4")), atol=1e-5)


def test_dense_and_normalize_are_applied_in_order(folder: Path):
    tensors = add_dense(declare(folder, TRANSFORMER, POOLING, DENSE, NORMALIZE), 10, HIDDEN)
    loaded = load(str(folder))
    pooled = by_hand("mean", hidden_states(loaded, "w3 w4"))
    expected = torch.tanh(tensors["linear.weight"] @ pooled + tensors["linear.bias"])
    np.testing.assert_allclose(embed(loaded, ["w3 w4"])[0], expected / expected.norm(), atol=1e-5)
    assert "dense layer (24 to 10, Tanh), then normalised" in str(loaded.sentence_modules)


def test_a_dense_residual_is_added(folder: Path):
    tensors = add_dense(declare(folder, TRANSFORMER, POOLING, DENSE), HIDDEN, HIDDEN, use_residual=True)
    loaded = load(str(folder))
    pooled = by_hand("mean", hidden_states(loaded, "w3"))
    expected = torch.tanh(tensors["linear.weight"] @ pooled + tensors["linear.bias"]) + pooled
    np.testing.assert_allclose(embed(loaded, ["w3"])[0], expected, atol=1e-5)


def test_texts_are_cut_at_the_declared_length(folder: Path):
    declare(folder, TRANSFORMER, POOLING)
    write(folder / "sentence_bert_config.json", {"max_seq_length": 5, "do_lower_case": False})
    loaded = load(str(folder))
    words = WORDS[:9]
    np.testing.assert_array_equal(embed(loaded, [" ".join(words)]), embed(loaded, [" ".join(words[:5])]))


def test_without_a_declared_length_the_tokenizer_says_it(folder: Path):
    declare(folder, TRANSFORMER, POOLING)
    loaded = load(str(folder))
    words = WORDS[:16]  # the limit of the tokenizer is 12, that of the model 19
    np.testing.assert_array_equal(embed(loaded, [" ".join(words)]), embed(loaded, [" ".join(words[:12])]))


def test_the_default_prompt_is_put_before_each_text(folder: Path):
    declare(folder, TRANSFORMER, POOLING)
    plain = embed(load(str(folder)), ["w7 w8 w3"])
    write(folder / "config_sentence_transformers.json", {"prompts": {"q": "w7 w8 "}, "default_prompt_name": "q"})
    np.testing.assert_array_equal(embed(load(str(folder)), ["w3"]), plain)


def test_the_tokens_of_a_prompt_can_be_left_out_of_the_pooling(folder: Path):
    declare(folder, TRANSFORMER, POOLING, pooling={"pooling_mode": "mean", "include_prompt": False})
    write(folder / "config_sentence_transformers.json", {"prompts": {"q": "w7 w8 "}, "default_prompt_name": "q"})
    loaded = load(str(folder))
    np.testing.assert_allclose(embed(loaded, ["w3 w4"])[0], hidden_states(loaded, "w7 w8 w3 w4")[2:].mean(0), atol=1e-5)


def test_positions_are_counted_from_the_first_token_of_the_prompt(folder: Path):
    declare(folder, TRANSFORMER, POOLING, pooling={"pooling_mode": "weightedmean", "include_prompt": False})
    write(folder / "config_sentence_transformers.json", {"prompts": {"q": "w7 w8 "}, "default_prompt_name": "q"})
    hidden, weights = hidden_states(load(str(folder)), "w7 w8 w3 w4")[2:], torch.tensor([[3.0], [4.0]])
    np.testing.assert_allclose(embed(load(str(folder)), ["w3 w4"])[0], (weights * hidden).sum(0) / 7, atol=1e-5)


def test_texts_are_put_in_lower_case_where_that_is_declared(folder: Path):
    declare(folder, TRANSFORMER, POOLING)
    upper, lower = embed(load(str(folder)), ["W3"]), embed(load(str(folder)), ["w3"])
    assert not np.array_equal(upper, lower)
    write(folder / "sentence_bert_config.json", {"max_seq_length": None, "do_lower_case": True})
    np.testing.assert_array_equal(embed(load(str(folder)), ["W3"]), lower)


@pytest.mark.parametrize(
    ("modules", "named"),
    [
        ((TRANSFORMER, {"type": "sentence_transformers.models.LSTM", "path": "1_LSTM"}), "LSTM"),
        ((TRANSFORMER, {"type": "sentence_transformers.models.WeightedLayerPooling", "path": "1"}), "WeightedLayerPooling"),
        ((TRANSFORMER, POOLING, {"type": "custom_st.Mine", "path": "2"}), "custom_st.Mine"),
        ((TRANSFORMER, POOLING, POOLING), "Pooling"),
        ((TRANSFORMER, {"type": "sentence_transformers.models.Pooling", "path": "../elsewhere"}), "../elsewhere"),
        ((POOLING,), "Pooling"),
        ((TRANSFORMER,), "no Pooling"),
    ],
)
def test_a_module_that_is_not_supported_is_refused_by_its_name(folder: Path, modules: tuple[dict[str, str], ...], named: str):
    declare(folder, *modules)
    with pytest.raises(ModelError, match=named):
        sentence_modules(folder)


@pytest.mark.parametrize(
    ("file", "document", "named"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "median"),
        ("1_Pooling/config.json", {"pooling_mode_median_tokens": True}, "pooling_mode_median_tokens"),
        ("sentence_bert_config.json", {"max_seq_length": -3}, "-3"),
        ("sentence_bert_config.json", {"query_expansion": {"a": 1}}, "query_expansion"),
        ("sentence_bert_config.json", {"modality_config": {"image": {}}}, "image"),
        ("config_sentence_transformers.json", {"default_prompt_name": "missing", "prompts": {}}, "missing"),
    ],
)
def test_an_option_that_is_not_supported_is_refused_by_its_name(folder: Path, file: str, document: Any, named: str):
    declare(folder, TRANSFORMER, POOLING)
    write(folder / file, document)
    with pytest.raises(ModelError, match=named):
        sentence_modules(folder)


def test_a_dense_layer_that_does_not_fit_is_one_sentence(folder: Path):
    add_dense(declare(folder, TRANSFORMER, POOLING, DENSE), 10, HIDDEN + 1)
    with pytest.raises(TaskError, match="expects vectors of 25 values, but its inputs have 24"):
        embed(load(str(folder)), ["w3"])


def test_a_transformer_in_a_folder_of_its_own_is_refused_with_the_remedy(folder: Path):
    declare(folder, TRANSFORMER | {"path": "0_Transformer"}, POOLING)
    write(folder / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 5})
    with pytest.raises(ModelError, match=r"Transformer in '0_Transformer'.* set its path to ''"):
        sentence_modules(folder)
    for path in (".", "./"):
        declare(folder, TRANSFORMER | {"path": path}, POOLING)
        assert sentence_modules(folder).declared


def test_pickled_dense_weights_are_refused(folder: Path):
    add_dense(declare(folder, TRANSFORMER, POOLING, DENSE), 10, HIDDEN)
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no 'model\.safetensors', and pickled weights are not supported"):
        sentence_modules(folder)


def test_an_unsupported_embedding_is_a_fault_of_the_plan_and_none_without_such_a_task(folder: Path, tmp_path: Path):
    declare(folder, TRANSFORMER, {"type": "sentence_transformers.models.CNN", "path": "1_CNN"})
    info = model_info(str(folder), tmp_path / "home")
    validate(Plan(model=str(folder), groups=(), tasks=()), info)
    with pytest.raises(PlanError, match="CNN"):
        validate(Plan(model=str(folder), groups=(), tasks=("similarity",)), info)


def test_an_empty_text_has_an_embedding_of_finite_numbers():
    for way in POOLINGS:
        if way != "max":
            pooled = Pooler(SentenceModules(pooling=(way,)), 4)(torch.ones(1, 3, 4), torch.zeros(1, 3, dtype=torch.int64))
            assert torch.isfinite(pooled).all()


# ------------------------------------------------------------------------------------------------------------ positions


def roberta_with(pad: int, positions: int) -> transformers.PreTrainedModel:
    sizes = tiny_models.BERT_SIZES | {"max_position_embeddings": positions}
    return transformers.RobertaModel(transformers.RobertaConfig(**sizes, type_vocab_size=1, pad_token_id=pad)).eval()


@pytest.mark.parametrize(("pad", "positions"), [(1, 19), (3, 66), (0, 40)])
def test_roberta_counts_its_positions_from_the_padding_index(tmp_path: Path, pad: int, positions: int):
    model = roberta_with(pad, positions)
    assert position_limit(model) == positions - pad - 1
    folder = tiny_models.save(model, tmp_path / "roberta", tokenizer=False)
    loaded = replace(load(str(folder)), tokenizer=word_tokenizer(pad_token=f"w{pad}" if pad > 1 else ("<end>", "[UNK]")[pad]))
    assert longest_text(loaded.model, 10**6) == positions - pad - 1
    text = " ".join(WORDS[5 + place % 40] for place in range(90))
    assert np.isfinite(embed(loaded, [text, "w9"])).all()


def test_bert_has_room_for_all_its_positions():
    assert position_limit(tiny_models.shared("bert_base")) == tiny_models.POSITIONS


def test_relative_positions_set_no_limit():
    assert position_limit(tiny_models.shared("t5")) is None


@pytest.mark.parametrize("way", POOLINGS)
def test_padding_on_either_side_gives_the_same_embedding(way: str) -> None:
    """Three texts of one to five tokens in which the first token is a prompt, padded on the right and on the left."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    generator = torch.Generator().manual_seed(3)
    texts = [torch.randn(length, HIDDEN, generator=generator) for length in (2, 5, 3)]
    for prompt in (0, 1):
        pool = Pooler(SentenceModules(pooling=(way,)), HIDDEN, prompt)
        both, expected = [], None
        for side in ("right", "left"):
            hidden, mask = torch.zeros(3, 5, HIDDEN), torch.zeros(3, 5, dtype=torch.int64)
            for row, text in enumerate(texts):
                place = slice(0, len(text)) if side == "right" else slice(5 - len(text), 5)
                hidden[row, place], mask[row, place] = text, 1
            both.append(pool(hidden, mask))
            if not prompt:
                given = {"token_embeddings": hidden, "attention_mask": mask}
                expected = Pooling(HIDDEN, way)(given)["sentence_embedding"]
                torch.testing.assert_close(both[-1], expected)
        torch.testing.assert_close(both[0], both[1])


def test_a_task_chooses_the_last_token_of_a_decoder(tmp_path: Path) -> None:
    """Also for a causal language model whose folder says nothing, and only for this task."""
    loaded = opened(tmp_path, "llama")
    assert str(loaded.sentence_modules) == "the mean over tokens"
    last = replace(loaded, pooling="lasttoken")
    assert str(last.sentence_modules) == "the last token"
    texts = ["badi fogu", "kelu", "dabe mila gofi"]
    for text, embedding in zip(texts, embed(last, texts), strict=True):
        ids = torch.tensor([ids_of(loaded, text)])
        np.testing.assert_allclose(embedding, loaded.model.base_model(ids).last_hidden_state[0, -1], atol=1e-5)
    task = Task(name="a", family="similarity", data="bundled:similarity", options={"pooling": "lasttoken"})
    assert described_faults(task) == []
    assert "choose one of cls" in described_faults(task.replace(options={"pooling": "first"}))[0]
    assert "pooling" not in task.replace(options={}).settings
    assert open_task(task, loaded).original().embedding == "the last token"
