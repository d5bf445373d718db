"""Fidelity of token predictions: KL(original ‖ compressed) of the predicted distributions, in nats, averaged over positions.

Masked models are compared at masked positions, causal models at next-token positions; rows, masks and windows are those of
`offcomp.evaluation.masked_lm` and `offcomp.evaluation.causal_lm`. The task option `positions` limits how many positions are
compared: if there are more, a fixed random sample of them is used.

The original is no longer in memory when the compressed model runs, so its log-probabilities are kept, in at most LARGEST_KEPT
bytes. If the vocabulary is too large, only the most likely tokens of each position are kept, and all others are merged into one
outcome. Merging outcomes can only lower a KL divergence; a note beside the score says how much probability is merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offcomp.errors import TaskError
from offcomp.evaluation.base import Arrays, Evaluator, TaskData
from offcomp.evaluation.causal_lm import window_rows
from offcomp.evaluation.comparison import compare_fidelity
from offcomp.evaluation.fidelity import divergences
from offcomp.evaluation.masked_lm import masked_rows
from offcomp.evaluation.token_losses import Row, TokenRows
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.scores import Score

LARGEST_KEPT = 2**26
"""Maximum size in bytes of the original's distributions, which are kept in memory and in the cache: 64 MiB."""
VALUE_BYTES = 4  # of a log-probability, and of a token id


class TokenFidelity(Evaluator):
    """See the module docstring.

    `reference` and `predict` return the `divergence` (positions,). `reference` also returns `log_probabilities`
    (positions, vocabulary); or, if these are too large, `tokens` (positions, kept) and `log_probabilities`
    (positions, kept + 1), whose last column belongs to all other tokens.
    """

    def __init__(self, loaded: LoadedModel, data: TaskData, rows: Sequence[Row], settings: Mapping[str, Any]):
        if settings["positions"] < 1:
            raise TaskError(f"positions must be at least 1, not {settings['positions']}")
        self.token_rows = TokenRows(loaded, data, sampled_positions(rows, settings["positions"]))
        self.settings = {**settings, "positions": self.token_rows.count}
        self._loaded, self._data = loaded, data

    @property
    def kept(self) -> int:
        """The number of tokens per position whose log-probabilities are kept."""
        values = LARGEST_KEPT // (VALUE_BYTES * self.token_rows.count)
        return self.token_rows.vocabulary if values >= self.token_rows.vocabulary else max(1, values // 2)

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """The original's distributions. Raises TaskError if any value is not finite."""
        count, kept = self.token_rows.count, self.kept
        whole = kept == self.token_rows.vocabulary
        logs: NDArray[np.float32] = np.empty((count, kept if whole else kept + 1), np.float32)
        tokens: NDArray[np.int32] = np.empty((count, 0 if whole else kept), np.int32)
        for indices, logits, _ in self.token_rows.logits(report):
            likeliest = None if whole else logits.topk(kept, dim=1).indices
            logs[indices] = log_probabilities(logits, likeliest).cpu().numpy()
            if likeliest is not None:
                tokens[indices] = likeliest.int().cpu().numpy()
        self._check(logs.max(1))
        reference: Arrays = {"log_probabilities": logs, "divergence": np.zeros(count)}
        return reference if whole else {**reference, "tokens": tokens}

    def predict(self, reference: Arrays, report: Report = ignore_progress) -> Arrays:
        """The divergence of the current model's distributions. Raises TaskError if any value is not finite."""
        divergence: NDArray[np.float64] = np.empty(self.token_rows.count)
        for indices, logits, _ in self.token_rows.logits(report):
            tokens = torch.from_numpy(reference["tokens"][indices]).long().to(logits.device) if "tokens" in reference else None
            logs = log_probabilities(logits, tokens).cpu().numpy()
            divergence[indices] = divergences(reference["log_probabilities"][indices], logs)
        self._check(divergence)
        return {"divergence": divergence}

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """The mean KL divergence, the texts whose predictions changed most, and a note if tokens were merged."""
        units, texts = self.token_rows.units()
        score = compare_fidelity(predictions["divergence"], rows=units, texts=texts, metric=self._data.task.kind.metric)
        note = (merged_note(reference["log_probabilities"]),) if "tokens" in reference else ()
        return score.model_copy(update={"protocol": dict(self.settings), "note": note})

    def _check(self, values: NDArray[Any]) -> None:
        if not np.isfinite(values).all():
            raise TaskError(f"{self._loaded.info.model} outputs values that are not finite, so no task can be scored")


def masked_fidelity(loaded: LoadedModel, data: TaskData) -> TokenFidelity:
    """Compare predictions at masked positions. Raises TaskError."""
    return TokenFidelity(loaded, data, *masked_rows(loaded, data))


def causal_fidelity(loaded: LoadedModel, data: TaskData) -> TokenFidelity:
    """Compare predictions of next tokens. Raises TaskError."""
    rows, settings, *_ = window_rows(loaded, data)
    return TokenFidelity(loaded, data, rows, settings)


def sampled_positions(rows: Sequence[Row], most: int) -> list[Row]:
    """The rows, reduced to a random sample of at most `most` positions in total; rows without any position are left out."""
    ends = np.cumsum([len(row.positions) for row in rows])
    total = int(ends[-1]) if len(ends) else 0
    if total <= most:
        return list(rows)
    chosen = np.sort(np.random.default_rng(0).choice(total, most, replace=False))
    sampled = []
    for row, end in zip(rows, ends.tolist(), strict=True):
        start = end - len(row.positions)
        own = (chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, end)] - start).tolist()
        if own:
            sampled.append(replace(row, positions=[row.positions[i] for i in own], targets=[row.targets[i] for i in own]))
    return sampled


def log_probabilities(logits: Tensor, tokens: Tensor | None) -> Tensor:
    """Log-probabilities (positions, vocabulary). With `tokens` (positions, kept): only theirs, plus a column for all others."""
    logs = logits.log_softmax(1)
    if tokens is None:
        return logs
    others = logs.scatter(1, tokens, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([logs.gather(1, tokens), others], dim=1)


def merged_note(logs: NDArray[np.float32]) -> str:
    """State how many tokens at each position are compared individually, from log-probabilities (positions, kept + 1)."""
    share = float(np.exp(logs[:, -1].astype(np.float64)).mean())
    return (
        f"The {logs.shape[1] - 1:,} most likely tokens at each position are compared individually, and all other tokens "
        f"({share:.2%} of the probability) as one; the KL divergence over the whole vocabulary is at least as large."
    )
