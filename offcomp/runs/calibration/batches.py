"""Tokenise text into batches, with a mask of the tokens to include in statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from offcomp.errors import InputError, ModelError
from offcomp.models.loading import LoadedModel
from offcomp.models.positions import longest_text
from offcomp.models.tokens import can_pad, check_known, encode, longer_than
from offcomp.planning.data.row_counts import Truncation

BATCH_SIZE = 16
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class TokenBatch:
    """A batch of tokenised texts of similar length, padded on the right.

    inputs      the model's inputs: input_ids, attention_mask and so on, each (texts, tokens)
    counted     (texts, tokens) bool: whether a token is included in the moments; never true for padding
    num_cut     number of truncated texts
    """

    inputs: dict[str, Tensor]
    counted: Tensor
    num_cut: int = 0

    @property
    def real(self) -> Tensor:
        """Boolean mask (texts, tokens) of all tokens except padding."""
        return self.inputs["attention_mask"].bool()

    @cached_property
    def positions(self) -> Tensor:
        """Positions of the counted tokens (count,) in the batch flattened to texts · tokens."""
        return self.counted.reshape(-1).nonzero()[:, 0]

    def select(self, values: Tensor, numbers: bool = False) -> Tensor:
        """Select the vectors (count, width), or token ids (count,), of the counted tokens.

        If the values are not arranged by text and token (pooled vectors, position embeddings), all of them are selected.
        """
        by_token = values.shape if numbers else values.shape[:-1]
        flat = values.reshape(-1) if numbers else values.reshape(-1, values.shape[-1])
        is_by_token = tuple(by_token) in {tuple(self.counted.shape), (self.counted.numel(),)}
        return flat.index_select(0, self.positions) if is_by_token else flat

    def parts(self, num_tokens: int, at_least: int = 1) -> Iterator[TokenBatch]:
        """Split into batches of similar size, each with at most `num_tokens` tokens but at least `at_least` texts."""
        texts = len(self.counted)
        height = max(1, num_tokens // self.counted.shape[1])
        number = min(-(-texts // height), max(1, texts // at_least))
        for start, end in pairwise(texts * index // number for index in range(number + 1)):
            inputs = {name: tensor[start:end] for name, tensor in self.inputs.items()}
            yield TokenBatch(inputs, self.counted[start:end])


def split_at_random(texts: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """The texts to fit on, and those held out to measure errors on unseen text: a random fifth, unless there is only one."""
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    num_held_out = round(HELD_OUT_SHARE * len(texts)) if len(texts) > 1 else 0
    return [texts[i] for i in sorted(order[num_held_out:])], [texts[i] for i in sorted(order[:num_held_out])]


def truncation(batches: Sequence[TokenBatch], limit: int) -> Truncation | None:
    """The number of texts truncated to `limit` tokens; None if there are none."""
    cut, texts = sum(batch.num_cut for batch in batches), sum(len(batch.counted) for batch in batches)
    return Truncation(texts=cut, of=texts, tokens=limit) if cut else None


def token_batches(loaded: LoadedModel, texts: Sequence[str], max_tokens: int, special_tokens: bool) -> list[TokenBatch]:
    """Tokenise and batch `texts`, truncating to `max_tokens`. Special tokens are counted only if `special_tokens` is set.

    Texts are preprocessed as specified in the sentence-transformers folder, for example by lowercasing or adding a prompt.

    Raises InputError if the model has no tokenizer or its tokenizer has no padding token.
    """
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise InputError(f"{loaded.info.model} has no tokenizer for the calibration text; add tokenizer.json to its folder")
    if not can_pad(tokenizer):
        raise InputError(f"the tokenizer of {loaded.info.model} has no padding token; add a pad_token to its config")
    limit = longest_text(loaded.model, max_tokens)
    ordered = sorted(_prepared(loaded, texts), key=len)
    batches = []
    for start in range(0, len(ordered), BATCH_SIZE):
        chosen = ordered[start : start + BATCH_SIZE]
        encoded = encode(
            tokenizer,
            chosen,
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=limit,
            return_attention_mask=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        check_known(loaded.model, encoded["input_ids"].tolist())
        inputs = {name: tensor.to(loaded.model.device) for name, tensor in encoded.items()}
        special = inputs.pop("special_tokens_mask").bool()
        real = inputs["attention_mask"].bool()
        if inputs["input_ids"].shape[1]:
            full = [text for text, length in zip(chosen, real.sum(1).tolist(), strict=True) if length >= limit]
            counted = real if special_tokens else real & ~special
            batches.append(TokenBatch(_with_decoder(loaded, inputs), counted, longer_than(tokenizer, full, limit)))
    return batches


def _prepared(loaded: LoadedModel, texts: Sequence[str]) -> list[str]:
    """Preprocess texts as specified in the model's folder."""
    try:
        return [loaded.sentence_modules.prepared(text) for text in texts]
    except ModelError:
        return list(texts)  # unsupported sentence modules; embedding tasks reject them, but the model itself is usable


def _with_decoder(loaded: LoadedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the decoder inputs of an encoder-decoder model: the same text, shifted right by one token."""
    config = loaded.model.config
    if not config.is_encoder_decoder:
        return inputs
    tokens = inputs["input_ids"]
    first = torch.full_like(tokens[:, :1], config.decoder_start_token_id or 0)
    shifted = torch.cat([first, tokens[:, :-1]], 1)
    return inputs | {"decoder_input_ids": shifted, "decoder_attention_mask": inputs["attention_mask"]}
