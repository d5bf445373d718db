"""Sentence embeddings, the families of tasks that use them, and what a task stores about the original."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from scipy.stats import spearmanr
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from offcomp.errors import ModelError, TaskError
from offcomp.evaluation import EVALUATORS, OpenTask, open_task
from offcomp.evaluation.batches import batches
from offcomp.evaluation.data import read
from offcomp.evaluation.embeddings import cosines, embed
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import substituted
from offcomp.planning.data.scores import Score
from offcomp.planning.data.tasks import FAMILIES, TASKS, Task, find_task, unfit, usual_tasks
from offcomp.planning.plan import Group
from offcomp.runs.compress import compress_group
from tests import tiny_models

WORDS = [f"w{number}" for number in range(2, tiny_models.VOCABULARY)]
SENTIMENT = find_task("sentiment")


# ---------------------------------------------------------------------------------------------------------- embeddings


def word_tokenizer(**specials: str) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer with the words `w2`, `w3`, ..., whose ids are 2, 3, ...; `<end>` is 0.

    specials    the only special tokens
    """
    words = {"<end>": 0, "[UNK]": 1, **{word: number for number, word in enumerate(WORDS, start=2)}}
    backend = Tokenizer(WordLevel(words, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **specials)


def saved(folder: Path, name: str, **specials: str) -> LoadedModel:
    """Load a tiny model from a folder, with a word tokenizer that has these special tokens, or else a padding token."""
    loaded = load(str(tiny_models.save(tiny_models.shared(name), folder / name, tokenizer=False)))
    assert loaded.tokenizer is None
    return replace(loaded, tokenizer=word_tokenizer(**(specials or {"pad_token": "<end>"})))


def texts_of(*lengths: int) -> list[str]:
    """Return texts with these numbers of words, all of them different."""
    return [" ".join(WORDS[(7 * index + 3 * place) % len(WORDS)] for place in range(n)) for index, n in enumerate(lengths)]


@pytest.mark.parametrize("name", tiny_models.TINY)
def test_padding_does_not_matter_and_the_order_is_kept(tmp_path: Path, name: str) -> None:
    loaded = saved(tmp_path, name)
    texts = texts_of(3, 11, 1, 7, 2, 11, 5)
    together = embed(loaded, texts)
    alone = np.concatenate([embed(loaded, [text]) for text in texts])
    assert together.shape == alone.shape and together.dtype == np.float32
    assert min(np.abs(alone[i] - alone[j]).max() for i in range(7) for j in range(i)) > 1e-3  # no two embeddings are alike
    np.testing.assert_allclose(together, alone, atol=1e-5 * max(1.0, np.abs(alone).max()))


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "opt"])
def test_padding_on_the_left_does_not_matter_either(tmp_path: Path, name: str) -> None:
    loaded = saved(tmp_path, name)
    texts = texts_of(3, 11, 1, 7)
    expected = np.concatenate([embed(loaded, [text]) for text in texts])
    assert loaded.tokenizer is not None
    loaded.tokenizer.padding_side = "left"  # as specified by the checkpoints of many decoders
    np.testing.assert_allclose(embed(loaded, texts), expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


def test_more_texts_than_a_batch_keep_their_order(tmp_path: Path) -> None:
    loaded = saved(tmp_path, "bert_base")
    texts = texts_of(*(1 + (5 * i) % 9 for i in range(75)))
    embeddings = embed(loaded, texts)
    assert embeddings.shape == (75, tiny_models.HIDDEN)
    for index in (0, 31, 32, 40, 74):
        np.testing.assert_allclose(embeddings[index], embed(loaded, [texts[index]])[0], atol=1e-5)


def test_an_embedding_is_the_mean_of_the_last_hidden_states(tmp_path: Path) -> None:
    loaded = saved(tmp_path, "bert_base")
    with torch.no_grad():
        hidden = loaded.model(input_ids=torch.tensor([[4, 9, 33]])).last_hidden_state
    np.testing.assert_allclose(embed(loaded, ["w4 w9 w33"])[0], hidden[0].mean(0).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", tiny_models.TINY)
def test_a_text_longer_than_the_model_reads_is_cut(tmp_path: Path, name: str) -> None:
    embeddings = embed(saved(tmp_path, name), texts_of(60, 3))
    assert np.isfinite(embeddings).all() and len(embeddings) == 2


def test_progress_of_embedding_ends_at_one(tmp_path: Path) -> None:
    seen: list[float] = []
    embed(saved(tmp_path, "bert_base"), texts_of(*[3] * 70), seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) == 3


def test_embedding_twice_gives_the_same(tmp_path: Path) -> None:
    loaded = saved(tmp_path, "bert_base")
    assert np.array_equal(embed(loaded, texts_of(3, 9)), embed(loaded, texts_of(3, 9)))


def test_a_model_without_a_tokenizer_cannot_run_a_task(tmp_path: Path) -> None:
    loaded = replace(saved(tmp_path, "gpt2"), tokenizer=None)
    with pytest.raises(TaskError, match="has no tokenizer"):
        embed(loaded, ["w3"])
    with pytest.raises(TaskError, match="has no tokenizer"):
        open_task(SENTIMENT, loaded)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    loaded = saved(tmp_path, "bert_base")
    loaded.model.get_parameter("encoder.layer.1.output.LayerNorm.bias")[3] = value
    with pytest.raises(TaskError, match="not finite"):
        embed(loaded, ["w3 w4"])
    with pytest.raises(TaskError, match="not finite"):
        open_task(SENTIMENT, loaded).prepare()


@pytest.mark.parametrize("specials", [{"eos_token": "<end>"}, {"unk_token": "[UNK]"}], ids=["end of text", "unknown word"])
def test_a_tokenizer_without_padding_borrows_another_token(tmp_path: Path, specials: dict[str, str]) -> None:
    loaded = saved(tmp_path, "gpt2")
    texts = texts_of(2, 9, 5)
    bare = saved(tmp_path, "gpt2", **specials)
    assert bare.tokenizer is not None and bare.tokenizer.pad_token is None
    np.testing.assert_allclose(embed(bare, texts), embed(loaded, texts), atol=1e-5)


def test_a_tokenizer_without_any_special_token_works_or_says_why_not(tmp_path: Path) -> None:
    loaded = replace(saved(tmp_path, "gpt2"), tokenizer=word_tokenizer())
    try:
        assert np.isfinite(embed(loaded, texts_of(2, 9))).all()
    except TaskError as error:
        assert "pad" in str(error)


# ------------------------------------------------------------------------------------------------------------- batches


def test_texts_of_like_length_share_a_batch_and_none_is_lost(tmp_path: Path) -> None:
    loaded = saved(tmp_path, "bert_base")
    ready = batches(loaded, texts_of(*(1 + (5 * i) % 9 for i in range(75))))
    assert sorted(row for rows in ready.rows for row in rows) == list(range(75))
    widths = [inputs["input_ids"].shape[1] for inputs in ready.inputs]
    assert widths == sorted(widths, reverse=True) and len(widths) == 3
    padding = sum(int((inputs["attention_mask"] == 0).sum()) for inputs in ready.inputs)
    assert padding < 0.3 * sum(inputs["input_ids"].numel() for inputs in ready.inputs)


def test_a_pair_is_one_input(tmp_path: Path) -> None:
    loaded = saved(tmp_path, "bert_base")
    (inputs,) = batches(loaded, ["w3 w4"], ["w5"]).inputs
    assert inputs["input_ids"].tolist() == [[3, 4, 5]]


# ------------------------------------------------------------------------------------------------------------ the tasks


def test_every_family_of_the_catalogue_has_code_and_every_task_a_family() -> None:
    assert set(EVALUATORS) == set(FAMILIES) >= {task.family for task in TASKS}
    assert len({task.name for task in TASKS}) == len(TASKS)


def test_an_unknown_task_is_refused_with_a_near_one() -> None:
    with pytest.raises(TaskError, match=r"'simlarity'.*did you mean 'similarity'"):
        find_task("simlarity")
    with pytest.raises(TaskError, match=r"'weather'.*sentiment"):
        find_task("weather")


def test_a_task_needs_the_head_that_its_family_says() -> None:
    assert unfit(find_task("masked-prose"), "BertForMaskedLM") is None
    assert "ForMaskedLM" in str(unfit(find_task("masked-prose"), "BertModel"))
    assert usual_tasks("BertModel") == ("sentiment", "topics", "similarity", "embedding-fidelity")
    assert "causal-prose" in usual_tasks("GPT2LMHeadModel") and "masked-prose" not in usual_tasks("GPT2LMHeadModel")


def test_a_task_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="BertModel"):
        open_task(find_task("causal-prose"), saved(tmp_path, "bert_base"))


@pytest.fixture(scope="module")
def minilm() -> LoadedModel:
    return load("minilm-l6")


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """The task sentiment with a third of its bundled sentences."""
    tables = {name: split.to_pandas()[::3] for name, split in read(SENTIMENT).splits.items()}
    return SENTIMENT.replace(data=as_files(tmp_path_factory.mktemp("third") / "data", tables))


@pytest.fixture(scope="module")
def opened(minilm: LoadedModel, third: Task) -> OpenTask:
    task = open_task(third, minilm)
    task.prepare()
    return task


@pytest.fixture(scope="module")
def unchanged(opened: OpenTask) -> Score:
    return opened.compare()


def test_the_probe_on_minilm_is_good_but_not_perfect(unchanged: Score, third: Task) -> None:
    assert 0.75 <= unchanged.original.value <= 0.97
    assert unchanged.original.n == len(read(third).splits["test"])
    assert unchanged.majority_baseline == pytest.approx(0.5, abs=0.1)


def test_a_comparison_names_its_task_version_and_split(unchanged: Score, third: Task) -> None:
    about = unchanged.to_dict()
    assert about["task"] == "sentiment" and about["version"] == SENTIMENT.version and about["split"] == "test"
    assert about["family"] == "probe"
    assert about["digest"] == read(third).digest and about["settings"] == {"refit": False}
    json.dumps(about, allow_nan=False)


def test_an_unchanged_model_agrees_with_itself(unchanged: Score, opened: OpenTask) -> None:
    assert unchanged.unchanged is True and unchanged.paired.agreement == 1.0
    assert unchanged.flips.to_dict() == {"right_to_wrong": [], "wrong_to_right": []}
    assert unchanged.original == unchanged.compressed
    assert opened.original().value == unchanged.original.value


def as_files(folder: Path, splits: dict[str, pd.DataFrame]) -> str:
    """Write the splits to a new folder, with one CSV file per split, and return the folder."""
    folder.mkdir()
    for name, table in splits.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return str(folder)


def sentiment_tables() -> dict[str, pd.DataFrame]:
    """Return a table per split of the bundled sentences, with all words replaced by words that a tiny model knows."""
    splits = read(SENTIMENT).splits
    tables = {name: split.to_pandas() for name, split in splits.items()}
    for table in tables.values():
        table["text"] = [" ".join(WORDS[sum(map(ord, word)) % len(WORDS)] for word in text.split()) for text in table["text"]]
        table["label"] = ["negative" if label == 0 else "positive" for label in table["label"]]
    return tables


def transposed(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(label=table["label"].map({"negative": "positive", "positive": "negative"}))


def test_the_probe_is_fitted_on_training_texts_and_chosen_on_validation_texts_only(tmp_path: Path) -> None:
    """Swapping the labels of the test split changes nothing; swapping those of the training split changes the probe."""
    loaded, tables = saved(tmp_path, "bert_base"), sentiment_tables()
    found = {}
    for split in ("none", "train", "test"):
        made = {name: transposed(table) if name == split else table for name, table in tables.items()}
        task = Task(name="mine", family="probe", data=as_files(tmp_path / split, made))
        found[split] = EVALUATORS["probe"](loaded, read(task)).reference(lambda _fraction: None)
    for name in ("probabilities", "weights", "validation_accuracy"):
        assert np.array_equal(found["test"][name], found["none"][name])
    assert np.abs(found["train"]["probabilities"] - found["none"]["probabilities"]).max() > 0.01


def test_shuffled_labels_give_chance(minilm: LoadedModel, third: Task, tmp_path: Path) -> None:
    tables = {name: split.to_pandas() for name, split in read(third).splits.items()}
    generator = np.random.default_rng(0)
    made = {name: table.assign(label=generator.permutation(table["label"].to_numpy())) for name, table in tables.items()}
    score = open_task(Task(name="shuffled", family="probe", data=as_files(tmp_path / "data", made)), minilm).original()
    assert abs(score.value - 0.5) < 3.5 * score.standard_error


@contextmanager
def ruined(loaded: LoadedModel) -> Iterator[None]:
    """Replace every matrix in the model's layers with zeros within this context."""
    zeros = {spec: torch.zeros(spec.shape) for spec in loaded.info.modules if spec.layer is not None}
    with substituted(loaded.model, zeros):
        yield


def test_a_zeroed_model_does_not_pass_for_unchanged(minilm: LoadedModel, opened: OpenTask, unchanged: Score) -> None:
    with ruined(minilm):
        result = opened.compare()
    assert result.unchanged is False and result.original == unchanged.original
    assert result.compressed.value < result.original.value - 0.1
    assert result.paired.agreement < 0.9 and result.paired.interval[1] < 0
    assert len(result.flips.right_to_wrong) == result.paired.right_to_wrong > 7


def test_a_refitted_probe_reads_more_from_a_ruined_model_and_says_that_it_was_refitted(
    minilm: LoadedModel, opened: OpenTask, third: Task
) -> None:
    refitting = open_task(third.replace(options={"refit": True}), minilm)
    refitting.prepare()
    with ruined(minilm):
        kept, refitted = opened.compare(), refitting.compare()
    assert refitted.settings == {"refit": True}
    assert refitted.compressed.value > kept.compressed.value


def test_a_model_whose_hidden_states_are_constant_is_flagged_as_collapsed(minilm: LoadedModel, opened: OpenTask) -> None:
    alike = open_task(find_task("similarity"), minilm)
    alike.prepare()
    scale = minilm.model.get_parameter("encoder.layer.5.output.LayerNorm.weight")
    before = scale.clone()
    try:
        scale.zero_()
        result = opened.compare()
        collapsed = alike.compare().collapsed
    finally:
        scale.copy_(before)
    assert result.collapsed is True and collapsed is True
    assert result.compressed.value == pytest.approx(result.majority_baseline, abs=0.1)


def test_more_compression_agrees_less_with_the_original(minilm: LoadedModel, opened: OpenTask) -> None:
    agreements = []
    for ratio in (1.2, 20.0):
        modules = tuple(f"{kind}.{layer}" for kind in ("value", "ffn_in") for layer in range(6))
        group = compress_group(minilm.model, minilm.info, Group(name="some", modules=modules, ratio=ratio))
        with substituted(minilm.model, group.reconstructions):
            agreements.append(opened.compare().paired.agreement)
    assert 1.0 > agreements[0] > agreements[1] + 0.05


def test_the_originals_answers_are_kept_by_content(tmp_path: Path) -> None:
    """A new task object finds them, but not if the model's files or the options of the task are different."""
    loaded, cache = saved(tmp_path, "bert_base"), tmp_path / "cache"
    task = Task(name="mine", family="probe", data=as_files(tmp_path / "data", sentiment_tables()))
    first = open_task(task, loaded, cache=cache).original()
    (file,) = cache.iterdir()
    with ruined(loaded):
        assert open_task(task, loaded, cache=cache).original() == first
        other = LoadedModel(loaded.model, loaded.tokenizer, replace(loaded.info, reads="other files"))
        with pytest.raises(ModelError, match="changed while it was in use"):
            open_task(task, other, cache=cache).original()
    assert len(list(cache.iterdir())) == 1
    open_task(task.replace(options={"refit": True}), loaded, cache=cache).prepare()
    assert len(list(cache.iterdir())) == 2
    file.write_bytes(b"damaged")
    assert open_task(task, loaded, cache=cache).original() == first


def test_another_model_is_compared_on_the_same_examples(minilm: LoadedModel, opened: OpenTask) -> None:
    other = load("minilm-l6")
    assert opened.compare(model=other).unchanged is True
    with ruined(other):
        assert opened.compare(model=other).compressed.value < opened.original().value - 0.1
    assert opened.compare().unchanged is True


def test_a_task_runs_on_a_decoder_without_a_padding_token(tmp_path: Path) -> None:
    loaded = saved(tmp_path, "gpt2", unk_token="[UNK]")  # noqa: S106
    score = open_task(SENTIMENT, loaded).original()
    assert 0.3 <= score.value <= 0.7  # every English word is unknown to the tokenizer


# ------------------------------------------------------------------------------------------------- similarity, regression


def scored_pairs(folder: Path, generator: np.random.Generator) -> str:
    """Write pairs of texts, scored by how many of their five words they share, to files, and return their folder."""
    rows = []
    for _ in range(120):
        first = [str(word) for word in generator.choice(WORDS, 5, replace=False)]
        shared = int(generator.integers(0, 6))
        rows.append((" ".join(first), " ".join([*first[:shared], *generator.choice(WORDS, 5 - shared)]), shared))
    table = pd.DataFrame(rows, columns=["sentence1", "sentence2", "score"])
    return as_files(folder, {"train": table[:60], "validation": table[60:80], "test": table[80:]})


def test_similarity_is_the_rank_correlation_of_cosines(tmp_path: Path) -> None:
    loaded = saved(tmp_path, "bert_base")
    task = Task(name="pairs", family="similarity", data=scored_pairs(tmp_path / "data", np.random.default_rng(0)))
    test = read(task).splits["test"]
    cosine = cosines(embed(loaded, list(test["sentence1"])), embed(loaded, list(test["sentence2"])))
    expected = spearmanr(cosine, test["score"]).statistic
    score = open_task(task, loaded).original()
    assert score.metric == "spearman" and score.n == 40
    assert score.value == pytest.approx(expected, abs=0.01)
    assert score.value > 0.5  # any model's embeddings reflect shared words


def test_regression_learns_from_training_pairs_what_the_test_pairs_ask(tmp_path: Path) -> None:
    loaded = saved(tmp_path, "bert_base")
    task = Task(name="pairs", family="regression", data=scored_pairs(tmp_path / "data", np.random.default_rng(0)))
    opened = open_task(task, loaded)
    assert opened.original().value > 0.5
    assert opened.compare().unchanged is True
    with ruined(loaded):
        assert opened.compare().unchanged is False


def test_cosines_of_equal_opposite_and_zero_vectors() -> None:
    one, zero = np.array([[3.0, 4.0]], np.float32), np.zeros((1, 2), np.float32)
    assert cosines(one, one)[0] == pytest.approx(1) and cosines(one, -one)[0] == pytest.approx(-1)
    assert cosines(one, zero)[0] == 0


# ----------------------------------------------------------------------------------------------------- texts that are cut


@pytest.mark.parametrize("family", ["probe", "head"])
def test_texts_longer_than_the_model_takes_are_counted(tmp_path: Path, family: str) -> None:
    loaded = saved(tmp_path, "bert_classifier", pad_token="<end>")  # noqa: S106
    room = tiny_models.POSITIONS - 2
    lengths = [room + 1 + index % 5 if index < 40 else 3 + index // 59 for index in range(200)]
    rows = [{"text": text, "label": f"class {index % 5}"} for index, text in enumerate(texts_of(*lengths))]
    file = tmp_path / "long.csv"
    pd.DataFrame(rows).assign(split=["test" if i < 60 else "validation" if i < 120 else "train" for i in range(200)]).to_csv(
        file
    )
    task = Task(name="long", family=family, data=str(file), columns={"text": "text", "label": "label"})
    score = open_task(task, loaded).original()
    assert score.cut.to_dict() == {"texts": 40, "of": 60, "tokens": room}


def test_texts_that_fit_leave_no_word_of_cutting(tmp_path: Path) -> None:
    loaded = saved(tmp_path, "bert_base", pad_token="<end>")  # noqa: S106
    assert not batches(loaded, texts_of(tiny_models.POSITIONS - 2, 3)).cut.any()
    assert batches(loaded, texts_of(tiny_models.POSITIONS - 1, 3)).cut.tolist() == [True, False]
    cut = batches(loaded, texts_of(tiny_models.POSITIONS + 30))
    short = batches(loaded, texts_of(tiny_models.POSITIONS + 30), limit=tiny_models.POSITIONS - 2)
    assert torch.equal(cut.inputs[0]["input_ids"], short.inputs[0]["input_ids"])
    assert cut.inputs[0]["input_ids"].shape[1] == tiny_models.POSITIONS - 2
