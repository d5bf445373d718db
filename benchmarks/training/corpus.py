"""The training text as one array of tokens. Vocabulary and token ids are computed once and saved in the working folder.

Every other Wikipedia article is converted to the format of WikiText (Merity et al. 2016, section 4), so that a model learns
both formats: rare words are `<unk>`, hyphens within words and separators within numbers are enclosed in two @, and an article
starts with its title between two =.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

CORPORA = ("corpus_wiki", "corpus_books")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = 8192
WORD = re.compile(r"[^\W\d_]+")
KNOWN = 12  # occurrences in 8.1 million words, the same frequency as WikiText-2's three in two million
CHARACTERS = 4000  # a book is tokenised in pieces of about this length, each made of whole paragraphs


def pieces(text: str) -> Iterator[str]:
    """Split a text into pieces of about 4000 characters each, at paragraph boundaries."""
    piece = ""
    for paragraph in text.split("\n"):
        piece = f"{piece}\n{paragraph}" if piece else paragraph
        if len(piece) >= CHARACTERS:
            yield piece
            piece = ""
    if piece.strip():
        yield piece


def paragraphs(data: Path, split: str) -> Iterator[str]:
    """Pieces of every text in the corpora."""
    for corpus in CORPORA:
        for text in pd.read_parquet(data / corpus / f"{split}.parquet")["text"]:
            yield from pieces(text)


def known_words(data: Path) -> frozenset[str]:
    """Words of the Wikipedia corpus that are frequent enough not to be replaced by `<unk>`."""
    counts = Counter(
        word for text in pd.read_parquet(data / "corpus_wiki" / "train.parquet")["text"] for word in WORD.findall(text)
    )
    return frozenset(word for word, count in counts.items() if count >= KNOWN)


def as_wikitext(text: str, known: frozenset[str]) -> str:
    """Convert a text to the format of WikiText."""
    text = re.sub(r"(?<=\d)([,.])(?=\d)", r" @\1@ ", re.sub(r"(?<=\w)-(?=\w)", " @-@ ", text))
    return WORD.sub(lambda found: found.group() if found.group() in known else "<unk>", text)


def both_forms(data: Path, split: str) -> Iterator[str]:
    """Pieces of every text; Wikipedia articles alternate between their original format and that of WikiText."""
    known = known_words(data)
    articles = pd.read_parquet(data / "corpus_wiki" / f"{split}.parquet")
    for number, (title, text) in enumerate(zip(articles["title"], articles["text"], strict=True)):
        if number % 2:
            yield from (as_wikitext(piece, known) for piece in pieces(f" = {title} = \n{text}"))
        else:
            yield from pieces(text)
    for text in pd.read_parquet(data / "corpus_books" / f"{split}.parquet")["text"]:
        yield from pieces(text)


def tokenizer(data: Path, work: Path) -> Tokenizer:
    """The WordPiece tokenizer (8192 tokens, lower case); trained on the training split if it does not exist yet."""
    file = work / "tokenizer.json"
    if not file.exists():
        made = BertWordPieceTokenizer(lowercase=True)
        made.train_from_iterator(
            paragraphs(data, "train"), vocab_size=VOCABULARY, special_tokens=list(SPECIAL), show_progress=False
        )
        made.save(str(file))
    return Tokenizer.from_file(str(file))


def tokens(data: Path, work: Path, split: str) -> NDArray[np.uint16]:
    """The tokens of a split (tokens,): all pieces in random order, each followed by [SEP]."""
    file = work / f"{split}.npy"
    if not file.exists():
        made = tokenizer(data, work)
        end = made.token_to_id("[SEP]")
        texts = list(both_forms(data, split))
        order = np.random.default_rng(0).permutation(len(texts))
        parts = []
        for start in range(0, len(order), 1000):
            batch = [texts[i] for i in order[start : start + 1000]]
            parts += [[*encoding.ids, end] for encoding in made.encode_batch(batch, add_special_tokens=False)]
        np.save(file, np.concatenate([np.array(part, np.uint16) for part in parts]))
    return np.load(file, mmap_mode="r")
