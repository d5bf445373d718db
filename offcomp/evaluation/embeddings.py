"""Sentence embeddings, pooled, projected and normalised as the model's folder specifies; by default, the mean over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from offcomp.errors import TaskError
from offcomp.evaluation.base import text_columns
from offcomp.evaluation.batches import Batches, batches, declared_limit, tokenizer_of
from offcomp.evaluation.pooling import Pooler
from offcomp.models.loading import LoadedModel, last_hidden_state
from offcomp.models.tokens import encode
from offcomp.numerics.progress import Report, ignore_progress

if TYPE_CHECKING:
    Embeddings = NDArray[np.float32]


def embed(loaded: LoadedModel, texts: Sequence[str] | Batches, report: Report = ignore_progress) -> Embeddings:
    """Embed texts. Returns (texts, features). Raises TaskError if there is no tokenizer or any value is not finite.

    Raises ModelError if the model's folder specifies an unsupported embedding.
    """
    ready = texts if isinstance(texts, Batches) else embedding_batches(loaded, texts)
    embeddings: Embeddings | None = None
    pool: Pooler | None = None
    for rows, inputs in ready.on(loaded, report):
        hidden = last_hidden_state(loaded.model, **inputs).float()  # (batch, tokens, hidden)
        pool = pool or Pooler(loaded.sentence_modules, hidden.shape[-1], _prompt_tokens(loaded))
        pooled = pool(hidden, inputs["attention_mask"]).cpu().numpy()
        if embeddings is None:
            embeddings = np.empty((ready.count, pooled.shape[1]), np.float32)
        embeddings[rows] = pooled
    if embeddings is None or not np.isfinite(embeddings).all():
        raise TaskError(f"{loaded.info.model} produces embeddings that are not finite, so no task can be scored")
    return embeddings


def embedding_batches(loaded: LoadedModel, texts: Sequence[str]) -> Batches:
    """Prepend the model's prompt to texts, truncate them to its limit and batch them. Raises TaskError and ModelError."""
    modules = loaded.sentence_modules
    limit = declared_limit(loaded, modules) if modules.declared else None
    return batches(loaded, [modules.prepared(text) for text in texts], limit=limit)


def _prompt_tokens(loaded: LoadedModel) -> int:
    """The number of leading prompt tokens that are excluded from pooling."""
    modules = loaded.sentence_modules
    if modules.pools_prompt or not modules.prompt:
        return 0
    tokenizer = tokenizer_of(loaded)
    tokens = encode(tokenizer, modules.prepared(""))["input_ids"]
    return len(tokens) - (tokens[-1] in tokenizer.all_special_ids)


class SplitEmbedder:
    """Embeds the texts of a split, which are tokenised once. Repeated texts are embedded only once."""

    def __init__(self, loaded: LoadedModel, split: Dataset):
        distinct, self._indices = np.unique(np.array(text_columns(split), dtype=object), return_inverse=True)
        self._loaded = loaded
        self.batches = embedding_batches(loaded, list(distinct))

    def details(self) -> dict[str, Any]:
        """How the texts are embedded, and how many of them (including repeated texts) are truncated."""
        return {"embedding": str(self._loaded.sentence_modules), "cut": self.batches.cut_figures(self._indices)}

    def sentences(self, report: Report) -> list[Embeddings]:
        """Embeddings (examples, features) of each text, or of both sentences of each pair."""
        embeddings = embed(self._loaded, self.batches, report)
        return [embeddings[indices] for indices in self._indices]

    def features(self, report: Report) -> Embeddings:
        """Probe inputs: text embeddings (examples, features) or, for pairs, the concatenation of |u - v| and u * v."""
        first, *others = self.sentences(report)
        return np.concatenate([np.abs(first - others[0]), first * others[0]], axis=1) if others else first


def cosines(first: Embeddings, second: Embeddings) -> NDArray[np.float64]:
    """Cosine similarity of each pair of rows (examples,); 0 if an embedding is zero."""
    left, right = (torch.nn.functional.normalize(torch.from_numpy(part).double(), dim=1) for part in (first, second))
    return (left * right).sum(1).numpy()


def part(report: Report, start: float, end: float) -> Report:
    """Map the progress of one part of the work to overall progress between `start` and `end`."""
    return lambda fraction: report(start + (end - start) * fraction)
