"""Masked-token prediction: the pseudo-perplexity of a masked language model on texts.

Each text is split into rows of at most `tokens` tokens, including special tokens. A row never spans several texts, and a word
is split only if it is longer than a row. In each row, the mask token replaces a `fraction` of the tokens, not counting
special and unknown ones. With `whole_words`, all tokens of a selected word are masked, as in Banaei et al. 2023, since a single
masked token of a word is too easy to predict. Rows and masks depend only on the tokenizer and the seed, so the original and the
compressed model are scored on the same tokens. The masked perplexity is exp(mean negative log-likelihood in nats) over the
masked tokens; it is not comparable with a causal perplexity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from offcomp.errors import TaskError
from offcomp.evaluation.base import TaskData
from offcomp.evaluation.batches import tokenizer_of
from offcomp.evaluation.token_losses import Row, TokenTask, bare_tokens, counted_tokens, special_tokens_around
from offcomp.models.loading import LoadedModel
from offcomp.models.positions import longest_text


class MaskedLM(TokenTask):
    """See the module docstring. `reference` and `predict` return `loss` in nats and `correct`, both (masked tokens,)."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        rows, settings = masked_rows(loaded, data)
        tokenizer = tokenizer_of(loaded)
        special = set(tokenizer.all_special_ids)
        counted = [token for token in counted_tokens(tokenizer, data) if token not in special]
        super().__init__(loaded, data, rows, counted, settings)


def masked_rows(loaded: LoadedModel, data: TaskData) -> tuple[list[Row], dict[str, Any]]:
    """The masked rows of all texts with their targets, and the settings adapted to the model. Raises TaskError."""
    tokenizer = tokenizer_of(loaded)
    if tokenizer.mask_token_id is None:
        raise TaskError(f"the tokenizer of {loaded.info.model} has no mask token; add mask_token to tokenizer_config.json")
    settings = dict(data.task.settings)
    settings["tokens"] = longest_text(loaded.model, settings["tokens"])
    if not 0 < settings["fraction"] <= 1:
        raise TaskError(f"fraction (of tokens to mask) must be greater than 0 and at most 1, not {settings['fraction']:g}")
    return list(_masked_rows(tokenizer, data.texts, settings)), settings


def _masked_rows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], settings: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the masked rows of all texts, with their targets. Raises TaskError."""
    before, after = special_tokens_around(tokenizer, texts)
    width = settings["tokens"] - len(before) - len(after)
    if width < 1:
        raise TaskError(f"rows of {settings['tokens']} tokens are too short to contain text; increase the option 'tokens'")
    special = set(tokenizer.all_special_ids)
    number = 0
    for text, ids, words in _tokenised(tokenizer, texts, settings["whole_words"]):
        for start, end in row_bounds(words, width):
            generator = np.random.default_rng([settings["seed"], number])
            number += 1
            free = [index for index in range(start, end) if ids[index] not in special]
            units = [words[index] if settings["whole_words"] else index for index in free]
            masked = [free[unit] for unit in chosen_tokens(units, settings["fraction"], generator)]
            if masked:
                shown = ids[start:end]
                for index in masked:
                    shown[index - start] = tokenizer.mask_token_id
                positions = [index - start + len(before) for index in masked]
                yield Row(text, [*before, *shown, *after], positions, [ids[index] for index in masked])


def _tokenised(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], whole_words: bool
) -> Iterator[tuple[int, list[int], list[int]]]:
    """Yield the index of each text, its tokens, and the word index of each token. Raises TaskError."""
    encoded = bare_tokens(tokenizer, texts)
    for index, ids in enumerate(encoded["input_ids"]):
        words = encoded.word_ids(index) if tokenizer.is_fast else list(range(len(ids)))
        splits = tokenizer.is_fast and (len(set(words)) > 1 or len(texts[index].split()) < 2)
        if whole_words and ids and not splits:
            raise TaskError("the tokenizer does not report where words begin; set whole_words to false")
        yield index, list(ids), list(words) if splits else list(range(len(ids)))


def row_bounds(words: Sequence[int], width: int) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each row of at most `width` tokens. A word is split only if it is longer than a row."""
    start = 0
    while start < len(words):
        end = min(start + width, len(words))
        whole = end
        while start < whole < len(words) and words[whole - 1] == words[whole]:
            whole -= 1
        end = whole if whole > start else end
        yield start, end
        start = end


def chosen_tokens(units: Sequence[int], fraction: float, generator: np.random.Generator) -> list[int]:
    """Sorted indices of the tokens to mask: randomly chosen words (runs of equal `units`), until the fraction is reached."""
    members = [[index for index, _ in group] for _, group in groupby(enumerate(units), key=lambda pair: pair[1])]
    wanted = max(1, round(fraction * len(units)))
    hidden: list[int] = []
    for unit in generator.permutation(len(members)):
        if len(hidden) >= wanted:
            break
        hidden += members[unit]
    return sorted(hidden)
