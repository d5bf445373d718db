"""Left-to-right perplexity: losses and windows compared with the procedure of transformers, and rejected inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers

from offcomp.errors import TaskError
from offcomp.evaluation.causal_lm import windows
from offcomp.models.loading import load
from tests import tiny_models
from tests.language_models import CAUSAL, LONGEST, START, causal, ids_of, opened, own_loss, syllable_tokenizer, texts_of


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
    """The expected loss follows https://huggingface.co/docs/transformers/perplexity, but weights windows by their targets."""
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
    assert (row.positions, row.targets) == (list(range(6)), ids_of(loaded, text))


def test_a_context_longer_than_the_model_reads_is_cut_and_said(tmp_path: Path) -> None:
    evaluator = causal(opened(tmp_path, "gpt2"), context=1024, stride=512)
    assert evaluator.settings == {"context": LONGEST, "stride": LONGEST}
    assert max(len(row.ids) for row in evaluator.rows) == LONGEST


# -------------------------------------------------------------------------------------------------------------- refusals


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
    with pytest.raises(TaskError, match="attends to the tokens that it must predict"):
        causal(loaded[False])


def test_a_single_token_cannot_be_told_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no tokens to predict"):
        causal(opened(tmp_path, "gpt2"), ["ba", ""])


@pytest.mark.parametrize("options", [{"stride": 0}, {"context": 8, "stride": 9}, {"context": 1, "stride": 1}])
def test_windows_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(TaskError, match="stride"):
        causal(opened(tmp_path, "gpt2"), **options)
