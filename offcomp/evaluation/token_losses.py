"""Score a language model on target tokens: the loss of each token in nats, and whether it is the top prediction.

A row is one input sequence. Only the target positions are passed to the model's head, since the head costs more than the
layers below it if the vocabulary has 250,000 tokens. One row is first run with and without this shortcut; if the logits differ,
the head is always run on whole rows. `offcomp.evaluation.token_fidelity` compares whole distributions at a sample of positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from math import exp
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from offcomp.errors import TaskError
from offcomp.evaluation.base import Arrays, Evaluator, TaskData
from offcomp.evaluation.batches import BATCH_SIZE, tokenizer_of
from offcomp.evaluation.comparison import compare_losses
from offcomp.models.loading import LoadedModel
from offcomp.models.tokens import check_known, encode
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.scores import Baseline, Score

MAX_LOGITS = 2**22  # maximum number of logits computed at once: 16 MiB
ENOUGH_TEXTS = 10  # with fewer texts, rows rather than texts are treated as independent


@dataclass(frozen=True)
class Row:
    """One input sequence and its targets.

    text      index of the text in the test split
    ids       input tokens
    positions ascending indices into `ids` at which predictions are read
    targets   the correct token for each of those positions
    source    tokens that the encoder reads, if `ids` are those of the decoder; empty for a model without a decoder of its own
    """

    text: int
    ids: list[int]
    positions: list[int]
    targets: list[int]
    source: Sequence[int] = ()


class TokenRows:
    """Rows prepared for a model, whose logits are computed at the target positions.

    gathers     whether the model's head is run on the target positions alone
    """

    def __init__(self, loaded: LoadedModel, data: TaskData, rows: Sequence[Row]):
        if not rows:
            raise TaskError(f"the test split of task {data.task.name!r} has no tokens to predict; use longer texts")
        self.rows = tuple(rows)
        self.count = sum(len(row.targets) for row in self.rows)
        self._loaded, self._data = loaded, data
        self.vocabulary, self.gathers = _head(loaded, self.rows)
        self._batches = _batches(self.rows, self.vocabulary, self.gathers, tokenizer_of(loaded).pad_token_id)

    def logits(self, report: Report) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        """Yield batches of target indices, logits (targets, vocabulary) and correct tokens, in inference mode."""
        model, done = self._loaded.model, 0
        for batch in self._batches:
            inputs = {name: tensor.to(model.device) for name, tensor in batch.inputs.items()}
            with torch.inference_mode():
                logits = logits_at(model, inputs, batch.is_target.to(model.device), self.gathers).float()
                yield batch.indices, logits, batch.targets.to(model.device)
            done += len(batch.indices)
            report(done / self.count)

    def units(self) -> tuple[NDArray[np.int64], list[str]]:
        """The index of each token's independent unit (a text or a row), and the texts of these units."""
        lengths = [len(row.positions) for row in self.rows]
        if len({row.text for row in self.rows}) >= ENOUGH_TEXTS:
            return np.repeat([row.text for row in self.rows], lengths), self._data.texts
        shown = [tokenizer_of(self._loaded).decode(row.ids) for row in self.rows]
        return np.repeat(np.arange(len(self.rows)), lengths), shown


class TokenTask(Evaluator):
    """Score target tokens. `reference` and `predict` return `loss` (tokens,) in nats and `correct` (tokens,), row by row."""

    def __init__(
        self, loaded: LoadedModel, data: TaskData, rows: Sequence[Row], counted: Sequence[int], settings: Mapping[str, Any]
    ):
        self.token_rows = TokenRows(loaded, data, rows)
        self.settings = dict(settings)
        self._loaded, self._data = loaded, data
        targets = np.concatenate([row.targets for row in self.rows])
        self.unigram = unigram_perplexity(targets, np.array(counted, np.int64), self.token_rows.vocabulary)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The input sequences, in order of their text."""
        return self.token_rows.rows

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """Per-token losses and correctness of the original model. Raises TaskError if any loss is not finite."""
        losses: NDArray[np.float64] = np.empty(self.token_rows.count)
        correct = np.empty(len(losses), bool)
        for indices, logits, targets in self.token_rows.logits(report):
            token_losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            losses[indices] = token_losses.double().cpu().numpy()
            correct[indices] = (logits.argmax(1) == targets).cpu().numpy()
        if not np.isfinite(losses).all():
            raise TaskError(f"{self._loaded.info.model} outputs values that are not finite, so no task can be scored")
        return {"loss": losses, "correct": correct}

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """Perplexities, their paired comparison, and the settings adapted to the model's limits."""
        units, texts = self.token_rows.units()
        compared = compare_losses(
            reference["loss"],
            predictions["loss"],
            rows=units,
            texts=texts,
            metric=self._data.task.kind.metric,
            baseline=Baseline(name="unigram", value=self.unigram),
        )
        accuracies = {"original": float(reference["correct"].mean()), "compressed": float(predictions["correct"].mean())}
        return compared.model_copy(update={"token_accuracy": accuracies, "protocol": dict(self.settings)})


def bare_tokens(tokenizer: PreTrainedTokenizerBase, texts: str | Sequence[str]) -> BatchEncoding:
    """Tokenise texts without adding special tokens."""
    return encode(tokenizer, texts, add_special_tokens=False, verbose=False)


def special_tokens_around(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer adds before and after a text."""
    text = next((text for text in texts if text.strip()), "")
    bare = bare_tokens(tokenizer, text)["input_ids"]
    framed = encode(tokenizer, text, verbose=False)["input_ids"]
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    return [], []


def counted_tokens(tokenizer: PreTrainedTokenizerBase, data: TaskData) -> Iterator[int]:
    """Tokens for estimating the unigram distribution, taken from the validation split or, if there is none, the test split."""
    texts = list((data.splits.get("validation") or data.splits["test"])["text"])
    return chain.from_iterable(bare_tokens(tokenizer, texts)["input_ids"])


def unigram_perplexity(targets: NDArray[np.int64], counted: NDArray[np.int64], vocabulary: int) -> float:
    """Perplexity of `targets` under the add-one-smoothed token frequencies in `counted`."""
    counts = np.bincount(counted[counted < vocabulary], minlength=vocabulary) + 1
    return exp(-float(np.log(counts[targets] / counts.sum()).mean()))


def logits_at(model: PreTrainedModel, inputs: Mapping[str, Tensor], is_target: Tensor, gathers: bool) -> Tensor:
    """Logits (targets, vocabulary) at the positions where `is_target` (rows, tokens) is true."""
    takes_cache = "use_cache" in inspect.signature(model.forward).parameters
    options = {"use_cache": False} if takes_cache else {}
    if not gathers:
        return _scores(model(**inputs, **options, return_dict=True))[is_target]
    with _hidden_states_only_at(model, is_target) as chosen:
        scores = _scores(model(**inputs, **options, return_dict=True))
    if not chosen:
        raise LookupError("the model does not call its base model, so no positions were selected")
    return scores[0]


@dataclass(frozen=True)
class _Batch:
    """Padded rows: `inputs` and `is_target` (rows, tokens), `targets` (targets,), and `indices` (targets,) into the result."""

    inputs: dict[str, Tensor]
    is_target: Tensor
    targets: Tensor
    indices: NDArray[np.int64]


def _head(loaded: LoadedModel, rows: Sequence[Row]) -> tuple[int, bool]:
    """Size of the model's vocabulary, and whether its head can be run on the target positions alone. Raises TaskError."""
    model = loaded.model
    check_known(model, [row.ids for row in rows])
    longest = max(rows, key=lambda row: len(row.ids))
    (batch,) = _batches([longest], 1, False, 0)
    inputs = {name: tensor.to(model.device) for name, tensor in batch.inputs.items()}
    is_target = batch.is_target.to(model.device)
    with torch.inference_mode():
        plain = logits_at(model, inputs, is_target, gathers=False)
        if plain.ndim != 2 or plain.shape[1] <= max(longest.targets):
            raise TaskError(f"{loaded.info.model} ({loaded.info.architecture}) has no head that predicts tokens")
        return plain.shape[1], _can_gather(model, inputs, is_target, plain)


def _can_gather(model: PreTrainedModel, inputs: Mapping[str, Tensor], is_target: Tensor, plain: Tensor) -> bool:
    """Return whether the head gives the same logits when run on the target positions alone."""
    if model.base_model is model or not plain.isfinite().all():
        return False
    try:
        gathered = logits_at(model, inputs, is_target, gathers=True)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):  # the head needs whole rows
        return False
    return gathered.shape == plain.shape and torch.allclose(gathered, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))


@contextmanager
def _hidden_states_only_at(model: PreTrainedModel, is_target: Tensor) -> Iterator[list[Tensor]]:
    """When the model runs, pass only the hidden states at the target positions to its head, as one row (1, targets, hidden).

    Yields a list to which these hidden states are appended.
    """
    seen: list[Tensor] = []

    def choose(_module: object, _inputs: object, output: Any) -> Any:
        chosen = output[0][is_target].unsqueeze(0)
        seen.append(chosen)
        if isinstance(output, tuple):
            return (chosen, *output[1:])
        output["last_hidden_state"] = chosen
        return output

    handle = model.base_model.register_forward_hook(choose)
    try:
        yield seen
    finally:
        handle.remove()


def _scores(output: Mapping[str, Tensor]) -> Tensor:
    """The token logits. A ...ForPreTraining model also outputs the logits of another head."""
    return output["prediction_logits"] if "prediction_logits" in output else output["logits"]


def _batches(rows: Sequence[Row], vocabulary: int, gathers: bool, pad: int) -> list[_Batch]:
    """Group the rows, longest first, into batches of at most BATCH_SIZE rows and, where possible, MAX_LOGITS logits."""
    starts = np.cumsum([0, *(len(row.positions) for row in rows)])
    batches: list[list[int]] = []
    filled = 0
    for index in sorted(range(len(rows)), key=lambda i: -len(rows[i].ids)):
        size = vocabulary * len(rows[index].positions if gathers else rows[index].ids)
        if not batches or len(batches[-1]) == BATCH_SIZE or filled + size > MAX_LOGITS:
            batches.append([])
            filled = 0
        batches[-1].append(index)
        filled += size
    return [_batch([rows[i] for i in chosen], [int(starts[i]) for i in chosen], pad) for chosen in batches]


def _batch(rows: Sequence[Row], starts: Sequence[int], pad: int) -> _Batch:
    """Convert rows to tensors. The results of row i begin at `starts[i]`."""
    ids, attention = _padded([row.ids for row in rows], pad)
    is_target = torch.zeros_like(ids, dtype=torch.bool)
    for index, row in enumerate(rows):
        is_target[index, row.positions] = True
    targets = torch.tensor([target for row in rows for target in row.targets])
    indices = np.concatenate([np.arange(start, start + len(row.targets)) for row, start in zip(rows, starts, strict=True)])
    inputs = {"input_ids": ids, "attention_mask": attention}
    if rows[0].source:
        source, read = _padded([row.source for row in rows], pad)
        inputs = {f"decoder_{name}": tensor for name, tensor in inputs.items()} | {"input_ids": source, "attention_mask": read}
    return _Batch(inputs, is_target, targets, indices)


def _padded(ids: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (rows, tokens), padded on the right."""
    attention = pad_sequence([torch.ones(len(each), dtype=torch.long) for each in ids], batch_first=True)
    return pad_sequence([torch.tensor(each) for each in ids], batch_first=True, padding_value=pad), attention
