"""Perplexity of masked and of left-to-right models, against transformers' own loss and against what must hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from offcomp.errors import TaskError
from offcomp.evaluation import token_losses
from offcomp.evaluation.base import TaskData
from offcomp.evaluation.causal_lm import CausalLM, windows
from offcomp.evaluation.masked_lm import MaskedLM, choose, cut
from offcomp.models.loading import LoadedModel, load
from offcomp.tasks import Task
from tests import tiny_models

MASKED = ("bert", "roberta", "albert", "electra", "mpnet")
CAUSAL = ("gpt2", "opt", "llama", "mistral", "qwen2")
LONGEST = tiny_models.POSITIONS - 2  # what the tiny models read at once
SYLLABLES = [first + second for first in "bdfgklm" for second in "aeio"][:27]
PAD, UNKNOWN, START, END, MASK = range(5)
SPECIALS = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def syllable_tokenizer(framed: bool, **specials: str) -> transformers.PreTrainedTokenizerFast:
    """Words of syllables, one token each; `##` before those that go on. Where `framed`, [CLS] and [SEP] stand round a text."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SYLLABLES, *(f"##{syllable}" for syllable in SYLLABLES), "."]
    assert len(names) <= tiny_models.VOCABULARY
    backend = Tokenizer(WordPiece({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = Whitespace()
    if framed:
        backend.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", START), ("[SEP]", END)]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", **specials)  # noqa: S106


def texts_of(*lengths: int) -> list[str]:
    """Texts of so many tokens: words of one to three syllables, drawn anew for each text."""
    generator = np.random.default_rng(5)
    texts = []
    for length in lengths:
        words, left = [], length
        while left:
            count = min(left, int(generator.integers(1, 4)))
            words.append("".join(generator.choice(SYLLABLES, count)))
            left -= count
        texts.append(" ".join(words))
    return texts


TEXTS = texts_of(5, 40, 11, 23, 2, 17, 9, 31, 14, 3, 26, 8)


def opened(folder: Path, name: str, framed: bool | None = None) -> LoadedModel:
    """A tiny model from a folder; a masked one has a tokenizer that frames texts and can mask."""
    loaded = load(str(tiny_models.save(tiny_models.shared(name), folder / name, tokenizer=False)))
    framed = name in MASKED if framed is None else framed
    specials = SPECIALS if name in MASKED else {"unk_token": "[UNK]"}
    tokenizer = syllable_tokenizer(framed, **specials)
    padding = loaded.model.config.pad_token_id
    if padding:  # RoBERTa's is 1, and its positions are counted by it
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    return replace(loaded, tokenizer=tokenizer)


def data_of(family: str, texts: Sequence[str] = TEXTS, validation: Sequence[str] | None = None, **options: Any) -> TaskData:
    """A task on these texts."""
    splits = {"test": Dataset.from_dict({"text": list(texts)})}
    if validation is not None:
        splits["validation"] = Dataset.from_dict({"text": list(validation)})
    task = Task("made", family, "made.csv", options=options)
    return TaskData(task, DatasetDict(splits), "0123456789ab")


def masked(loaded: LoadedModel, texts: Sequence[str] = TEXTS, **options: Any) -> MaskedLM:
    return MaskedLM(loaded, data_of("masked-lm", texts, **options))


def causal(loaded: LoadedModel, texts: Sequence[str] = TEXTS, **options: Any) -> CausalLM:
    return CausalLM(loaded, data_of("causal-lm", texts, **options))


def zeroed(loaded: LoadedModel) -> None:
    """All weights zero: every token is equally likely."""
    for parameter in loaded.model.parameters():
        parameter.zero_()


def ids_of(loaded: LoadedModel, text: str) -> list[int]:
    assert loaded.tokenizer is not None
    return list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])


def own_loss(loaded: LoadedModel, ids: list[int], labels: list[int]) -> float:
    """The mean loss that transformers gives for these labels, -100 where there is none."""
    with torch.no_grad():
        output = loaded.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
    if output.loss is not None:
        return float(output.loss)
    return float(torch.nn.functional.cross_entropy(output.prediction_logits[0], torch.tensor(labels)))  # ...ForPreTraining


def by_row(evaluator: MaskedLM | CausalLM, losses: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return np.split(losses, np.cumsum([len(row.places) for row in evaluator.rows])[:-1])


# ------------------------------------------------------------------------------------------------- the figures themselves


@pytest.mark.parametrize("name", MASKED)
def test_the_loss_of_hidden_tokens_is_that_of_transformers(tmp_path: Path, name: str) -> None:
    loaded = opened(tmp_path, name)
    evaluator = masked(loaded, fraction=0.4)
    losses = evaluator.reference()["loss"]
    assert losses.std() > 0.1
    for row, part in zip(evaluator.rows, by_row(evaluator, losses), strict=True):
        labels = [-100] * len(row.ids)
        for place, target in zip(row.places, row.targets, strict=True):
            labels[place] = target
        assert part.mean() == pytest.approx(own_loss(loaded, row.ids, labels), abs=1e-4)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_loss_of_a_text_in_one_window_is_that_of_transformers(tmp_path: Path, name: str) -> None:
    loaded, text = opened(tmp_path, name), texts_of(15)[0]
    evaluator = causal(loaded, [text], context=16, stride=4)
    ids = ids_of(loaded, text)
    losses = evaluator.reference()["loss"]
    assert len(losses) == 14
    assert losses.mean() == pytest.approx(own_loss(loaded, ids, ids), abs=1e-4)


@pytest.mark.parametrize(("context", "stride"), [(12, 5), (12, 1), (17, 16), (9, 9)])
def test_windows_are_those_of_the_procedure_of_transformers(tmp_path: Path, context: int, stride: int) -> None:
    """A plain transcription of https://huggingface.co/docs/transformers/perplexity, weighted by the tokens it asks for."""
    loaded, text = opened(tmp_path, "llama"), texts_of(50)[0]
    ids = ids_of(loaded, text)
    total, count, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        inputs, target_length = ids[begin:end], end - previous
        labels = [-100] * (len(inputs) - target_length) + inputs[len(inputs) - target_length :]
        asked = sum(label != -100 for label in labels[1:])
        if asked:
            total += asked * own_loss(loaded, inputs, labels)
            count += asked
        previous = end
        if end == len(ids):
            break
    losses = causal(loaded, [text], context=context, stride=stride).reference()["loss"]
    assert len(losses) == count
    assert losses.sum() == pytest.approx(total, abs=1e-2)


def test_equal_context_and_stride_give_disjoint_windows(tmp_path: Path) -> None:
    loaded, text = opened(tmp_path, "gpt2"), texts_of(30)[0]
    ids = ids_of(loaded, text)
    parts = [ids[start : start + 8] for start in range(0, 30, 8)]
    losses = causal(loaded, [text], context=8, stride=8).reference()["loss"]
    expected = sum(own_loss(loaded, part, part) * (len(part) - 1) for part in parts)
    assert len(losses) == 30 - len(parts)
    assert losses.sum() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 40])
@pytest.mark.parametrize(("context", "stride"), [(8, 3), (8, 7), (2, 1), (100, 1)])
def test_each_token_but_the_first_is_told_once_with_enough_before_it(length: int, context: int, stride: int) -> None:
    told: list[int] = []
    for start, end, first in windows(length, context, stride):
        assert end - start <= context
        told += range(first, end)
        assert all(target - start >= min(context - stride, target) for target in range(first, end))
    assert told == list(range(1, length))


def test_more_context_before_a_token_changes_its_loss(tmp_path: Path) -> None:
    loaded, text = opened(tmp_path, "llama"), texts_of(40)
    short = causal(loaded, text, context=4, stride=1).reference()["loss"]
    long = causal(loaded, text, context=16, stride=1).reference()["loss"]
    assert len(short) == len(long) == 39
    np.testing.assert_allclose(short[:3], long[:3], atol=1e-4)
    assert np.abs(short[4:] - long[4:]).max() > 0.01


def test_what_a_tokenizer_puts_before_a_text_is_read_but_not_asked_for(tmp_path: Path) -> None:
    loaded, text = opened(tmp_path, "llama", framed=True), texts_of(6)[0]
    (row,) = causal(loaded, [text]).rows
    assert row.ids == [START, *ids_of(loaded, text)]
    assert (row.places, row.targets) == (list(range(6)), ids_of(loaded, text))


@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(tmp_path: Path, name: str) -> None:
    loaded = opened(tmp_path, name)
    zeroed(loaded)
    evaluator = masked(loaded) if name in MASKED else causal(loaded, context=12, stride=6)
    losses = evaluator.reference()["loss"]
    assert exp(losses.mean()) == pytest.approx(tiny_models.VOCABULARY, rel=1e-5)


@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_padding_does_not_matter(tmp_path: Path, name: str) -> None:
    loaded = opened(tmp_path, name)
    evaluator: MaskedLM | CausalLM = masked(loaded, fraction=1.0) if name in MASKED else causal(loaded)
    together = evaluator.reference()["loss"]
    alone = [
        (masked(loaded, [text], fraction=1.0) if name in MASKED else causal(loaded, [text])).reference()["loss"]
        for text in TEXTS
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-4)


@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_the_head_gives_the_same_for_the_asked_places_alone(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = opened(tmp_path, name)
    make = masked if name in MASKED else causal
    widths: list[int] = []
    head = next(
        module
        for module in reversed(list(loaded.model.modules()))
        if isinstance(module, torch.nn.Linear) and module.out_features == tiny_models.VOCABULARY
    )
    evaluator = make(loaded)
    hook = head.register_forward_hook(lambda _module, inputs, _output: widths.append(inputs[0].shape[0] * inputs[0].shape[1]))
    fast = evaluator.reference()
    hook.remove()
    if name != "opt":  # whose head follows the decoder, past the base model
        assert sum(widths) == len(fast["loss"])
    monkeypatch.setattr(token_losses, "_can_gather", lambda *_: False)
    plain = make(loaded).reference()
    np.testing.assert_allclose(fast["loss"], plain["loss"], atol=1e-4)
    assert np.array_equal(fast["correct"], plain["correct"])


def test_small_batches_give_the_same_as_large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = opened(tmp_path, "llama")
    large = causal(loaded).reference()["loss"]
    monkeypatch.setattr(token_losses, "MAX_LOGITS", 1)
    evaluator = causal(loaded)
    seen: list[float] = []
    np.testing.assert_allclose(evaluator.reference(seen.append)["loss"], large, atol=1e-4)
    assert len(seen) == len(evaluator.rows) and seen == sorted(seen) and seen[-1] == 1.0


def test_a_token_counts_as_told_where_it_is_the_likeliest(tmp_path: Path) -> None:
    loaded = opened(tmp_path, "electra")
    zeroed(loaded)
    always = ids_of(loaded, TEXTS[1])[0]
    loaded.model.get_parameter("generator_lm_head.bias")[always] = 3.0
    evaluator = masked(loaded)
    answers = evaluator.reference()
    right = np.array([target == always for row in evaluator.rows for target in row.targets])
    assert right.any() and not right.all()
    assert np.array_equal(answers["correct"], right)
    sure = log(exp(3) + tiny_models.VOCABULARY - 1)
    np.testing.assert_allclose(answers["loss"], np.where(right, sure - 3, sure), rtol=1e-5)


# ------------------------------------------------------------------------------------------------------- rows and masks


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return opened(tmp_path_factory.mktemp("bert"), "bert")


def restored(evaluator: MaskedLM) -> dict[int, list[int]]:
    """Text -> its tokens, put together from its rows with the hidden tokens filled in."""
    tokens: dict[int, list[int]] = {}
    for row in evaluator.rows:
        filled = list(row.ids)
        for place, target in zip(row.places, row.targets, strict=True):
            assert filled[place] == MASK
            filled[place] = target
        assert (filled[0], filled[-1]) == (START, END) and len(filled) <= LONGEST
        tokens.setdefault(row.text, []).extend(filled[1:-1])
    return tokens


@pytest.mark.parametrize("whole_words", [False, True])
def test_rows_hold_every_text_once_and_no_word_in_two(bert: LoadedModel, whole_words: bool) -> None:
    evaluator = masked(bert, whole_words=whole_words, fraction=0.3)
    assert restored(evaluator) == {index: ids_of(bert, text) for index, text in enumerate(TEXTS)}
    goes_on = set(range(5 + len(SYLLABLES), 5 + 2 * len(SYLLABLES)))
    for row in evaluator.rows:
        first = row.targets[0] if row.places[0] == 1 else row.ids[1]
        assert first not in goes_on


def test_equal_seeds_hide_the_same_and_others_do_not(bert: LoadedModel) -> None:
    first, again, other = (masked(bert, seed=seed).rows for seed in (3, 3, 4))
    assert first == again
    assert [row.text for row in first] == [row.text for row in other]
    assert sum(row.places != changed.places for row, changed in zip(first, other, strict=True)) > len(first) / 2
    state = torch.random.get_rng_state()
    masked(bert)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("fraction", [0.15, 0.5, 1.0])
def test_the_fraction_of_hidden_tokens_is_kept(bert: LoadedModel, fraction: float) -> None:
    for row in masked(bert, fraction=fraction).rows:
        assert len(row.places) == max(1, round(fraction * (len(row.ids) - 2)))


def test_every_place_can_be_hidden(bert: LoadedModel) -> None:
    text = texts_of(12)
    counts = Counter(place for seed in range(150) for row in masked(bert, text, seed=seed).rows for place in row.places)
    assert sorted(counts) == list(range(1, 13))
    assert max(counts.values()) < 3 * min(counts.values())


def test_special_and_unknown_tokens_are_never_hidden(bert: LoadedModel) -> None:
    evaluator = masked(bert, ["ba xyz [SEP] dodo [MASK] . bebe"], fraction=1.0)
    (row,) = evaluator.rows
    assert not {UNKNOWN, START, END, MASK} & set(row.targets)
    assert row.ids.count(UNKNOWN) == 1 and len(row.targets) == 6


def test_whole_words_are_hidden_with_all_their_pieces(bert: LoadedModel) -> None:
    assert bert.tokenizer is not None
    evaluator = masked(bert, whole_words=True, fraction=0.3)
    split_without = 0
    for whole, single in zip(evaluator.rows, masked(bert, fraction=0.3).rows, strict=True):
        tokens = dict(zip(whole.places, whole.targets, strict=True))
        filled = bert.tokenizer.convert_ids_to_tokens([tokens.get(place, token) for place, token in enumerate(whole.ids)])
        for place in range(2, len(filled) - 1):
            if filled[place].startswith("##"):
                assert (place in whole.places) == (place - 1 in whole.places)
                split_without += (place in single.places) != (place - 1 in single.places)
        wanted = max(1, round(0.3 * (len(whole.ids) - 2)))
        assert wanted <= len(whole.places) < wanted + 3
    assert split_without > 10  # so single masks do split words, and the check above can fail


def test_cutting_between_words_by_hand() -> None:
    assert list(cut([0, 0, 1, 2, 2, 2, 3], 4)) == [(0, 3), (3, 7)]
    assert list(cut([0, 0, 0, 0, 0], 2)) == [(0, 2), (2, 4), (4, 5)]  # a word longer than a row
    assert list(cut([0, 1, 2], 5)) == [(0, 3)]
    assert list(cut([], 5)) == []


def test_units_are_taken_until_the_fraction_is_reached() -> None:
    hidden = choose([0, 0, 0, 1, 1, 1], 0.5, np.random.default_rng(0))
    assert hidden in ([0, 1, 2], [3, 4, 5])
    assert choose([], 0.5, np.random.default_rng(0)) == []


def test_rows_are_as_long_as_asked_and_as_the_model_reads(bert: LoadedModel) -> None:
    assert max(len(row.ids) for row in masked(bert, tokens=9).rows) <= 9
    assert masked(bert, tokens=9).settings["tokens"] == 9
    assert masked(bert, tokens=512).settings["tokens"] == LONGEST


# ------------------------------------------------------------------------------------------------------------- baseline


def test_the_unigram_baseline_by_hand() -> None:
    targets, counted = np.array([0, 2]), np.array([0, 0, 1, 0])
    assert token_losses.unigram_perplexity(targets, counted, 3) == pytest.approx(exp(-(log(4 / 7) + log(1 / 7)) / 2))


def test_the_baseline_is_counted_on_the_validation_texts_where_there_are_some(bert: LoadedModel) -> None:
    test, other = ["ba ba ba ba"], ["do do do do do do do do"]
    assert masked(bert, test).unigram == pytest.approx((4 + 61) / 5)
    assert MaskedLM(bert, data_of("masked-lm", test, validation=test)).unigram == pytest.approx((4 + 61) / 5)
    assert MaskedLM(bert, data_of("masked-lm", test, validation=other)).unigram == pytest.approx(8 + 61)


# ----------------------------------------------------------------------------------------------------------- comparison


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_an_unchanged_model_differs_by_nothing(tmp_path: Path, name: str) -> None:
    loaded = opened(tmp_path, name)
    evaluator = masked(loaded) if name == "bert" else causal(loaded)
    reference = evaluator.reference()
    result = evaluator.compare(reference, evaluator.predict(reference))
    assert result["unchanged"] is True
    assert result["paired"]["difference"] == 0.0 and result["paired"]["interval"] == [0.0, 0.0]
    assert result["original"] == result["compressed"]
    assert result["original"]["value"] == pytest.approx(exp(reference["loss"].mean()))
    assert result["metric"] == ("masked perplexity" if name == "bert" else "perplexity")
    assert result["direction"] == "lower"
    assert result["baseline"] == {"name": "unigram", "value": evaluator.unigram}
    assert result["protocol"] == evaluator.settings
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize("name", ["roberta", "llama"])
def test_a_ruined_model_ends_at_the_size_of_its_vocabulary(tmp_path: Path, name: str) -> None:
    loaded = opened(tmp_path, name)
    evaluator = masked(loaded) if name == "roberta" else causal(loaded)
    reference = evaluator.reference()
    zeroed(loaded)
    result = evaluator.compare(reference, evaluator.predict(reference))
    assert result["unchanged"] is False
    assert result["compressed"]["value"] == pytest.approx(tiny_models.VOCABULARY, rel=1e-4)
    assert result["original"]["value"] == pytest.approx(exp(reference["loss"].mean()))
    assert result["token_accuracy"]["original"] == pytest.approx(reference["correct"].mean())
    assert result["changes"]


def test_texts_are_the_independent_pieces_where_there_are_enough(bert: LoadedModel) -> None:
    evaluator = masked(bert)
    reference = evaluator.reference()
    changed = {"loss": reference["loss"] + np.arange(len(reference["loss"])), "correct": reference["correct"]}
    result = evaluator.compare(reference, changed)
    assert result["rows"] == len(TEXTS)
    last = result["changes"][0]  # the change grows from token to token
    assert last["text"] == TEXTS[-1]
    assert last["original"] == pytest.approx(by_row(evaluator, reference["loss"])[-1].mean())


def test_rows_are_the_independent_pieces_of_few_texts(bert: LoadedModel) -> None:
    evaluator = masked(bert, TEXTS[:2])
    reference = evaluator.reference()
    changed = {"loss": reference["loss"] + np.arange(len(reference["loss"])), "correct": reference["correct"]}
    result = evaluator.compare(reference, changed)
    assert result["rows"] == len(evaluator.rows) > 2
    assert "[MASK]" in result["changes"][0]["text"]


def test_texts_without_tokens_do_not_shift_the_others(bert: LoadedModel) -> None:
    evaluator, spaced = masked(bert), masked(bert, [part for text in TEXTS for part in ("", text)])
    reference = evaluator.reference()
    changed = {"loss": reference["loss"] + np.arange(len(reference["loss"])), "correct": reference["correct"]}
    result = evaluator.compare(reference, changed)
    other = spaced.compare(spaced.reference(), changed)
    assert [change["text"] for change in other["changes"]] == [change["text"] for change in result["changes"]]
    assert other["rows"] == result["rows"] == len(TEXTS)


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["roberta", "gpt2"])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, name: str, value: float) -> None:
    loaded = opened(tmp_path, name)
    evaluator = masked(loaded) if name == "roberta" else causal(loaded)
    reference = evaluator.reference()
    next(parameter for path, parameter in loaded.model.named_parameters() if path.endswith("bias"))[0] = value
    with pytest.raises(TaskError, match=f"{name}.* not finite"):
        evaluator.predict(reference)
    with pytest.raises(TaskError, match="not finite"):
        (masked(loaded) if name == "roberta" else causal(loaded)).reference()


def test_a_tokenizer_without_a_mask_token_is_refused(bert: LoadedModel) -> None:
    with pytest.raises(TaskError, match="no mask token"):
        masked(replace(bert, tokenizer=syllable_tokenizer(True, unk_token="[UNK]")))  # noqa: S106


def test_a_model_of_another_kind_is_refused(tmp_path: Path, bert: LoadedModel) -> None:
    with pytest.raises(TaskError, match="ForCausalLM"):
        causal(bert)
    with pytest.raises(TaskError, match="ForMaskedLM"):
        masked(opened(tmp_path, "llama"))


def test_a_head_that_tells_something_else_is_refused(tmp_path: Path) -> None:
    """ELECTRA's pre-training head says for each token whether it was replaced."""
    config = transformers.ElectraConfig(**tiny_models.BERT_SIZES, embedding_size=14, type_vocab_size=3)
    model = transformers.ElectraForPreTraining(config)
    config.architectures = ["ElectraForPreTraining"]
    loaded = load(str(tiny_models.save(model.eval(), tmp_path / "electra", tokenizer=False)))
    with pytest.raises(TaskError, match="head does not tell tokens"):
        masked(replace(loaded, tokenizer=syllable_tokenizer(True, **SPECIALS)))


def test_a_model_that_reads_what_it_is_to_tell_is_refused(tmp_path: Path) -> None:
    loaded = {}
    for decoder in (False, True):
        config = transformers.BertConfig(**tiny_models.BERT_SIZES, type_vocab_size=3, is_decoder=decoder)
        config.architectures = ["BertLMHeadModel"]
        model = transformers.BertLMHeadModel(config)
        model.load_state_dict(tiny_models.shared("bert").state_dict(), strict=False)
        folder = tiny_models.save(model.eval(), tmp_path / str(decoder), tokenizer=False)
        loaded[decoder] = replace(load(str(folder)), tokenizer=syllable_tokenizer(True, unk_token="[UNK]"))  # noqa: S106
    assert np.isfinite(causal(loaded[True]).reference()["loss"]).all()
    with pytest.raises(TaskError, match="reads the tokens that it is to tell"):
        causal(loaded[False])


def test_a_token_that_the_model_does_not_know_is_refused(bert: LoadedModel) -> None:
    tokenizer = syllable_tokenizer(True, **SPECIALS)
    tokenizer.add_tokens([f"extra{number}" for number in range(5)])
    with pytest.raises(TaskError, match=r"token number \d+.* 61 tokens"):
        masked(replace(bert, tokenizer=tokenizer), ["ba extra4 be"])


@pytest.mark.parametrize("texts", [["", " "], ["xyz"], []])
def test_texts_without_a_token_to_tell_are_refused(bert: LoadedModel, texts: list[str]) -> None:
    with pytest.raises(TaskError, match="no token to tell"):
        masked(bert, texts)


def test_a_single_token_cannot_be_told_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no token to tell"):
        causal(opened(tmp_path, "gpt2"), ["ba", ""])


@pytest.mark.parametrize("options", [{"fraction": 0.0}, {"fraction": 1.5}, {"tokens": 2}])
def test_masks_that_cannot_be_are_refused(bert: LoadedModel, options: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=r"fraction|room"):
        masked(bert, **options)


@pytest.mark.parametrize("options", [{"stride": 0}, {"context": 8, "stride": 9}, {"context": 1, "stride": 1}])
def test_windows_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(TaskError, match="stride"):
        causal(opened(tmp_path, "gpt2"), **options)


def test_a_context_longer_than_the_model_reads_is_cut_and_said(tmp_path: Path) -> None:
    evaluator = causal(opened(tmp_path, "gpt2"), context=1024, stride=512)
    assert evaluator.settings == {"context": LONGEST, "stride": LONGEST}
    assert max(len(row.ids) for row in evaluator.rows) == LONGEST


def test_a_tokenizer_that_does_not_split_words_hides_no_whole_words(bert: LoadedModel) -> None:
    tokenizer = syllable_tokenizer(True, **SPECIALS)
    tokenizer.backend_tokenizer.pre_tokenizer = None
    tokenizer.backend_tokenizer.model.max_input_chars_per_word = 10**6
    whole = replace(bert, tokenizer=tokenizer)
    with pytest.raises(TaskError, match="where words begin"):
        masked(whole, ["ba ba ba"], whole_words=True)
