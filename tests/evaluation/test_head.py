"""Classification by a model's own head: its labels are matched with those of the data, or rejected."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import transformers
from datasets import ClassLabel, Dataset, DatasetDict
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from offcomp.errors import TaskError
from offcomp.evaluation import OpenTask, open_task
from offcomp.evaluation.base import TaskData
from offcomp.evaluation.head import CHECKED_EXAMPLES, Head, check_order
from offcomp.models.loading import LoadedModel, load
from offcomp.planning.data.scores import OriginalScore
from offcomp.planning.data.tasks import Task
from offcomp.results.scores import notes
from tests import tiny_models

WORDS = [f"w{number}" for number in range(5, tiny_models.VOCABULARY)]
MOODS = ("negative", "positive")
MOOD_LABELS = {0: "NEGATIVE", 1: "POSITIVE"}


def word_tokenizer(**specials: str) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer with the words `w5`, `w6`, ..., which adds special tokens to texts and pairs as BERT's does."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<end>", *WORDS]
    backend = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names_of_inputs = ["input_ids", "token_type_ids", "attention_mask"]
    specials = specials or {"pad_token": "[PAD]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=names_of_inputs, **specials)


def texts_of(count: int, seed: int = 1) -> list[str]:
    """Return this number of texts, each of three to nine random words."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(3, 10))) for _ in range(count)]


TEXTS, MORE_TEXTS = texts_of(90), texts_of(120, seed=2)


def classifier(folder: Path, labels: dict[int, str]) -> LoadedModel:
    """Return a tiny BERT with a head for these classes, whose logits are standardised so that its answers vary."""
    config = transformers.BertConfig(
        **tiny_models.BERT_SIZES, type_vocab_size=3, id2label=labels, label2id={name: index for index, name in labels.items()}
    )
    loaded = saved(folder, tiny_models._built("BertForSequenceClassification", config))
    outputs = torch.tensor(np.array([raw_logits(loaded, text) for text in texts_of(60, seed=3)]), dtype=torch.float32)
    scale, bias = loaded.model.get_parameter("classifier.weight"), loaded.model.get_parameter("classifier.bias")
    spread = outputs.std(0)
    bias.copy_((bias - outputs.mean(0)) / spread)
    scale.div_(spread[:, None])
    return loaded


def saved(folder: Path, model: transformers.PreTrainedModel, **specials: str) -> LoadedModel:
    loaded = load(str(tiny_models.save(model, folder / "model", tokenizer=False)))
    return replace(loaded, tokenizer=word_tokenizer(**specials))


def raw_logits(loaded: LoadedModel, *text: str) -> NDArray[np.float64]:
    """Return the model's own logits (classes,) for one text or pair."""
    assert loaded.tokenizer is not None
    with torch.no_grad():
        logits = loaded.model(**loaded.tokenizer(*text, return_tensors="pt")).logits[0]
    return logits.double().numpy()


def outputs_of(loaded: LoadedModel, texts: Sequence[str]) -> NDArray[np.int64]:
    """Return the index of the model's likeliest output for each text."""
    return np.array([int(raw_logits(loaded, text).argmax()) for text in texts])


def split_of(texts: Sequence[str], labels: Sequence[int], names: Sequence[str]) -> Dataset:
    split = Dataset.from_dict({"text": list(texts), "label": [int(label) for label in labels]})
    return split.cast_column("label", ClassLabel(names=list(names)))


def data_of(
    loaded: LoadedModel, names: Sequence[str], class_of: Callable[[int], int] = int, validation: bool = True, **options: Any
) -> TaskData:
    """Return texts whose right class is the one that `class_of` assigns to the model's likeliest output."""
    parts = {"test": TEXTS, "validation": MORE_TEXTS} if validation else {"test": TEXTS}
    splits = {
        name: split_of(texts, [class_of(output) for output in outputs_of(loaded, texts)], names)
        for name, texts in parts.items()
    }
    return TaskData(Task(name="made", family="head", data="made.csv", options=options), DatasetDict(splits), "0123456789ab")


def accuracy(loaded: LoadedModel, data: TaskData) -> float:
    evaluator = Head(loaded, data)
    reference = evaluator.reference()
    return float(evaluator.compare(reference, reference).original.value)


@pytest.fixture(scope="module")
def moods(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A classifier of moods that gives both answers."""
    loaded = classifier(tmp_path_factory.mktemp("moods"), MOOD_LABELS)
    assert 0.3 < outputs_of(loaded, TEXTS).mean() < 0.7
    return loaded


def relabelled(loaded: LoadedModel, *labels: str) -> LoadedModel:
    """Return the model with these names of its classes in its config."""
    loaded.model.config.id2label = dict(enumerate(labels))
    return loaded


@pytest.fixture(autouse=True)
def names_as_before(moods: LoadedModel) -> None:
    relabelled(moods, *MOOD_LABELS.values())


# ---------------------------------------------------------------------------------------------------------- the answers


def test_probabilities_are_the_softmax_of_the_heads_own_logits(moods: LoadedModel) -> None:
    given = Head(moods, data_of(moods, MOODS)).reference()["probabilities"]
    logits = np.array([raw_logits(moods, text) for text in TEXTS])
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(given, expected, atol=1e-5)
    assert expected.std(0).min() > 0.05


def test_a_pair_is_read_as_one_input(moods: LoadedModel) -> None:
    first, second = ([" ".join(text.split()[:6]) for text in texts[:20]] for texts in (TEXTS, MORE_TEXTS))  # none is cut
    split = Dataset.from_dict({"sentence1": first, "sentence2": second, "label": [0, 1] * 10})
    split = split.cast_column("label", ClassLabel(names=list(MOODS)))
    evaluator = Head(
        moods, TaskData(Task(name="made", family="head", data="made.csv"), DatasetDict({"test": split}), "0123456789ab")
    )
    reference = evaluator.reference()
    logits = np.array([raw_logits(moods, *pair) for pair in zip(first, second, strict=True)])
    np.testing.assert_allclose(reference["probabilities"], np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=1e-5)
    flipped = {"probabilities": reference["probabilities"][:, ::-1]}
    changes = evaluator.compare(reference, flipped).flips
    assert changes.right_to_wrong[0].text.count(" | ") == 1


def test_progress_rises_to_one_over_both_splits(moods: LoadedModel) -> None:
    seen: list[float] = []
    evaluator = Head(moods, data_of(moods, MOODS))
    reference = evaluator.reference(seen.append)
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1.0) and len(seen) == 7  # 4 batches of 120 texts, 3 of 90
    seen.clear()
    evaluator.predict(reference, seen.append)
    assert seen[-1] == 1.0 and len(seen) == 3


@pytest.mark.parametrize("padded_by_config", [False, True])
@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_a_decoder_answers_at_the_last_token_of_each_text(tmp_path: Path, name: str, padded_by_config: bool) -> None:
    sizes = tiny_models.LLAMA_SIZES
    if name == "GPT2":
        sizes = {"vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 19, "eos_token_id": 4}
    config = getattr(transformers, f"{name}Config")(**sizes, num_labels=2, pad_token_id=4 if padded_by_config else None)
    model = tiny_models._built(f"{name}ForSequenceClassification", config)
    loaded = saved(tmp_path, model, eos_token="<end>")  # noqa: S106  # also used for padding
    loaded.tokenizer.model_input_names = ["input_ids", "attention_mask"]  # type: ignore[union-attr]
    given = Head(loaded, data_of(loaded, ("0", "1"), validation=False)).reference()["probabilities"]
    logits = np.array([raw_logits(loaded, text) for text in TEXTS])
    np.testing.assert_allclose(given, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=1e-4)


# -------------------------------------------------------------------------------------------------------- label orders


@pytest.mark.parametrize("theirs", [("NEGATIVE", "POSITIVE"), ("neg", "Pos"), ("negative", "positive")])
def test_names_match_whatever_their_case_and_form(moods: LoadedModel, theirs: tuple[str, str]) -> None:
    data = data_of(moods, MOODS)
    assert accuracy(relabelled(moods, *theirs), data) == 1.0
    assert Head(moods, data).order.known_by == "name"


def test_names_in_another_order_are_put_right(moods: LoadedModel) -> None:
    """The model's output 0 means positive, and its config says so."""
    data = data_of(moods, MOODS, class_of=lambda output: 1 - output)
    assert accuracy(relabelled(moods, "POSITIVE", "NEGATIVE"), data) == 1.0
    result = Head(moods, data)
    assert result.order.outputs == (1, 0)


def test_three_classes_in_another_order_are_put_right(tmp_path: Path) -> None:
    """A cyclic order differs from its inverse, so an inverted map would be noticed."""
    loaded = classifier(tmp_path, {0: "contradiction", 1: "entailment", 2: "NEUTRAL"})
    names = ("entailment", "neutral", "contradiction")
    data = data_of(loaded, names, class_of=lambda output: (2, 0, 1)[output])
    assert Head(loaded, data).order.outputs == (1, 2, 0)
    assert accuracy(loaded, data) == 1.0


def test_names_without_meaning_are_taken_as_they_stand_and_checked(moods: LoadedModel) -> None:
    data = data_of(moods, MOODS)
    evaluator = Head(relabelled(moods, "LABEL_0", "LABEL_1"), data)
    reference = evaluator.reference()
    result = evaluator.compare(reference, reference)
    assert result.original.value == 1.0
    assert result.labels == {"known_by": "index", "checked": True}


@pytest.mark.parametrize("theirs", [("LABEL_0", "LABEL_1"), ("NEGATIVE", "POSITIVE")])
def test_a_label_map_in_the_wrong_order_is_refused(moods: LoadedModel, theirs: tuple[str, str]) -> None:
    """The model's output 0 means positive, but its config calls it negative, or does not name it."""
    data = data_of(moods, MOODS, class_of=lambda output: 1 - output)
    with pytest.raises(TaskError, match=r"0% of 120 .* 100% correctly with .*negative should be positive.*id2label.*labels"):
        Head(relabelled(moods, *theirs), data).reference()


def test_a_wrong_order_of_three_classes_names_what_each_should_be(tmp_path: Path) -> None:
    loaded = classifier(tmp_path, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
    names = ("contradiction", "entailment", "neutral")
    data = data_of(loaded, names, class_of=lambda output: (1, 2, 0)[output])
    meant = "contradiction should be entailment; entailment should be neutral; neutral should be contradiction"
    with pytest.raises(TaskError, match=meant):
        Head(loaded, data).reference()


def test_the_option_labels_puts_a_wrong_order_right(moods: LoadedModel) -> None:
    options = {"labels": ["positive", "negative"]}
    data = data_of(moods, MOODS, class_of=lambda output: 1 - output, **options)
    evaluator = Head(relabelled(moods, "LABEL_0", "LABEL_1"), data)
    reference = evaluator.reference()
    result = evaluator.compare(reference, reference)
    assert result.original.value == 1.0
    assert result.labels == {"known_by": "option", "checked": False}


def test_the_option_labels_follows_the_order_of_the_outputs(tmp_path: Path) -> None:
    loaded = classifier(tmp_path, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
    names = ("contradiction", "entailment", "neutral")
    data = data_of(loaded, names, lambda output: (1, 2, 0)[output], labels=["entailment", "neutral", "contradiction"])
    assert accuracy(loaded, data) == 1.0


@pytest.mark.parametrize("theirs", [("LABEL_0", "LABEL_1"), ("NEGATIVE", "POSITIVE")])
def test_without_a_validation_split_a_reversed_order_is_noted_beside_the_score(
    moods: LoadedModel, theirs: tuple[str, str]
) -> None:
    """Nothing is chosen on the test split, so the score is that of the labels in their current order."""
    data = data_of(moods, MOODS, class_of=lambda output: 1 - output, validation=False)
    evaluator = Head(relabelled(moods, *theirs), data)
    reference = evaluator.reference()
    result = evaluator.compare(reference, reference)
    assert result.original.value == 0.0
    assert result.labels["checked"] is False
    (note,) = result.note
    assert "order would give an accuracy of 1.000" in note and "0.000 in the current order" in note and "labels" in note
    assert notes("made", result) == [f"Made: {note}"]
    assert of_the_original(moods, data).note == (note,)


def of_the_original(loaded: LoadedModel, data: TaskData) -> OriginalScore:
    """Return the score of the original alone, as on the command line."""
    opened = OpenTask(data.task, loaded, data, None)
    return opened.original()


def test_the_note_is_about_the_original_and_its_best_order_not_about_a_bad_model(moods: LoadedModel) -> None:
    """With its labels reversed, the original is right on 78.7 % of the examples, as for a real table."""
    wrong = round(0.213 * len(TEXTS))
    truth = [1 - output for output in outputs_of(moods, TEXTS)]
    truth[:wrong] = [1 - label for label in truth[:wrong]]
    splits = DatasetDict({"test": split_of(TEXTS, truth, MOODS)})
    evaluator = Head(
        relabelled(moods, "LABEL_0", "LABEL_1"),
        TaskData(Task(name="made", family="head", data="made.csv"), splits, "0123456789ab"),
    )
    reference = evaluator.reference()
    right = 1 - wrong / len(TEXTS)
    compared = evaluator.compare(reference, {"probabilities": reference["probabilities"][:, ::-1]})
    assert f"would give an accuracy of {right:.3f}" in compared.note[0]
    assert compared.compressed.value == pytest.approx(right)  # the note is not about the compressed model


@pytest.mark.parametrize("settled", ["right order", "option", "validation"])
def test_an_order_that_is_right_or_settled_has_no_note(moods: LoadedModel, settled: str) -> None:
    options = {"labels": list(MOODS)} if settled == "option" else {}
    backwards = settled == "option"
    data = data_of(
        moods, MOODS, (lambda output: 1 - output) if backwards else int, validation=settled == "validation", **options
    )
    evaluator = Head(relabelled(moods, "LABEL_0", "LABEL_1"), data)
    reference = evaluator.reference()
    result = evaluator.compare(reference, reference)
    assert "note" not in result.to_dict()
    assert bool(notes("made", result)) is backwards  # an accuracy of 0 is still below the baseline


def test_another_order_of_three_classes_is_noted_with_what_should_be_what(tmp_path: Path) -> None:
    loaded = classifier(tmp_path, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
    names = ("contradiction", "entailment", "neutral")
    data = data_of(loaded, names, class_of=lambda output: (1, 2, 0)[output], validation=False)
    evaluator = Head(loaded, data)
    reference = evaluator.reference()
    note = evaluator.compare(reference, reference).note[0]
    assert "contradiction should be entailment; entailment should be neutral; neutral should be contradiction" in note


def test_the_order_is_judged_on_the_original_alone(moods: LoadedModel) -> None:
    """If a compressed model gives the opposite answers, the model is bad and the labels are right."""
    evaluator = Head(moods, data_of(moods, MOODS))
    reference = evaluator.reference()
    parameters = [moods.model.get_parameter(f"classifier.{name}") for name in ("weight", "bias")]
    for parameter in parameters:
        parameter.neg_()
    try:
        result = evaluator.compare(reference, evaluator.predict(reference))
    finally:
        for parameter in parameters:
            parameter.neg_()
    assert result.original.value == 1.0 and result.compressed.value == 0.0


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_a_head_that_guesses_is_hardly_ever_refused(classes: int) -> None:
    generator = np.random.default_rng(classes)
    names = [f"class {index}" for index in range(classes)]
    refused = 0
    for _ in range(1000):
        truth, said = generator.integers(0, classes, (2, 150))
        try:
            check_order("m", truth, said, names)
        except TaskError:
            refused += 1
    assert refused <= 4


@pytest.mark.parametrize("most", ["always the rare class", "always the common class"])
def test_a_head_that_always_says_the_same_is_not_refused(most: str) -> None:
    truth = np.array([0] * 120 + [1] * 80)
    check_order("m", truth, np.full(200, int("rare" in most)), MOODS)


@pytest.mark.parametrize(("right", "fine"), [(0.9, True), (0.6, True), (0.5, True), (0.3, False), (0.1, False)])
def test_the_order_is_refused_where_it_is_clearly_worse_than_the_other(right: float, fine: bool) -> None:
    truth = np.arange(200) % 2
    said = np.where(np.arange(200) < 200 * right, truth, 1 - truth)
    if fine:
        check_order("m", truth, said, MOODS)
    else:
        with pytest.raises(TaskError, match="order looks wrong"):
            check_order("m", truth, said, MOODS)


def test_two_of_five_classes_in_each_others_place_are_noticed() -> None:
    """They are noticed although the accuracy is far above that of always answering with the largest class."""
    truth = np.arange(300) % 5
    said = np.array([0, 1, 3, 2, 4])[truth]
    with pytest.raises(TaskError, match=r"60% .* 100% .*\(2 should be 3; 3 should be 2\)"):
        check_order("m", truth, said, list("01234"))


def test_a_large_validation_split_is_sampled_from_end_to_end(moods: LoadedModel) -> None:
    count = 2 * CHECKED_EXAMPLES
    splits = {
        "test": split_of(TEXTS[:4], [0, 1, 0, 1], MOODS),
        "validation": split_of(["w5 w6"] * count, [0] * (count // 2) + [1] * (count // 2), MOODS),
    }
    evaluator = Head(moods, TaskData(Task(name="made", family="head", data="made.csv"), DatasetDict(splits), "0123456789ab"))
    labels = np.array(splits["validation"]["label"])[evaluator._checked]
    assert len(labels) == CHECKED_EXAMPLES and sum(labels) == CHECKED_EXAMPLES // 2


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_wrong_order_of_many_classes_names_a_handful() -> None:
    truth = np.arange(900) % 45
    with pytest.raises(TaskError, match="order looks wrong") as error:
        check_order("m", truth, (truth + 1) % 45, [f"city {index}" for index in range(45)])
    assert "and 40 more" in str(error.value) and len(str(error.value)) < 600


def test_many_classes_are_refused_with_a_handful_of_names(moods: LoadedModel) -> None:
    with pytest.raises(TaskError, match=r"has 2 classes, but the data have 45: .* and 40 more") as error:
        Head(moods, data_of(moods, [f"city {index:02}" for index in range(45)]))
    assert str(error.value).count("city") == 5


def test_another_number_of_classes_is_refused(moods: LoadedModel) -> None:
    with pytest.raises(TaskError, match="has 2 classes, but the data have 3: a, b, c"):
        Head(moods, data_of(moods, ("a", "b", "c")))


def test_names_that_do_not_belong_together_are_refused(moods: LoadedModel) -> None:
    with pytest.raises(TaskError, match=r"NEGATIVE, POSITIVE.*sport, weather.*labels"):
        Head(moods, data_of(moods, ("sport", "weather")))


def test_labels_that_are_not_those_of_the_data_are_refused(moods: LoadedModel) -> None:
    with pytest.raises(TaskError, match="good, bad, but the classes of the data are negative, positive"):
        Head(moods, data_of(moods, MOODS, labels=["good", "bad"]))


def one_output(folder: Path) -> LoadedModel:
    """Return a tiny BERT whose head has one output."""
    config = transformers.BertConfig(**tiny_models.BERT_SIZES, type_vocab_size=3, num_labels=1)
    return saved(folder, tiny_models._built("BertForSequenceClassification", config))


def test_a_head_for_regression_is_sent_to_the_family_for_it(tmp_path: Path) -> None:
    loaded = one_output(tmp_path)
    with pytest.raises(TaskError, match="family to head-regression"):
        Head(loaded, data_of(loaded, MOODS))


def scored_pairs(folder: Path, loaded: LoadedModel, target: str) -> tuple[str, NDArray[np.float64], NDArray[np.float64]]:
    """Write pairs whose scores correlate with the head's outputs, and return the file, the scores and the outputs."""
    first, second = ([" ".join(text.split()[:6]) for text in texts[:60]] for texts in (TEXTS, MORE_TEXTS))
    given = np.array([raw_logits(loaded, *pair)[0] for pair in zip(first, second, strict=True)])
    scores = np.round(given + np.random.default_rng(0).normal(0, given.std(), 60), 3)
    pd.DataFrame({"sentence1": first, "sentence2": second, target: scores}).to_csv(folder / "pairs.csv", index=False)
    return str(folder / "pairs.csv"), scores, given


@pytest.mark.parametrize(
    ("family", "target"), [("head", "score"), ("head-regression", "score"), ("head", "label"), ("head", "near")]
)
def test_a_head_with_one_output_is_scored_by_the_order_of_its_numbers(tmp_path: Path, family: str, target: str) -> None:
    loaded = one_output(tmp_path)
    path, scores, given = scored_pairs(tmp_path, loaded, target)
    opened = open_task(
        Task(name="pairs", family=family, data=path, also=("pearson",) if family == "head-regression" else ()), loaded
    )
    score = opened.original()
    assert (score.metric, score.family, score.n) == ("spearman", "head-regression", 60)
    assert score.value == pytest.approx(scipy.stats.spearmanr(given, scores).statistic, abs=1e-4) and score.value > 0.4
    if family == "head-regression":
        assert score.also["pearson"].value == pytest.approx(scipy.stats.pearsonr(given, scores).statistic, abs=1e-4)
    assert opened.compare().unchanged is True
    loaded.model.get_parameter("classifier.weight").neg_()
    transposed = opened.compare()
    assert transposed.compressed.value == pytest.approx(-score.value, abs=1e-3)


def test_a_head_of_classes_does_no_regression(moods: LoadedModel, tmp_path: Path) -> None:
    path, _, _ = scored_pairs(tmp_path, moods, "score")
    with pytest.raises(TaskError, match=r"2 classes \(NEGATIVE, POSITIVE\).*family to head"):
        open_task(Task(name="pairs", family="head-regression", data=path), moods)


@pytest.mark.parametrize("family", ["head", "head-regression"])
def test_a_head_with_several_labels_a_text_is_refused_and_no_softmax_is_applied(tmp_path: Path, family: str) -> None:
    loaded = classifier(tmp_path, MOOD_LABELS)
    loaded.model.config.problem_type = "multi_label_classification"
    table = {"text": TEXTS, "label": ["negative", "positive"] * 45, "score": [index / 7 for index in range(90)]}
    pd.DataFrame(table).to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(
        TaskError, match=r"several labels to one text \(problem_type multi_label_classification\).*family to probe"
    ):
        open_task(Task(name="mine", family=family, data=str(tmp_path / "mine.csv")), loaded)


def test_a_head_that_is_not_finite_in_a_regression_is_refused(tmp_path: Path) -> None:
    loaded = one_output(tmp_path)
    path, _, _ = scored_pairs(tmp_path, loaded, "score")
    opened = open_task(Task(name="pairs", family="head", data=path), loaded)
    loaded.model.get_parameter("classifier.bias")[0] = float("nan")
    with pytest.raises(TaskError, match="not finite"):
        opened.prepare()


def test_a_model_without_such_a_head_is_refused(tmp_path: Path) -> None:
    loaded = saved(tmp_path, tiny_models.shared("bert_base"))
    with pytest.raises(TaskError, match="ForSequenceClassification"):
        open_task(Task(name="made", family="head", data="made.csv"), loaded)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    loaded = classifier(tmp_path, MOOD_LABELS)
    evaluator = Head(loaded, data_of(loaded, MOODS))
    reference = evaluator.reference()
    loaded.model.get_parameter("classifier.bias")[0] = value
    with pytest.raises(TaskError, match="not finite"):
        evaluator.predict(reference)
    with pytest.raises(TaskError, match="not finite"):
        evaluator.reference()


# ---------------------------------------------------------------------------------------------------------- comparison


def test_an_unchanged_model_differs_by_nothing(moods: LoadedModel) -> None:
    evaluator = Head(moods, data_of(moods, MOODS))
    reference = evaluator.reference()
    result = evaluator.compare(reference, evaluator.predict(reference))
    assert result.unchanged is True and result.collapsed is False
    assert result.paired.difference == 0.0 and result.paired.agreement == 1.0
    assert result.flips.to_dict() == {"right_to_wrong": [], "wrong_to_right": []}
    document = result.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_a_ruined_model_says_one_class_for_all(tmp_path: Path) -> None:
    loaded = classifier(tmp_path, MOOD_LABELS)
    data = data_of(loaded, MOODS)
    evaluator = Head(loaded, data)
    reference = evaluator.reference()
    for parameter in loaded.model.parameters():
        parameter.zero_()
    result = evaluator.compare(reference, evaluator.predict(reference))
    negative = float(np.mean(np.array(data.splits["test"]["label"]) == 0))
    assert result.collapsed is True
    assert result.compressed.value == pytest.approx(negative)
    assert {flip.label for flip in result.flips.right_to_wrong} == {"positive"}
