"""The bundled sentences of each task are numerous, balanced and varied, and do not leak between splits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from tests.text_checks import (
    compared_before,
    meaning_similarity,
    most_alike,
    most_common_opening,
    most_common_phrase,
    repeated,
    spelling_similarity,
    untidy,
    wording_similarity,
)

if TYPE_CHECKING:
    from tests.text_checks import Similarity

FOLDER = Path(__file__).parents[3] / "assets" / "tasks"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Documented:
    """The properties that the data card of a file states."""

    columns: tuple[str, ...]
    labels: frozenset[str]
    least_sentences: int
    least_test_sentences: int
    lengths: tuple[int, int]  # in words


FILES = {
    "sentiment": Documented(
        columns=("text", "label", "domain", "split"),
        labels=frozenset({"positive", "negative"}),
        least_sentences=1000,
        least_test_sentences=350,
        lengths=(6, 28),
    ),
    "topics": Documented(
        columns=("text", "label", "split"),
        labels=frozenset({"food", "health", "money", "sport", "technology", "travel"}),
        least_sentences=600,
        least_test_sentences=200,
        lengths=(7, 30),
    ),
}


COMPARED = {
    "sentiment": "5c2d5eb0c7822e59de0f30a34af8331e52cce8c0103517aba4b5a91f860360bd",
    "topics": "2b7d6c9fbb58ac535835026bd37c003e3e27a23c3046c16b91ded4249272c6c5",
}


@pytest.fixture(scope="module", params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def documented(name: str) -> Documented:
    return FILES[name]


@pytest.fixture(scope="module")
def data(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / f"{name}.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def sentiment() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "sentiment.csv", keep_default_na=False)


def test_the_columns_and_their_values_are_the_documented_ones(data: pd.DataFrame, documented: Documented) -> None:
    assert tuple(data.columns) == documented.columns
    assert set(data["label"]) == documented.labels
    assert set(data["split"]) == set(SPLITS)


def test_there_are_enough_sentences(data: pd.DataFrame, documented: Documented) -> None:
    assert len(data) >= documented.least_sentences
    assert (data["split"] == "test").sum() >= documented.least_test_sentences


def test_every_split_has_the_same_number_of_each_label(data: pd.DataFrame) -> None:
    counts = pd.crosstab(data["split"], data["label"])
    assert (counts.nunique(axis="columns") == 1).all(), counts


def test_the_sentiment_labels_are_balanced_in_every_domain_of_every_split(sentiment: pd.DataFrame) -> None:
    counts = sentiment.groupby(["split", "domain", "label"]).size().unstack("label", fill_value=0)
    assert len(counts) == 20 * len(SPLITS)
    assert (counts["positive"] == counts["negative"]).all()


def test_sentences_have_a_reasonable_length(data: pd.DataFrame, documented: Documented) -> None:
    length = data["text"].str.count(" ") + 1  # the text is tidy: one space between words
    assert length.between(*documented.lengths).all(), data["text"][~length.between(*documented.lengths)].tolist()
    assert length.std() >= 3  # templated text has nearly one length
    average = length.groupby(data["label"]).mean()
    assert average.max() - average.min() < 1  # the length must not reveal the label


def test_the_text_is_plain_ascii_and_tidy(data: pd.DataFrame) -> None:
    assert [(text, untidy(text)) for text in data["text"] if untidy(text)] == []


def test_no_sentence_occurs_twice(data: pd.DataFrame) -> None:
    assert repeated(data["text"]) == []


def test_no_start_and_no_phrase_is_overused(data: pd.DataFrame) -> None:
    texts = data["text"].tolist()
    opening, first, phrase = most_common_opening(texts, 3), most_common_opening(texts, 1), most_common_phrase(texts, 4)
    assert opening[1] <= 0.015 * len(data), opening
    assert first[1] <= 0.2 * len(data), first  # "the" opens one sentence in seven
    assert phrase[1] <= 0.01 * len(data), phrase


@pytest.mark.parametrize(
    ("similarity", "limit"), [(wording_similarity, 0.3), (spelling_similarity, 0.6), (meaning_similarity, 0.9)]
)
def test_no_sentence_is_nearly_the_same_as_one_of_another_split(
    name: str, data: pd.DataFrame, similarity: Similarity, limit: float
) -> None:
    if similarity is not meaning_similarity or not compared_before(FOLDER / f"{name}.csv", COMPARED[name]):
        worst = most_alike(data["text"].tolist(), similarity, data["split"].tolist())
        assert worst[0] < limit, worst
