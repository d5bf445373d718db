"""Tiny language models for texts made of syllables, tasks for these models, and their losses as transformers computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from offcomp.evaluation.base import TaskData
from offcomp.evaluation.causal_lm import CausalLM
from offcomp.evaluation.masked_lm import MaskedLM
from offcomp.models.loading import LoadedModel, load
from offcomp.planning.data.tasks import Task
from tests import tiny_models

MASKED = ("bert", "roberta", "albert", "electra", "mpnet")
CAUSAL = ("gpt2", "opt", "llama", "mistral", "qwen2")
LONGEST = tiny_models.POSITIONS - 2  # the longest input that every tiny model can read, in tokens
SYLLABLES = [first + second for first in "bdfgklm" for second in "aeio"][:27]
PAD, UNKNOWN, START, END, MASK = range(5)
SPECIALS = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


def syllable_tokenizer(framed: bool, **specials: str) -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer with one token per syllable, with the prefix `##` except at the beginning of a word.

    framed  whether it adds [CLS] and [SEP] around a text
    """
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SYLLABLES, *(f"##{syllable}" for syllable in SYLLABLES), "."]
    assert len(names) <= tiny_models.VOCABULARY
    backend = Tokenizer(WordPiece({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = Whitespace()
    if framed:
        backend.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", START), ("[SEP]", END)]
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", **specials)  # noqa: S106


def texts_of(*lengths: int) -> list[str]:
    """Return one text for each length, in tokens. Its words are random and have one to three syllables."""
    generator = np.random.default_rng(5)
    texts = []
    for length in lengths:
        words, left = [], length
        while left:
            count = min(left, int(generator.integers(1, 4)))
            words.append("".join(generator.choice(SYLLABLES, count)))
            left -= count
        texts.append(" ".join(words))
    return texts


TEXTS = texts_of(5, 40, 11, 23, 2, 17, 9, 31, 14, 3, 26, 8)


def opened(folder: Path, name: str, framed: bool | None = None) -> LoadedModel:
    """Save a tiny model in a folder and load it with a syllable tokenizer.

    framed  whether the tokenizer adds special tokens around a text; by default, only that of a masked model does
    """
    loaded = load(str(tiny_models.save(tiny_models.shared(name), folder / name, tokenizer=False)))
    framed = name in MASKED if framed is None else framed
    specials = SPECIALS if name in MASKED else {"unk_token": "[UNK]"}
    tokenizer = syllable_tokenizer(framed, **specials)
    padding = loaded.model.config.pad_token_id
    if padding:  # RoBERTa's is 1, and its positions are numbered from there
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    return replace(loaded, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return opened(tmp_path_factory.mktemp("bert"), "bert")


def data_of(family: str, texts: Sequence[str] = TEXTS, validation: Sequence[str] | None = None, **options: Any) -> TaskData:
    """Return the data of a task whose test split consists of these texts."""
    splits = {"test": Dataset.from_dict({"text": list(texts)})}
    if validation is not None:
        splits["validation"] = Dataset.from_dict({"text": list(validation)})
    task = Task(name="made", family=family, data="made.csv", options=options)
    return TaskData(task, DatasetDict(splits), "0123456789ab")


def masked(loaded: LoadedModel, texts: Sequence[str] = TEXTS, **options: Any) -> MaskedLM:
    return MaskedLM(loaded, data_of("masked-lm", texts, **options))


def causal(loaded: LoadedModel, texts: Sequence[str] = TEXTS, **options: Any) -> CausalLM:
    return CausalLM(loaded, data_of("causal-lm", texts, **options))


def zeroed(loaded: LoadedModel) -> None:
    """Set all weights to zero, so that every token is equally likely."""
    for parameter in loaded.model.parameters():
        parameter.zero_()


def ids_of(loaded: LoadedModel, text: str) -> list[int]:
    assert loaded.tokenizer is not None
    return list(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])


def own_loss(loaded: LoadedModel, ids: list[int], labels: list[int]) -> float:
    """Return the mean loss that transformers computes for these labels. Positions with the label -100 are ignored."""
    with torch.no_grad():
        output = loaded.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
    if output.loss is not None:
        return float(output.loss)
    return float(torch.nn.functional.cross_entropy(output.prediction_logits[0], torch.tensor(labels)))  # ...ForPreTraining


def by_row(evaluator: MaskedLM | CausalLM, losses: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return np.split(losses, np.cumsum([len(row.positions) for row in evaluator.rows])[:-1])
