"""Sentence embeddings: the mean of the last hidden states over a text's tokens, padding left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from offcomp.errors import TaskError
from offcomp.evaluation.batches import Batches, batches
from offcomp.methods.base import Report, ignore_progress
from offcomp.models.loading import LoadedModel, last_hidden_state

if TYPE_CHECKING:
    Embeddings = NDArray[np.float32]


def embed(loaded: LoadedModel, texts: Sequence[str] | Batches, report: Report = ignore_progress) -> Embeddings:
    """Embeddings (texts, hidden). Raises TaskError where there is no tokenizer or values are not finite."""
    ready = texts if isinstance(texts, Batches) else batches(loaded, texts)
    embeddings: Embeddings | None = None
    for rows, inputs in ready.on(loaded, report):
        hidden = last_hidden_state(loaded.model, **inputs).float()  # (batch, tokens, hidden)
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        pooled = ((hidden * mask).sum(1) / mask.sum(1).clamp_min(1)).cpu().numpy()
        if embeddings is None:
            embeddings = np.empty((ready.count, pooled.shape[1]), np.float32)
        embeddings[rows] = pooled
    if embeddings is None or not np.isfinite(embeddings).all():
        raise TaskError(f"{loaded.info.model} gives embeddings that are not finite, so no task can be scored")
    return embeddings


class SplitEmbedder:
    """The texts of a split, tokenised once, each distinct text embedded once however often it occurs."""

    def __init__(self, loaded: LoadedModel, split: Dataset):
        columns = ("text",) if "text" in split.column_names else ("sentence1", "sentence2")
        texts = [text for column in columns for text in split[column]]
        distinct, inverse = np.unique(np.array(texts, dtype=object), return_inverse=True)
        self._loaded = loaded
        self._batches = batches(loaded, list(distinct))
        self._places = inverse.reshape(len(columns), len(split))

    def sentences(self, report: Report) -> list[Embeddings]:
        """Embeddings (examples, hidden) of the text, or of both sentences of a pair."""
        embeddings = embed(self._loaded, self._batches, report)
        return [embeddings[places] for places in self._places]

    def features(self, report: Report) -> Embeddings:
        """What a probe reads: a text's embedding (examples, hidden), or |u - v| and u * v of a pair (examples, 2 hidden)."""
        first, *others = self.sentences(report)
        return np.concatenate([np.abs(first - others[0]), first * others[0]], axis=1) if others else first


def shown_texts(split: Dataset) -> list[str]:
    """Each example as one line, a pair with a bar between its sentences."""
    if "text" in split.column_names:
        return list(split["text"])
    return [f"{first} | {second}" for first, second in zip(split["sentence1"], split["sentence2"], strict=True)]


def cosines(first: Embeddings, second: Embeddings) -> NDArray[np.float64]:
    """Cosine of each pair of rows (examples,); 0 where an embedding is zero."""
    left, right = (torch.nn.functional.normalize(torch.from_numpy(part).double(), dim=1) for part in (first, second))
    return (left * right).sum(1).numpy()


def part(report: Report, start: float, end: float) -> Report:
    """A report for a part of the work."""
    return lambda fraction: report(start + (end - start) * fraction)
