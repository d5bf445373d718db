"""Scores with their uncertainty, the paired comparison, sentence embeddings and the probe on them."""

from __future__ import annotations

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from offcomp.compress import compress_group
from offcomp.errors import TaskError
from offcomp.evaluation import TASKS, find_task
from offcomp.evaluation.comparison import Score, compare
from offcomp.evaluation.probe import FittedProbe, embed
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import substituted
from offcomp.plan import TASK_NAMES, Group
from tests import tiny_models

WORDS = [f"w{number}" for number in range(2, tiny_models.VOCABULARY)]


# ------------------------------------------------------------------------------------------------------------- scores


def test_an_accuracy_comes_with_its_binomial_standard_error() -> None:
    score = Score.accuracy(np.array([True] * 75 + [False] * 25))
    assert (score.value, score.n) == (0.75, 100)
    assert score.standard_error == pytest.approx(sqrt(0.75 * 0.25 / 100))


@pytest.mark.parametrize("right", [True, False])
def test_an_accuracy_of_all_or_nothing_has_no_spread(right: bool) -> None:
    assert Score.accuracy(np.array([right] * 7)) == Score(float(right), 0.0, 7)


def test_the_standard_error_is_the_spread_of_repeated_measurements() -> None:
    generator = np.random.default_rng(0)
    scores = [Score.accuracy(generator.random(280) < 0.8) for _ in range(2000)]
    spread = np.std([score.value for score in scores])
    assert spread == pytest.approx(np.mean([score.standard_error for score in scores]), rel=0.06)


# ---------------------------------------------------------------------------------------------------------- comparison


def probabilities(*of_class_one: float) -> NDArray[np.float64]:
    ones = np.array(of_class_one)
    return np.stack([1 - ones, ones], axis=1)


def compared(labels: list[int], original: NDArray[np.float64], compressed: NDArray[np.float64]) -> dict[str, Any]:
    texts = [f"text {i}" for i in range(len(labels))]
    return compare(labels, original, compressed, texts=texts, names=["negative", "positive"])


HAND_MADE = compared([1, 1, 1, 1, 0], probabilities(0.9, 0.8, 0.3, 0.2, 0.1), probabilities(0.7, 0.4, 0.6, 0.1, 0.45))


def test_both_scores_of_a_comparison_by_hand() -> None:
    assert HAND_MADE["original"] == {"value": 0.6, "standard_error": pytest.approx(sqrt(0.6 * 0.4 / 5)), "n": 5}
    assert HAND_MADE["compressed"]["value"] == 0.6
    assert (HAND_MADE["metric"], HAND_MADE["direction"]) == ("accuracy", "higher")
    assert HAND_MADE["majority_baseline"] == 0.8
    assert HAND_MADE["collapsed"] is False


def test_flips_of_a_comparison_by_hand_name_the_text_its_label_and_both_probabilities() -> None:
    assert HAND_MADE["flips"]["right_to_wrong"] == [
        {"text": "text 1", "label": "positive", "original_probability": 0.8, "compressed_probability": 0.4}
    ]
    assert HAND_MADE["flips"]["wrong_to_right"] == [
        {"text": "text 2", "label": "positive", "original_probability": 0.3, "compressed_probability": 0.6}
    ]


def test_the_paired_figures_of_a_comparison_by_hand() -> None:
    paired = HAND_MADE["paired"]
    assert (paired["right_to_wrong"], paired["wrong_to_right"]) == (1, 1)
    assert paired["agreement"] == 0.6
    assert paired["difference"] == 0.0
    margin = 1.96 * sqrt(2 / 5) / sqrt(5)  # differences 0, -1, 1, 0, 0
    assert paired["interval"] == pytest.approx([-margin, margin], rel=1e-3)


def test_a_flip_of_the_other_class_has_the_probability_of_its_own_label() -> None:
    flips = compared([0, 1], probabilities(0.1, 0.9), probabilities(0.7, 0.9))["flips"]
    (flip,) = flips["right_to_wrong"]
    assert flip["label"] == "negative"
    assert (flip["original_probability"], flip["compressed_probability"]) == pytest.approx((0.9, 0.3))
    assert flips["wrong_to_right"] == []


def test_two_wrong_classes_disagree_without_a_flip() -> None:
    before, after = np.array([[0.1, 0.8, 0.1]]), np.array([[0.1, 0.1, 0.8]])
    result = compare([0], before, after, texts=["x"], names=["a", "b", "c"])
    assert result["paired"]["agreement"] == 0.0
    assert result["flips"] == {"right_to_wrong": [], "wrong_to_right": []}


def test_equal_predictions_agree_fully_without_any_doubt() -> None:
    same = probabilities(0.9, 0.2, 0.6)
    paired = compared([1, 0, 0], same, same)["paired"]
    assert paired == {"difference": 0.0, "interval": [0.0, 0.0], "agreement": 1.0, "right_to_wrong": 0, "wrong_to_right": 0}


def test_a_comparison_is_json() -> None:
    assert json.loads(json.dumps(HAND_MADE, allow_nan=False)) == HAND_MADE


@pytest.mark.parametrize(
    ("labels", "after", "collapsed"),
    [
        ([0, 1, 0, 1], [0.9, 0.8, 0.7, 0.6], True),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], True),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.9], False),
        ([1, 1, 1, 1], [0.9, 0.8, 0.7, 0.6], False),
    ],
)
def test_one_class_for_all_examples_is_flagged(labels: list[int], after: list[float], collapsed: bool) -> None:
    assert compared(labels, probabilities(0.1, 0.9, 0.2, 0.9), probabilities(*after))["collapsed"] is collapsed


def test_the_sign_of_the_difference_is_that_of_the_change() -> None:
    good, bad = probabilities(0.9, 0.9, 0.9, 0.9), probabilities(0.9, 0.9, 0.9, 0.1)
    assert compared([1, 1, 1, 1], good, bad)["paired"]["difference"] == -0.25
    assert compared([1, 1, 1, 1], bad, good)["paired"]["difference"] == 0.25


def test_the_interval_of_the_difference_holds_the_truth_in_95_of_100_cases() -> None:
    """The original is right with probability .85; of these .12 are lost, and .3 of the wrong ones won: -.102 + .045."""
    generator = np.random.default_rng(1)
    truth, inside = -0.85 * 0.12 + 0.15 * 0.3, 0
    for _ in range(1000):
        right = generator.random(300) < 0.85
        flipped = generator.random(300) < np.where(right, 0.12, 0.3)
        labels = generator.integers(0, 2, 300)
        before = np.where(right, labels, 1 - labels)
        after = np.where(flipped, 1 - before, before)
        paired = compared(labels.tolist(), probabilities(*before), probabilities(*after))["paired"]
        low, high = paired["interval"]
        assert low <= paired["difference"] <= high
        inside += low <= truth <= high
    assert 930 <= inside <= 970


# ---------------------------------------------------------------------------------------------------------- embeddings


def word_tokenizer(**specials: str) -> transformers.PreTrainedTokenizerFast:
    """Knows the words `w2`, `w3`, ... by their number, and these special tokens only; `<end>` is 0."""
    words = {"<end>": 0, "[UNK]": 1, **{word: number for number, word in enumerate(WORDS, start=2)}}
    backend = Tokenizer(WordLevel(words, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **specials)


def saved(folder: Path, name: str, **specials: str) -> LoadedModel:
    """A tiny model from a folder, with a tokenizer of words; it pads unless other special tokens are given."""
    loaded = load(str(tiny_models.save(tiny_models.shared(name), folder / name, tokenizer=False)))
    assert loaded.tokenizer is None
    return replace(loaded, tokenizer=word_tokenizer(**(specials or {"pad_token": "<end>"})))


def texts_of(*lengths: int) -> list[str]:
    """Texts of so many words, no two alike."""
    return [" ".join(WORDS[(7 * index + 3 * place) % len(WORDS)] for place in range(n)) for index, n in enumerate(lengths)]


@pytest.mark.parametrize("name", tiny_models.TINY)
def test_padding_does_not_matter_and_the_order_is_kept(tmp_path: Path, name: str) -> None:
    loaded = saved(tmp_path, name)
    texts = texts_of(3, 11, 1, 7, 2, 11, 5)
    together = embed(loaded, texts)
    alone = np.concatenate([embed(loaded, [text]) for text in texts])
    assert together.shape == alone.shape and together.dtype == np.float32
    assert min(np.abs(alone[i] - alone[j]).max() for i in range(7) for j in range(i)) > 1e-3  # no two texts look alike
    np.testing.assert_allclose(together, alone, atol=1e-5 * max(1.0, np.abs(alone).max()))


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "opt"])
def test_padding_on_the_left_does_not_matter_either(tmp_path: Path, name: str) -> None:
    loaded = saved(tmp_path, name)
    texts = texts_of(3, 11, 1, 7)
    expected = np.concatenate([embed(loaded, [text]) for text in texts])
    assert loaded.tokenizer is not None
    loaded.tokenizer.padding_side = "left"  # as the checkpoints of many decoders ask for
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
        find_task("sentiment").fit(loaded)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    loaded = saved(tmp_path, "bert_base")
    loaded.model.get_parameter("encoder.layer.1.output.LayerNorm.bias")[3] = value
    with pytest.raises(TaskError, match="not finite"):
        embed(loaded, ["w3 w4"])
    with pytest.raises(TaskError, match="not finite"):
        find_task("sentiment").fit(loaded)


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


# ---------------------------------------------------------------------------------------------------- the sentiment task


@pytest.fixture(scope="module")
def minilm() -> LoadedModel:
    return load("minilm-l6")


@pytest.fixture(scope="module")
def probe(minilm: LoadedModel) -> FittedProbe:
    return find_task("sentiment").fit(minilm)


@pytest.fixture(scope="module")
def unchanged(minilm: LoadedModel, probe: FittedProbe) -> dict[str, Any]:
    return find_task("sentiment").compare(probe, minilm)


def test_the_tasks_of_a_plan_are_those_that_exist() -> None:
    assert tuple(task.name for task in TASKS) == TASK_NAMES


def test_an_unknown_task_is_refused_with_those_that_exist() -> None:
    with pytest.raises(TaskError, match=r"'weather'.*sentiment"):
        find_task("weather")


def test_the_probe_on_minilm_is_good_but_not_perfect(probe: FittedProbe, unchanged: dict[str, Any]) -> None:
    assert 0.80 <= unchanged["original"]["value"] <= 0.97
    assert 0.80 <= probe.validation_accuracy <= 1.0
    assert unchanged["original"]["n"] == len(find_task("sentiment").load()["test"])
    assert unchanged["majority_baseline"] == pytest.approx(0.5, abs=0.02)


def test_a_comparison_names_its_task_version_and_split(unchanged: dict[str, Any]) -> None:
    assert (unchanged["task"], unchanged["version"], unchanged["split"]) == (
        "sentiment",
        find_task("sentiment").version,
        "test",
    )
    json.dumps(unchanged, allow_nan=False)


def test_an_unchanged_model_agrees_with_itself(unchanged: dict[str, Any]) -> None:
    assert unchanged["paired"]["agreement"] == 1.0
    assert unchanged["flips"] == {"right_to_wrong": [], "wrong_to_right": []}
    assert unchanged["original"] == unchanged["compressed"]
    assert unchanged["paired"]["interval"] == [0.0, 0.0]


def test_the_probe_is_fitted_on_training_texts_and_chosen_on_validation_texts_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the labels of one split turned round: of the test split nothing changes, of the training split all does."""
    loaded, task = saved(tmp_path, "bert_base"), find_task("sentiment")
    data = task.load()
    fitted = {}
    for split in ("none", "train", "test"):
        turned = {
            name: rows.map(lambda row: {"label": 1 - row["label"]}) if name == split else rows for name, rows in data.items()
        }
        with monkeypatch.context() as patch:
            patch.setattr(type(task), "load", lambda _task, turned=turned: type(data)(turned))
            fitted[split] = task.fit(loaded)
    assert np.array_equal(fitted["test"].original, fitted["none"].original)
    assert fitted["test"].validation_accuracy == fitted["none"].validation_accuracy
    assert np.abs(fitted["train"].original - fitted["none"].original).max() > 0.01


def test_a_zeroed_model_does_not_pass_for_unchanged(minilm: LoadedModel, probe: FittedProbe, unchanged: dict[str, Any]) -> None:
    fitted = [array.copy() for array in (probe.original, probe.classifier[-1].coef_, probe.classifier[0].mean_)]
    zeros = {spec: torch.zeros(spec.shape) for spec in minilm.info.modules if spec.layer is not None}
    with substituted(minilm.model, zeros):
        ruined = find_task("sentiment").compare(probe, minilm)
    after = (probe.original, probe.classifier[-1].coef_, probe.classifier[0].mean_)
    assert all(np.array_equal(old, new) for old, new in zip(fitted, after, strict=True))  # nothing is fitted again
    assert ruined["original"] == unchanged["original"]
    assert ruined["compressed"]["value"] < ruined["original"]["value"] - 0.1
    assert ruined["paired"]["agreement"] < 0.9
    assert ruined["paired"]["interval"][1] < 0
    assert len(ruined["flips"]["right_to_wrong"]) == ruined["paired"]["right_to_wrong"] > 20


def test_a_model_whose_hidden_states_are_constant_is_flagged_as_collapsed(minilm: LoadedModel, probe: FittedProbe) -> None:
    path = "encoder.layer.5.output.LayerNorm.weight"
    scale = minilm.model.get_parameter(path)
    before = scale.clone()
    try:
        scale.zero_()
        result = find_task("sentiment").compare(probe, minilm)
    finally:
        scale.copy_(before)
    assert result["collapsed"] is True
    assert result["compressed"]["value"] == pytest.approx(result["majority_baseline"], abs=0.02)


def test_more_compression_agrees_less_with_the_original(minilm: LoadedModel, probe: FittedProbe) -> None:
    agreements = []
    for ratio in (1.2, 20.0):
        modules = tuple(f"{kind}.{layer}" for kind in ("value", "ffn_in") for layer in range(6))
        group = compress_group(minilm.model, minilm.info, Group("some", modules, ratio=ratio))
        with substituted(minilm.model, group.reconstructions):
            agreements.append(find_task("sentiment").compare(probe, minilm)["paired"]["agreement"])
    assert 1.0 > agreements[0] > agreements[1] + 0.05


def test_a_task_runs_on_a_decoder_without_a_padding_token(tmp_path: Path) -> None:
    loaded = saved(tmp_path, "gpt2", unk_token="[UNK]")  # noqa: S106
    task = find_task("sentiment")
    result = task.compare(task.fit(loaded), loaded)
    assert result["paired"]["agreement"] == 1.0
    assert 0.3 <= result["original"]["value"] <= 0.7  # every English word is unknown to it
