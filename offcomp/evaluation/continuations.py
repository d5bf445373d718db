"""How a left-to-right model goes on from the first words of texts: the likeliest token, again and again; nothing is drawn.

Openings that are equally long are read together, as a whole for every token. So nothing is padded, and no setting that a model
has for its own generation takes part: the same weights write the same tokens. What follows an end token is no text, so it is
taken for more of the same. The original and the compressed model go on from the same openings.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchEncoding

from offcomp.evaluation.batches import longest_input, tokenizer_of
from offcomp.evaluation.masked_lm import cut
from offcomp.evaluation.token_losses import logits_at
from offcomp.models.loading import LoadedModel

OPENINGS, OPENING_TOKENS, NEW_TOKENS = 8, 12, 24


class Continuations:
    """Openings of texts, spread evenly over those that are longer than an opening; all of them where none is.

    prompts       what the model reads: what its tokenizer puts before a text, and at most OPENING_TOKENS tokens, whole words
    new_tokens    how many tokens are written; together with a prompt never more than the model can read at once
    """

    def __init__(self, loaded: LoadedModel, encoded: BatchEncoding, before: Sequence[int]):
        self._loaded = loaded
        room = longest_input(loaded, len(before) + OPENING_TOKENS + NEW_TOKENS) - len(before)
        length = min(OPENING_TOKENS, room // 3)
        self.new_tokens = min(NEW_TOKENS, room - length)
        self.prompts = [[*before, *opening] for opening in _spread(_openings(encoded, length))] if length > 0 else []

    def write(self, gathers: bool) -> NDArray[np.int64]:
        """What the model as it is now writes: tokens (openings, new_tokens).

        gathers    whether the head may be given the last place alone, see `token_losses.logits_at`
        """
        written = np.zeros((len(self.prompts), max(0, self.new_tokens)), np.int64)
        lengths = np.array([len(prompt) for prompt in self.prompts])
        for length in np.unique(lengths):
            where = np.flatnonzero(lengths == length)
            read = torch.tensor([self.prompts[index] for index in where], device=self._loaded.model.device)
            with torch.inference_mode():
                for _ in range(self.new_tokens):
                    read = torch.cat([read, self._likeliest(read, gathers)], dim=1)
            written[where] = read[:, length:].cpu().numpy()
        end = tokenizer_of(self._loaded).eos_token_id
        if end is not None:
            written[np.logical_or.accumulate(written == end, axis=1)] = end
        return written

    def compare(self, original: NDArray[np.int64], compressed: NDArray[np.int64]) -> list[dict[str, Any]]:
        """Both continuations of each opening as JSON values: texts, how many tokens agree before the first that does not."""
        return [
            {
                "opening": self._text(prompt),
                "original": self._text(prompt, before),
                "compressed": self._text(prompt, after),
                "same_tokens": sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))),
                "tokens": len(before),
            }
            for prompt, before, after in zip(self.prompts, original.tolist(), compressed.tolist(), strict=True)
        ]

    def _likeliest(self, read: Tensor, gathers: bool) -> Tensor:
        """The likeliest token after each row (rows, 1)."""
        asked = torch.zeros_like(read, dtype=torch.bool)
        asked[:, -1] = True
        inputs = {"input_ids": read, "attention_mask": torch.ones_like(read)}
        return logits_at(self._loaded.model, inputs, asked, gathers).argmax(1, keepdim=True)

    def _text(self, prompt: list[int], new: list[int] | None = None) -> str:
        """The prompt in words, or what is added to it: some tokenizers drop the space before a word that stands first."""
        tokenizer = tokenizer_of(self._loaded)
        parts = [prompt] if new is None else [prompt, new, prompt + new]
        opening, *rest = (str(tokenizer.decode(part, skip_special_tokens=True)) for part in parts)
        if not rest:
            return opening
        alone, whole = rest
        return whole.removeprefix(opening) if whole.startswith(opening) else alone


def _openings(encoded: BatchEncoding, length: int) -> list[tuple[int, ...]]:
    """Each opening once: at most `length` tokens of a text, and no word cut in two unless it is longer than that."""
    texts = encoded["input_ids"]
    usable = [index for index, ids in enumerate(texts) if len(ids) > length]
    found = []
    for index in usable or [index for index, ids in enumerate(texts) if ids]:
        words = encoded.word_ids(index) if encoded.is_fast else range(len(texts[index]))
        _, end = next(cut(list(words), length))
        found.append(tuple(texts[index][:end]))
    return list(dict.fromkeys(found))


def _spread(openings: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """At most OPENINGS of them, from the first to the last at equal steps."""
    count = min(OPENINGS, len(openings))
    return [openings[round(place)] for place in np.linspace(0, len(openings) - 1, count)]
