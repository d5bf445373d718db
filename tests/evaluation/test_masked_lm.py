"""Masked words: losses compared with those of transformers, rows of tokens, the choice of masked tokens, rejected inputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from offcomp.errors import TaskError
from offcomp.evaluation.masked_lm import MaskedLM, chosen_tokens, row_bounds
from offcomp.models.loading import LoadedModel, load
from tests import tiny_models
from tests.language_models import (
    END,
    LONGEST,
    MASK,
    MASKED,
    SPECIALS,
    START,
    SYLLABLES,
    TEXTS,
    UNKNOWN,
    bert,
    by_row,
    ids_of,
    masked,
    opened,
    own_loss,
    syllable_tokenizer,
    texts_of,
)

__all__ = ["bert"]  # a fixture


@pytest.mark.parametrize("name", MASKED)
def test_the_loss_of_hidden_tokens_is_that_of_transformers(tmp_path: Path, name: str) -> None:
    loaded = opened(tmp_path, name)
    evaluator = masked(loaded, fraction=0.4)
    losses = evaluator.reference()["loss"]
    assert losses.std() > 0.1
    for row, part in zip(evaluator.rows, by_row(evaluator, losses), strict=True):
        labels = [-100] * len(row.ids)
        for place, target in zip(row.positions, row.targets, strict=True):
            labels[place] = target
        assert part.mean() == pytest.approx(own_loss(loaded, row.ids, labels), abs=1e-4)


# -------------------------------------------------------------------------------------------------------- rows and masks


def restored(evaluator: MaskedLM) -> dict[int, list[int]]:
    """Return the tokens of each text, by its index, joined from its rows with the masked tokens filled in."""
    tokens: dict[int, list[int]] = {}
    for row in evaluator.rows:
        filled = list(row.ids)
        for place, target in zip(row.positions, row.targets, strict=True):
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
        first = row.targets[0] if row.positions[0] == 1 else row.ids[1]
        assert first not in goes_on


def test_equal_seeds_hide_the_same_and_others_do_not(bert: LoadedModel) -> None:
    first, again, other = (masked(bert, seed=seed).rows for seed in (3, 3, 4))
    assert first == again
    assert [row.text for row in first] == [row.text for row in other]
    assert sum(row.positions != changed.positions for row, changed in zip(first, other, strict=True)) > len(first) / 2
    state = torch.random.get_rng_state()
    masked(bert)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("fraction", [0.15, 0.5, 1.0])
def test_the_fraction_of_hidden_tokens_is_kept(bert: LoadedModel, fraction: float) -> None:
    for row in masked(bert, fraction=fraction).rows:
        assert len(row.positions) == max(1, round(fraction * (len(row.ids) - 2)))


def test_every_place_can_be_hidden(bert: LoadedModel) -> None:
    text = texts_of(12)
    counts = Counter(place for seed in range(150) for row in masked(bert, text, seed=seed).rows for place in row.positions)
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
        tokens = dict(zip(whole.positions, whole.targets, strict=True))
        filled = bert.tokenizer.convert_ids_to_tokens([tokens.get(place, token) for place, token in enumerate(whole.ids)])
        for place in range(2, len(filled) - 1):
            if filled[place].startswith("##"):
                assert (place in whole.positions) == (place - 1 in whole.positions)
                split_without += (place in single.positions) != (place - 1 in single.positions)
        wanted = max(1, round(0.3 * (len(whole.ids) - 2)))
        assert wanted <= len(whole.positions) < wanted + 3
    assert split_without > 10  # masks of single tokens split words, so the check above can fail


def test_cutting_between_words_by_hand() -> None:
    assert list(row_bounds([0, 0, 1, 2, 2, 2, 3], 4)) == [(0, 3), (3, 7)]
    assert list(row_bounds([0, 0, 0, 0, 0], 2)) == [(0, 2), (2, 4), (4, 5)]  # a word longer than a row
    assert list(row_bounds([0, 1, 2], 5)) == [(0, 3)]
    assert list(row_bounds([], 5)) == []


def test_units_are_taken_until_the_fraction_is_reached() -> None:
    hidden = chosen_tokens([0, 0, 0, 1, 1, 1], 0.5, np.random.default_rng(0))
    assert hidden in ([0, 1, 2], [3, 4, 5])
    assert chosen_tokens([], 0.5, np.random.default_rng(0)) == []


def test_rows_are_as_long_as_asked_and_as_the_model_reads(bert: LoadedModel) -> None:
    assert max(len(row.ids) for row in masked(bert, tokens=9).rows) <= 9
    assert masked(bert, tokens=9).settings["tokens"] == 9
    assert masked(bert, tokens=512).settings["tokens"] == LONGEST


# -------------------------------------------------------------------------------------------------------------- refusals


def test_a_tokenizer_without_a_mask_token_is_refused(bert: LoadedModel) -> None:
    with pytest.raises(TaskError, match="no mask token"):
        masked(replace(bert, tokenizer=syllable_tokenizer(True, unk_token="[UNK]")))  # noqa: S106


def test_a_head_that_tells_something_else_is_refused(tmp_path: Path) -> None:
    """ELECTRA's pre-training head predicts for each token whether it was replaced."""
    config = transformers.ElectraConfig(**tiny_models.BERT_SIZES, embedding_size=14, type_vocab_size=3)
    model = transformers.ElectraForPreTraining(config)
    config.architectures = ["ElectraForPreTraining"]
    loaded = load(str(tiny_models.save(model.eval(), tmp_path / "electra", tokenizer=False)))
    with pytest.raises(TaskError, match="no head that predicts tokens"):
        masked(replace(loaded, tokenizer=syllable_tokenizer(True, **SPECIALS)))


@pytest.mark.parametrize("options", [{"fraction": 0.0}, {"fraction": 1.5}, {"tokens": 2}])
def test_masks_that_cannot_be_are_refused(bert: LoadedModel, options: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match=r"fraction|too short"):
        masked(bert, **options)


def test_a_tokenizer_that_does_not_split_words_hides_no_whole_words(bert: LoadedModel) -> None:
    tokenizer = syllable_tokenizer(True, **SPECIALS)
    tokenizer.backend_tokenizer.pre_tokenizer = None
    tokenizer.backend_tokenizer.model.max_input_chars_per_word = 10**6
    whole = replace(bert, tokenizer=tokenizer)
    with pytest.raises(TaskError, match="where words begin"):
        masked(whole, ["ba ba ba"], whole_words=True)
