"""Texts as batches of tokens: tokenised once, texts of like length together, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from offcomp.errors import TaskError
from offcomp.methods.base import Report
from offcomp.models.loading import LoadedModel
from offcomp.models.positions import longest_text, position_limit
from offcomp.models.sentence_modules import SentenceModules
from offcomp.models.tokens import can_pad, check_known, encode

BATCH_SIZE = 32
MAX_TOKENS = 256


def tokenizer_of(loaded: LoadedModel) -> PreTrainedTokenizerBase:
    """The model's tokenizer, able to pad. Raises TaskError where there is none or it cannot."""
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise TaskError(f"{loaded.info.model} has no tokenizer, so no task can run; add tokenizer.json or leave tasks empty")
    if not can_pad(tokenizer):
        raise TaskError(
            f"the tokenizer of {loaded.info.model} has no token to pad with; add a pad_token to tokenizer_config.json"
        )
    return tokenizer


def longest_input(loaded: LoadedModel, wanted: int = MAX_TOKENS) -> int:
    """Tokens of a text where the model's folder does not say how many, at most `wanted`."""
    return longest_text(loaded.model, wanted)


def declared_limit(loaded: LoadedModel, modules: SentenceModules) -> int:
    """Tokens of a text in a sentence-transformers folder: its own limit, else the tokenizer's, within the model's positions."""
    limits = [modules.max_tokens or tokenizer_of(loaded).model_max_length, position_limit(loaded.model)]
    return int(min(limit for limit in limits if limit is not None))


@dataclass(frozen=True)
class Batches:
    """Tokenised texts. `rows[i]` says which texts `inputs[i]` holds (batch,); each tensor is (batch, tokens).

    `cut` (texts,) says which of the texts (or pairs) have more than `limit` tokens and are cut there.
    """

    rows: list[NDArray[np.int64]]
    inputs: list[dict[str, Tensor]]
    count: int
    cut: NDArray[np.bool_]
    limit: int

    def cut_figures(self, places: NDArray[np.integer]) -> dict[str, int]:
        """How many of the texts at these places are cut, of how many, at how many tokens; empty where none is."""
        cut = int(self.cut[places].sum())
        return {"texts": cut, "of": places.size, "tokens": self.limit} if cut else {}

    def on(self, loaded: LoadedModel, report: Report) -> Iterator[tuple[NDArray[np.int64], dict[str, Tensor]]]:
        """Each batch on the model's device, under inference mode; progress is reported after each."""
        done = 0
        for rows, inputs in zip(self.rows, self.inputs, strict=True):
            with torch.inference_mode():
                yield rows, {name: tensor.to(loaded.model.device) for name, tensor in inputs.items()}
            done += len(rows)
            report(done / self.count)


def batches(
    loaded: LoadedModel, first: Sequence[str], second: Sequence[str] | None = None, *, limit: int | None = None
) -> Batches:
    """Texts, or pairs that the model reads as one input, tokenised in length order. Raises TaskError.

    limit   tokens of a text, special ones included; by default `longest_input`
    """
    tokenizer, limit = tokenizer_of(loaded), limit or longest_input(loaded)
    encoded, cut = _encoded(tokenizer, first, second, limit)
    check_known(loaded.model, [*encoded["input_ids"], [tokenizer.pad_token_id]])
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    order = np.argsort(-lengths, kind="stable")  # the longest first, so that memory runs out at once or never
    rows = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    inputs = []
    for chosen in rows:
        inputs.append({name: _padded([values[i] for i in chosen], fill.get(name, 0)) for name, values in encoded.items()})
    return Batches(rows, inputs, len(lengths), cut, limit)


def _encoded(
    tokenizer: PreTrainedTokenizerBase, first: Sequence[str], second: Sequence[str] | None, limit: int
) -> tuple[dict[str, list[list[int]]], NDArray[np.bool_]]:
    """What the tokenizer gives for each text, and which texts had to be cut: whole first, the long ones once more."""
    pair = {} if second is None else {"text_pair": list(second)}
    encoded = dict(encode(tokenizer, first, **pair, verbose=False))
    long = [i for i, ids in enumerate(encoded["input_ids"]) if len(ids) > limit]
    if long:
        texts, *others = [[column[i] for i in long] for column in (first, second) if column is not None]
        again = encode(tokenizer, texts, **({"text_pair": others[0]} if others else {}), truncation=True, max_length=limit)
        for name, values in again.items():
            for place, i in enumerate(long):
                encoded[name][i] = values[place]
    return encoded, np.isin(np.arange(len(first)), long)


def _padded(values: list[list[int]], fill: int) -> Tensor:
    """Rows of unequal length, filled up on the right (rows, tokens)."""
    return pad_sequence([torch.tensor(row) for row in values], batch_first=True, padding_value=fill)
