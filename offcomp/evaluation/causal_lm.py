"""Next-token prediction: the perplexity of a causal language model on texts.

Each text is scored separately, after any special tokens that the tokenizer prepends. A text longer than `context` is read in
overlapping windows that advance by `stride`; each window scores only tokens that no earlier window has scored. If the stride is
shorter than the context, every token but the first is scored once, with at least `context - stride` tokens of context where
available (the procedure described at https://huggingface.co/docs/transformers/perplexity). If the stride equals the context,
the windows are disjoint and the first token of each window is not scored. Perplexity is exp(mean negative log-likelihood in
nats) over the scored tokens. It depends on the context, stride and tokenizer, and would be lower if the whole corpus were
joined into a single text.

The result also shows how the original and the compressed model continue the same text openings (`continuations`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import BatchEncoding

from offcomp.errors import TaskError
from offcomp.evaluation.base import Arrays, TaskData
from offcomp.evaluation.batches import tokenizer_of
from offcomp.evaluation.continuations import Continuations
from offcomp.evaluation.token_losses import Row, TokenTask, bare_tokens, counted_tokens, logits_at, special_tokens_around
from offcomp.models.loading import LoadedModel
from offcomp.models.positions import longest_text
from offcomp.models.tokens import check_known
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.scores import Score

TRIED_TOKENS = 16


class CausalLM(TokenTask):
    """See the module docstring.

    `reference` and `predict` return `loss` (tokens,) in nats and `correct` (tokens,) for the scored tokens, and
    `continuations` (openings, new tokens).
    """

    def __init__(self, loaded: LoadedModel, data: TaskData):
        rows, settings, encoded, before = window_rows(loaded, data)
        super().__init__(loaded, data, rows, list(counted_tokens(tokenizer_of(loaded), data)), settings)
        self.continuations = Continuations(loaded, encoded, before)

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """Per-token losses and correctness of the original model, and its continuations of the openings."""
        return {**super().reference(report), "continuations": self.continuations.write(self.token_rows.gathers)}

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """Perplexities, their paired comparison, and the two models' continuations of each opening."""
        written = self.continuations.compare(reference["continuations"], predictions["continuations"])
        return super().compare(reference, predictions).model_copy(update={"continuations": written})


def window_rows(loaded: LoadedModel, data: TaskData) -> tuple[list[Row], dict[str, Any], BatchEncoding, list[int]]:
    """The windows of all texts with their targets, the settings adapted to the model, the tokenised texts, and the tokens that
    the tokenizer prepends.

    Raises TaskError if a setting is out of range or the model attends to the tokens that it must predict.
    """
    tokenizer = tokenizer_of(loaded)
    settings = dict(data.task.settings)
    context, stride = settings["context"], settings["stride"]
    if not 1 <= stride <= context or context < 2:
        raise TaskError(f"stride must be between 1 and context, and context at least 2, not {stride} and {context}")
    settings["context"] = longest_text(loaded.model, context)
    settings["stride"] = min(stride, settings["context"])
    before, _ = special_tokens_around(tokenizer, data.texts)
    encoded = bare_tokens(tokenizer, data.texts)
    rows: list[Row] = []
    for index, ids in enumerate(encoded["input_ids"]):
        rows += _rows(index, [*before, *ids], len(before), settings["context"], settings["stride"])
    if rows:
        ids = max(rows, key=lambda row: len(row.ids)).ids
        check_known(loaded.model, [ids])
        _check_direction(loaded, ids)
    return rows, settings, encoded, before


def windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield the start, end and first scored token of each window over `length` tokens."""
    scored = 0
    for start in range(0, length, stride):
        end = min(start + context, length)
        yield start, end, max(scored, start + 1)
        scored = end
        if end == length:
            break


def _rows(text: int, ids: list[int], before: int, context: int, stride: int) -> Iterator[Row]:
    """Yield the windows of a text. Its first `before` tokens are special tokens and are not scored."""
    for start, end, first in windows(len(ids), context, stride):
        targets = range(max(first, before), end)
        if targets:
            yield Row(text, ids[start:end], [target - 1 - start for target in targets], [ids[target] for target in targets])


def _check_direction(loaded: LoadedModel, ids: list[int]) -> None:
    """Check that the model does not attend to the tokens it must predict. Raises TaskError."""
    tried = torch.tensor([ids[:TRIED_TOKENS]]).to(loaded.model.device)
    everywhere = torch.ones_like(tried, dtype=torch.bool)
    with torch.inference_mode():
        whole = logits_at(loaded.model, {"input_ids": tried}, everywhere, gathers=False)[:-1]
        shorter = logits_at(loaded.model, {"input_ids": tried[:, :-1]}, everywhere[:, :-1], gathers=False)
    if whole.isfinite().all() and not torch.allclose(whole, shorter, rtol=1e-2, atol=1e-2 * float(whole.abs().max())):
        raise TaskError(
            f"{loaded.info.model} attends to the tokens that it must predict, so its perplexity would be meaningless; "
            "set is_decoder in its config.json or choose a different task"
        )
