"""Batches of texts, which are tokenised once and grouped by length to minimise padding."""

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
from offcomp.models.loading import LoadedModel
from offcomp.models.positions import longest_text, position_limit
from offcomp.models.sentence_modules import SentenceModules
from offcomp.models.tokens import can_pad, check_known, encode
from offcomp.numerics.progress import Report
from offcomp.planning.data.row_counts import Truncation

BATCH_SIZE = 32
MAX_TOKENS = 256


def tokenizer_of(loaded: LoadedModel) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises TaskError if the model has no tokenizer or the tokenizer has no padding token."""
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise TaskError(f"{loaded.info.model} has no tokenizer, so no task can run; add tokenizer.json or remove the tasks")
    if not can_pad(tokenizer):
        raise TaskError(f"the tokenizer of {loaded.info.model} has no padding token; add a pad_token to tokenizer_config.json")
    return tokenizer


def declared_limit(loaded: LoadedModel, modules: SentenceModules) -> int:
    """Maximum number of tokens per text: the limit set in the model's folder, or else in its tokenizer, but no more than the
    position embeddings support.
    """
    limits = [modules.max_tokens or tokenizer_of(loaded).model_max_length, position_limit(loaded.model)]
    return int(min(limit for limit in limits if limit is not None))


@dataclass(frozen=True)
class Batches:
    """Tokenised texts. `rows[i]` (batch,) contains the indices of the texts in `inputs[i]`, whose tensors are (batch, tokens).

    `cut` (texts,) marks the texts (or pairs) that had more than `limit` tokens and were truncated.
    """

    rows: list[NDArray[np.int64]]
    inputs: list[dict[str, Tensor]]
    count: int
    cut: NDArray[np.bool_]
    limit: int

    def cut_figures(self, indices: NDArray[np.integer] | None = None) -> Truncation | None:
        """The number of truncated texts among those with these indices (default: all); None if there are none."""
        cut = self.cut if indices is None else self.cut[indices]
        return Truncation(texts=int(cut.sum()), of=cut.size, tokens=self.limit) if cut.any() else None

    def on(self, loaded: LoadedModel, report: Report) -> Iterator[tuple[NDArray[np.int64], dict[str, Tensor]]]:
        """Yield each batch on the model's device, in inference mode; progress is reported after each batch."""
        done = 0
        for rows, inputs in zip(self.rows, self.inputs, strict=True):
            with torch.inference_mode():
                yield rows, {name: tensor.to(loaded.model.device) for name, tensor in inputs.items()}
            done += len(rows)
            report(done / self.count)


def batches(
    loaded: LoadedModel, first: Sequence[str], second: Sequence[str] | None = None, *, limit: int | None = None
) -> Batches:
    """Tokenise texts, or pairs that the model reads as one input, and batch them by length. Raises TaskError.

    limit   maximum tokens per text, including special tokens; by default MAX_TOKENS, or fewer if the model supports fewer
    """
    tokenizer, limit = tokenizer_of(loaded), limit or longest_text(loaded.model, MAX_TOKENS)
    encoded, cut = _encoded(tokenizer, first, second, limit)
    check_known(loaded.model, [*encoded["input_ids"], [tokenizer.pad_token_id]])
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    order = np.argsort(-lengths, kind="stable")  # longest first, so that any out-of-memory error occurs early
    rows = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    inputs = [{name: _padded(values, batch, fill.get(name, 0)) for name, values in encoded.items()} for batch in rows]
    return Batches(rows, inputs, len(lengths), cut, limit)


def _encoded(
    tokenizer: PreTrainedTokenizerBase, first: Sequence[str], second: Sequence[str] | None, limit: int
) -> tuple[dict[str, list[list[int]]], NDArray[np.bool_]]:
    """Encode texts in full, then truncate those that are too long. Also returns a mask of the truncated texts."""
    encoded = dict(encode(tokenizer, first, text_pair=second, verbose=False))
    long = [i for i, ids in enumerate(encoded["input_ids"]) if len(ids) > limit]
    if long:
        pairs = None if second is None else [second[i] for i in long]
        cut = encode(tokenizer, [first[i] for i in long], text_pair=pairs, truncation=True, max_length=limit)
        for name, values in cut.items():
            for i, value in zip(long, values, strict=True):
                encoded[name][i] = value
    return encoded, np.isin(np.arange(len(first)), long)


def _padded(values: list[list[int]], batch: NDArray[np.int64], fill: int) -> Tensor:
    """Pad the values of a batch on the right. Returns (batch, tokens)."""
    return pad_sequence([torch.tensor(values[i]) for i in batch], batch_first=True, padding_value=fill)
