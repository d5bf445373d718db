"""Continue the openings of texts by greedy decoding with a causal language model.

Openings of equal length form a batch, which is reprocessed in full for every new token. There is no padding and the model's
own generation settings are ignored, so the same weights always generate the same tokens. All tokens after an end-of-sequence
token are replaced by end-of-sequence tokens. The original and the compressed model continue the same openings.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchEncoding

from offcomp.evaluation.batches import tokenizer_of
from offcomp.evaluation.masked_lm import row_bounds
from offcomp.evaluation.token_losses import logits_at
from offcomp.models.loading import LoadedModel
from offcomp.models.positions import longest_text
from offcomp.planning.data.scores import Continuation

OPENINGS, OPENING_TOKENS, NEW_TOKENS = 8, 12, 24


class Continuations:
    """Prompts: the openings of evenly spaced texts. Texts no longer than an opening are used only if there are no others.

    prompts       model inputs: the tokenizer's leading special tokens, then whole words, at most OPENING_TOKENS tokens in total
    new_tokens    how many tokens to generate; prompt and new tokens together fit in the model's context
    """

    def __init__(self, loaded: LoadedModel, encoded: BatchEncoding, before: Sequence[int]):
        self._loaded = loaded
        tokens = longest_text(loaded.model, len(before) + OPENING_TOKENS + NEW_TOKENS) - len(before)
        length = min(OPENING_TOKENS, tokens // 3)
        self.new_tokens = min(NEW_TOKENS, tokens - length)
        self.prompts = [[*before, *opening] for opening in _spread(_openings(encoded, length))] if length > 0 else []

    def write(self, gathers: bool) -> NDArray[np.int64]:
        """Generate tokens (openings, new_tokens) with the current model.

        gathers    whether the head can be run on the last position alone; see `token_losses.logits_at`
        """
        written = np.zeros((len(self.prompts), max(0, self.new_tokens)), np.int64)
        lengths = np.array([len(prompt) for prompt in self.prompts])
        for length in np.unique(lengths):
            batch = np.flatnonzero(lengths == length)
            read = torch.tensor([self.prompts[index] for index in batch]).to(self._loaded.model.device)
            with torch.inference_mode():
                for _ in range(self.new_tokens):
                    read = torch.cat([read, self._likeliest(read, gathers)], dim=1)
            written[batch] = read[:, length:].cpu().numpy()
        end = tokenizer_of(self._loaded).eos_token_id
        if end is not None:
            written[np.logical_or.accumulate(written == end, axis=1)] = end
        return written

    def compare(self, original: NDArray[np.int64], compressed: NDArray[np.int64]) -> tuple[Continuation, ...]:
        """The two models' continuations of each opening, and the number of leading tokens on which they agree."""
        return tuple(
            Continuation(
                opening=self._decoded(prompt),
                original=self._continued(prompt, before),
                compressed=self._continued(prompt, after),
                same_tokens=sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))),
                tokens=len(before),
            )
            for prompt, before, after in zip(self.prompts, original.tolist(), compressed.tolist(), strict=True)
        )

    def _likeliest(self, read: Tensor, gathers: bool) -> Tensor:
        """The most likely next token of each row (rows, 1)."""
        is_last = torch.zeros_like(read, dtype=torch.bool)
        is_last[:, -1] = True
        inputs = {"input_ids": read, "attention_mask": torch.ones_like(read)}
        return logits_at(self._loaded.model, inputs, is_last, gathers).argmax(1, keepdim=True)

    def _decoded(self, tokens: list[int]) -> str:
        return str(tokenizer_of(self._loaded).decode(tokens, skip_special_tokens=True))

    def _continued(self, prompt: list[int], new: list[int]) -> str:
        """Decode new tokens in the context of the prompt, since some tokenizers drop the space before a leading word."""
        opening, whole = self._decoded(prompt), self._decoded(prompt + new)
        return whole.removeprefix(opening) if whole.startswith(opening) else self._decoded(new)


def _openings(encoded: BatchEncoding, length: int) -> list[tuple[int, ...]]:
    """Distinct openings of texts, at most `length` tokens each. A word is split only if it is longer than `length`."""
    texts = encoded["input_ids"]
    usable = [index for index, ids in enumerate(texts) if len(ids) > length]
    openings = []
    for index in usable or [index for index, ids in enumerate(texts) if ids]:
        words = encoded.word_ids(index) if encoded.is_fast else range(len(texts[index]))
        _, end = next(row_bounds(list(words), length))
        openings.append(tuple(texts[index][:end]))
    return list(dict.fromkeys(openings))


def _spread(openings: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Select at most OPENINGS openings, evenly spaced from first to last."""
    count = min(OPENINGS, len(openings))
    return [openings[round(index)] for index in np.linspace(0, len(openings) - 1, count)]
