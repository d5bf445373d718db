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
from offcomp.models.tokens import check_known, encode

BATCH_SIZE = 32
MAX_TOKENS = 256
RESERVED_POSITIONS = 2  # RoBERTa counts its positions from the padding index + 1


def tokenizer_of(loaded: LoadedModel) -> PreTrainedTokenizerBase:
    """The model's tokenizer, able to pad. Raises TaskError where there is none or it cannot."""
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise TaskError(f"{loaded.info.model} has no tokenizer, so no task can run; add tokenizer.json or leave tasks empty")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise TaskError(
            f"the tokenizer of {loaded.info.model} has no token to pad with; add a pad_token to tokenizer_config.json"
        )
    return tokenizer


def longest_input(loaded: LoadedModel, wanted: int = MAX_TOKENS) -> int:
    """Tokens that the model can read at once, at most `wanted`."""
    positions = getattr(loaded.model.config, "max_position_embeddings", None)
    return min(wanted, positions - RESERVED_POSITIONS) if positions else wanted


@dataclass(frozen=True)
class Batches:
    """Tokenised texts. `rows[i]` says which texts `inputs[i]` holds (batch,); each tensor is (batch, tokens)."""

    rows: list[NDArray[np.int64]]
    inputs: list[dict[str, Tensor]]
    count: int

    def on(self, loaded: LoadedModel, report: Report) -> Iterator[tuple[NDArray[np.int64], dict[str, Tensor]]]:
        """Each batch on the model's device, under inference mode; progress is reported after each."""
        done = 0
        for rows, inputs in zip(self.rows, self.inputs, strict=True):
            with torch.inference_mode():
                yield rows, {name: tensor.to(loaded.model.device) for name, tensor in inputs.items()}
            done += len(rows)
            report(done / self.count)


def batches(loaded: LoadedModel, first: Sequence[str], second: Sequence[str] | None = None) -> Batches:
    """Texts, or pairs that the model reads as one input, tokenised in length order. Raises TaskError."""
    tokenizer, limit = tokenizer_of(loaded), longest_input(loaded)
    pair = {} if second is None else {"text_pair": list(second)}
    encoded = encode(tokenizer, first, **pair, truncation=True, max_length=limit)
    check_known(loaded.model, [*encoded["input_ids"], [tokenizer.pad_token_id]])
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    order = np.argsort(-lengths, kind="stable")  # the longest first, so that memory runs out at once or never
    rows = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    inputs = []
    for chosen in rows:
        inputs.append({name: _padded([values[i] for i in chosen], fill.get(name, 0)) for name, values in encoded.items()})
    return Batches(rows, inputs, len(lengths))


def _padded(values: list[list[int]], fill: int) -> Tensor:
    """Rows of unequal length, filled up on the right (rows, tokens)."""
    return pad_sequence([torch.tensor(row) for row in values], batch_first=True, padding_value=fill)
