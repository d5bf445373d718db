"""The bundled prose has enough words, many styles and tidy text, and no passage copies or paraphrases another."""

from __future__ import annotations

import string
from pathlib import Path

import pandas as pd
import pytest

from tests.text_checks import (
    compared_before,
    grams,
    meaning_similarity,
    most_alike,
    most_common_opening,
    most_common_phrase,
    wording_similarity,
    words,
)

PATH = Path(__file__).parents[3] / "assets" / "tasks" / "prose.csv"
CHARACTERS = frozenset(string.ascii_letters + string.digits + " .,;:!?'-\"()$")
LETTERS = ("letter", "business letter")  # letters end with a name


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return pd.read_csv(PATH, keep_default_na=False)


def test_the_columns_and_the_splits_are_the_documented_ones(data: pd.DataFrame) -> None:
    assert list(data.columns) == ["text", "style", "title", "split"]
    assert set(data["split"]) == {"validation", "test"}
    assert not data["title"].duplicated().any()


def test_there_are_enough_words_and_styles(data: pd.DataFrame) -> None:
    length = data["text"].str.split().str.len()
    assert length.sum() >= 20_000
    assert length[data["split"] == "test"].sum() >= 16_000
    assert data["style"].nunique() >= 20


def test_every_style_is_in_both_splits_and_a_fifth_is_validation(data: pd.DataFrame) -> None:
    counts = pd.crosstab(data["style"], data["split"])
    assert (counts > 0).all(axis=None), counts
    assert 0.15 <= (data["split"] == "validation").mean() <= 0.25


def test_passages_have_100_to_300_words(data: pd.DataFrame) -> None:
    length = data["text"].str.split().str.len()
    assert length.between(100, 300).all(), data["title"][~length.between(100, 300)].tolist()


def test_the_text_is_plain_ascii_and_tidy(data: pd.DataFrame) -> None:
    for row in data.itertuples():
        assert set(row.text) <= CHARACTERS, (row.title, set(row.text) - CHARACTERS)
        assert row.text == " ".join(row.text.split()), row.title
        assert row.text.count('"') % 2 == 0, row.title
        assert row.text[-1] in '.!?"' or row.style in LETTERS, (row.title, row.text[-20:])


def test_no_two_passages_open_alike_or_share_a_phrase(data: pd.DataFrame) -> None:
    opening, phrase = most_common_opening(data["text"].tolist(), 4), most_common_phrase(data["text"].tolist(), 6)
    assert opening[1] == 1, opening
    assert phrase[1] <= 2, phrase


def test_no_run_of_eight_words_is_in_both_splits(data: pd.DataFrame) -> None:
    seen = {split: {gram for text in part["text"] for gram in grams(text, 8)} for split, part in data.groupby("split")}
    assert not seen["validation"] & seen["test"]


def test_no_passage_copies_another(data: pd.DataFrame) -> None:
    worst = most_alike(data["text"].tolist(), wording_similarity)
    assert worst[0] < 0.1, worst


def test_no_passage_paraphrases_another(data: pd.DataFrame) -> None:
    if not compared_before(PATH, "10e19c8790bab251177d7ef669590d732b5dab7c9bb29d04809675f3c32de536"):
        worst = most_alike(data["text"].tolist(), meaning_similarity)
        assert worst[0] < 0.9, worst


def test_the_vocabulary_is_wide(data: pd.DataFrame) -> None:
    """Templated prose repeats itself; these passages use thousands of different words, most of them only a few times."""
    assert len({word for text in data["text"] for word in words(text)}) >= 5_000
