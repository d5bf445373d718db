"""The training text as one array of tokens: vocabulary and numbers are made once and kept in the working folder."""

from __future__ import annotations

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
CHARACTERS = 4000  # a book is tokenised in pieces of whole paragraphs of about this length


def paragraphs(data: Path, split: str) -> Iterator[str]:
    """Pieces of every text of the corpora, some 4000 characters each, cut between paragraphs."""
    for corpus in CORPORA:
        for text in pd.read_parquet(data / corpus / f"{split}.parquet")["text"]:
            piece = ""
            for paragraph in text.split("\n"):
                piece = f"{piece}\n{paragraph}" if piece else paragraph
                if len(piece) >= CHARACTERS:
                    yield piece
                    piece = ""
            if piece.strip():
                yield piece


def tokenizer(data: Path, work: Path) -> Tokenizer:
    """The WordPiece tokenizer (8192 tokens, lower case), trained on the training split the first time."""
    file = work / "tokenizer.json"
    if not file.exists():
        made = BertWordPieceTokenizer(lowercase=True)
        made.train_from_iterator(
            paragraphs(data, "train"), vocab_size=VOCABULARY, special_tokens=list(SPECIAL), show_progress=False
        )
        made.save(str(file))
    return Tokenizer.from_file(str(file))


def tokens(data: Path, work: Path, split: str) -> NDArray[np.uint16]:
    """The tokens of a split, one piece after the other with [SEP] between them (tokens,)."""
    file = work / f"{split}.npy"
    if not file.exists():
        made = tokenizer(data, work)
        end = made.token_to_id("[SEP]")
        pieces = list(paragraphs(data, split))
        order = np.random.default_rng(0).permutation(len(pieces))
        parts = []
        for start in range(0, len(order), 1000):
            batch = [pieces[i] for i in order[start : start + 1000]]
            parts += [[*encoding.ids, end] for encoding in made.encode_batch(batch, add_special_tokens=False)]
        np.save(file, np.concatenate([np.array(part, np.uint16) for part in parts]))
    return np.load(file, mmap_mode="r")
