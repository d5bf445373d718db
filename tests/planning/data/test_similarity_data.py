"""The bundled sentence pairs are numerous at every score and varied, and offer no shortcut to the score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer

from tests.text_checks import (
    compared_before,
    embed,
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
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tests.text_checks import Similarity

    Values = NDArray[np.float64]

PATH = Path(__file__).parents[3] / "assets" / "tasks" / "similarity.csv"
SHUFFLES = 20
COMPARED = "b5de1ee030c3be220f3cd271f43477dba48e7da9b3b6a4f69bf0e3a69e3043a8"


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return pd.read_csv(PATH, keep_default_na=False)


@pytest.fixture(scope="module")
def sentences(data: pd.DataFrame) -> pd.DataFrame:
    """The sentences of all pairs with their splits: the first sentences of all pairs, followed by the second ones."""
    texts = pd.concat([data["sentence1"], data["sentence2"]], ignore_index=True)
    return pd.DataFrame({"text": texts, "split": pd.concat([data["split"]] * 2, ignore_index=True)})


@pytest.fixture(scope="module")
def cosines_and_scores(data: pd.DataFrame) -> tuple[Values, Values]:
    """The cosine similarities of the MiniLM embeddings of the test pairs, and the scores of these pairs."""
    test = data[data["split"] == "test"]
    first, second = embed(test["sentence1"].tolist()), embed(test["sentence2"].tolist())
    return (first * second).sum(1).astype(float), test["score"].to_numpy(float)


def band(score: pd.Series) -> pd.Series:
    """The band of each score: 0 for 0 and 0.5, 1 for 1 and 1.5, and so on up to 5 for 5."""
    return score.astype(int)


def rank_correlation(a: Sequence[float] | Values | pd.Series, b: Sequence[float] | Values | pd.Series) -> float:
    return float(spearmanr(a, b).statistic)


def test_the_columns_and_their_values_are_the_documented_ones(data: pd.DataFrame) -> None:
    assert list(data.columns) == ["sentence1", "sentence2", "score", "split"]
    assert set(data["score"]) == set(np.arange(0, 5.5, 0.5))
    assert set(data["split"]) == {"validation", "test"}


def test_there_are_enough_pairs_in_every_score_band(data: pd.DataFrame) -> None:
    counts = band(data["score"]).value_counts()
    assert len(data) >= 420
    assert (counts.reindex(range(6), fill_value=0) >= 60).all(), counts


def test_a_quarter_of_every_score_band_is_validation(data: pd.DataFrame) -> None:
    share = (data["split"] == "validation").groupby(band(data["score"])).mean()
    assert share.between(0.23, 0.27).all(), share


def test_sentences_have_5_to_28_words(sentences: pd.DataFrame) -> None:
    length = sentences["text"].map(lambda text: len(text.split()))
    assert length.between(5, 28).all(), sentences["text"][~length.between(5, 28)].tolist()
    assert length.std() >= 2  # templated text has nearly one length


def test_the_text_is_plain_ascii_and_tidy(sentences: pd.DataFrame) -> None:
    faults = {text: fault for text in sentences["text"] if (fault := untidy(text))}
    assert not faults


def test_no_sentence_occurs_twice(sentences: pd.DataFrame) -> None:
    assert repeated(sentences["text"]) == []


def test_no_start_and_no_phrase_is_overused(sentences: pd.DataFrame) -> None:
    texts = sentences["text"].tolist()
    first, opening, phrase = most_common_opening(texts, 1), most_common_opening(texts, 3), most_common_phrase(texts, 4)
    assert first[1] <= 0.3 * len(texts), first  # "the" opens one sentence in four
    assert opening[1] <= 0.005 * len(texts), opening
    assert phrase[1] <= 0.01 * len(texts), phrase


@pytest.mark.parametrize(
    ("similarity", "limit"), [(wording_similarity, 0.3), (spelling_similarity, 0.6), (meaning_similarity, 0.8)]
)
def test_no_sentence_is_nearly_the_same_as_one_of_another_split(
    sentences: pd.DataFrame, similarity: Similarity, limit: float
) -> None:
    if similarity is not meaning_similarity or not compared_before(PATH, COMPARED):
        worst = most_alike(sentences["text"].tolist(), similarity, sentences["split"].tolist())
        assert worst[0] < limit, worst


def test_length_does_not_tell_the_score(data: pd.DataFrame) -> None:
    first, second = (data[column].map(lambda text: len(text.split())) for column in ("sentence1", "sentence2"))
    assert abs(rank_correlation((first - second).abs(), data["score"])) < 0.35
    assert abs(rank_correlation(first + second, data["score"])) < 0.35


def test_minilm_ranks_the_pairs_well_but_not_perfectly(cosines_and_scores: tuple[Values, Values]) -> None:
    cosines, scores = cosines_and_scores
    assert 0.70 < rank_correlation(cosines, scores) < 0.93


def test_shuffled_scores_give_no_correlation(cosines_and_scores: tuple[Values, Values]) -> None:
    cosines, scores = cosines_and_scores
    rng = np.random.default_rng(0)
    shuffled = [rank_correlation(cosines, rng.permutation(scores)) for _ in range(SHUFFLES)]
    assert abs(float(np.mean(shuffled))) < 0.05
    assert max(map(abs, shuffled)) < 0.3


def test_shared_words_alone_rank_the_pairs_worse_than_embeddings(
    data: pd.DataFrame, cosines_and_scores: tuple[Values, Values]
) -> None:
    test = data[data["split"] == "test"]
    weights = TfidfVectorizer().fit([*data["sentence1"], *data["sentence2"]])
    first, second = weights.transform(test["sentence1"]), weights.transform(test["sentence2"])
    overlap = np.asarray(first.multiply(second).sum(1)).ravel()
    assert rank_correlation(overlap, test["score"]) < rank_correlation(*cosines_and_scores) - 0.1
