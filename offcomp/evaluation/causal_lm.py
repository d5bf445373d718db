"""Telling the next word: how surprised a left-to-right language model is at each token of a text.

Each text stands for itself, after whatever its tokenizer puts before a text. A text longer than `context` is read in windows
that move on by `stride`; every window is asked for the tokens that none before it was asked for. So, with a stride shorter than
the context, each token but the first is told once, with at least `context - stride` tokens before it where the text has them.
That is the procedure of https://huggingface.co/docs/transformers/perplexity. With equal context and stride the windows are
disjoint, and the first token of each is not asked for. The perplexity is exp(mean surprise in nats) over the tokens asked for;
it depends on context, stride and tokenizer, and figures of whole corpora joined into one text are lower.

Beside the figures stands how the original and the compressed model go on from the same openings, see `continuations`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from offcomp.errors import TaskError
from offcomp.evaluation.base import Arrays, TaskData
from offcomp.evaluation.batches import longest_input
from offcomp.evaluation.continuations import Continuations
from offcomp.evaluation.token_losses import Row, TokenTask, counted_texts, frame, logits_at, open_tokenizer
from offcomp.methods.base import Report, ignore_progress
from offcomp.models.loading import LoadedModel
from offcomp.models.tokens import encode

TRIED_TOKENS = 16


class CausalLM(TokenTask):
    """See the module. Reference and predictions: `loss` (tokens,) in nats and `correct` (tokens,) of the tokens asked for, and
    `continuations` (openings, new tokens)."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        tokenizer = open_tokenizer(loaded, data)
        settings = dict(data.task.settings)
        context, stride = settings["context"], settings["stride"]
        if not 1 <= stride <= context or context < 2:
            raise TaskError(f"stride {stride} does not fit context {context}: the stride is at least 1 and at most the context")
        settings["context"] = longest_input(loaded, context)
        settings["stride"] = min(stride, settings["context"])
        texts = list(data.splits["test"]["text"])
        before, _ = frame(tokenizer, next((text for text in texts if text.strip()), ""))
        rows: list[Row] = []
        encoded = encode(tokenizer, texts, add_special_tokens=False, verbose=False)
        for index, ids in enumerate(encoded["input_ids"]):
            rows += _rows(index, [*before, *ids], len(before), settings["context"], settings["stride"])
        counted = encode(tokenizer, counted_texts(data), add_special_tokens=False, verbose=False)["input_ids"]
        super().__init__(loaded, data, rows, [token for ids in counted for token in ids], settings)
        _check_direction(loaded, max(rows, key=lambda row: len(row.ids)).ids)
        self.continuations = Continuations(loaded, encoded, before)

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """What the original makes of each token, and how it goes on from the openings."""
        return {**super().reference(report), "continuations": self.continuations.write(self._gathers)}

    def compare(self, reference: Arrays, predictions: Arrays) -> dict[str, Any]:
        """Perplexities and the paired comparison, and both continuations of each opening."""
        written = self.continuations.compare(reference["continuations"], predictions["continuations"])
        return super().compare(reference, predictions) | {"continuations": written}


def windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Start, end, and the first token asked for, of each window over so many tokens."""
    told = 0
    for start in range(0, length, stride):
        end = min(start + context, length)
        yield start, end, max(told, start + 1)
        told = end
        if end == length:
            break


def _rows(text: int, ids: list[int], before: int, context: int, stride: int) -> Iterator[Row]:
    """The windows of one text that begins with so many special tokens, which are not asked for."""
    for start, end, first in windows(len(ids), context, stride):
        targets = range(max(first, before), end)
        if targets:
            yield Row(text, ids[start:end], [target - 1 - start for target in targets], [ids[target] for target in targets])


def _check_direction(loaded: LoadedModel, ids: list[int]) -> None:
    """A model that reads the tokens it is to tell has no perplexity. Raises TaskError."""
    tried = torch.tensor([ids[:TRIED_TOKENS]], device=loaded.model.device)
    asked = torch.ones_like(tried, dtype=torch.bool)
    with torch.inference_mode():
        whole = logits_at(loaded.model, {"input_ids": tried}, asked, gathers=False)[:-1]
        shorter = logits_at(loaded.model, {"input_ids": tried[:, :-1]}, asked[:, :-1], gathers=False)
    if whole.isfinite().all() and not torch.allclose(whole, shorter, rtol=1e-2, atol=1e-2 * float(whole.abs().max())):
        raise TaskError(
            f"{loaded.info.model} reads the tokens that it is to tell, so its perplexity would mean nothing; "
            "set is_decoder in its config.json or choose another task"
        )
