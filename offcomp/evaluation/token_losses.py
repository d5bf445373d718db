"""Score a language model on target tokens: the loss of each in nats, and whether it is the model's top prediction.

A row is one input sequence. Only the target positions are passed to the model's head: with a vocabulary of 250,000, the head
costs more than the layers below it. One row is first checked to give the same logits that way. The original's distributions
are not stored (a gigabyte for some models), so no divergence is reported with a perplexity.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offcomp.errors import TaskError
from offcomp.evaluation.base import Arrays, TaskData
from offcomp.evaluation.batches import BATCH_SIZE, tokenizer_of
from offcomp.evaluation.comparison import compare_losses
from offcomp.models.loading import LoadedModel
from offcomp.models.tokens import encode
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.tasks import unfit

MAX_LOGITS = 2**22  # values that the head computes at once: 16 MiB
NOTHING_TO_TELL = "the test split of task {!r} has no token to predict; give it longer texts"
ENOUGH_TEXTS = 10  # with fewer texts, rows rather than texts are treated as independent


@dataclass(frozen=True)
class Row:
    """One input sequence and its targets.

    text      index of the text in the test split
    ids       input tokens
    places    ascending indices into `ids` at which predictions are read
    targets   the correct token for each of those positions
    """

    text: int
    ids: list[int]
    places: list[int]
    targets: list[int]


class TokenTask:
    """Evaluate rows. Reference and predictions: `loss` (tokens,) in nats and `correct` (tokens,), row by row."""

    def __init__(
        self, loaded: LoadedModel, data: TaskData, rows: Sequence[Row], counted: Sequence[int], settings: Mapping[str, Any]
    ):
        if not rows:
            raise TaskError(NOTHING_TO_TELL.format(data.task.name))
        self.rows = tuple(rows)
        self.settings = dict(settings)
        self._loaded, self._data = loaded, data
        vocabulary, self._gathers = _head(loaded, self.rows)
        targets = np.concatenate([row.targets for row in self.rows])
        self.unigram = unigram_perplexity(targets, np.array(counted, np.int64), vocabulary)
        self._batches = _batches(self.rows, vocabulary, self._gathers, tokenizer_of(loaded).pad_token_id)

    def about(self) -> dict[str, Any]:
        """Nothing: long texts are split into rows, not truncated."""
        return {}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """Losses and correctness of the original for each token. Raises TaskError if losses are not finite."""
        losses: NDArray[np.float64] = np.empty(sum(len(batch.where) for batch in self._batches))
        correct = np.empty(len(losses), bool)
        done = 0
        for batch in self._batches:
            with torch.inference_mode():
                losses[batch.where], correct[batch.where] = _answers(self._loaded.model, batch, self._gathers)
            done += len(batch.where)
            report(done / len(losses))
        if not np.isfinite(losses).all():
            raise TaskError(f"{self._loaded.info.model} outputs values that are not finite, so no task can be scored")
        return {"loss": losses, "correct": correct}

    def predict(self, reference: Arrays, report: Report = ignore_progress) -> Arrays:
        """Losses and correctness of the current model for each token."""
        return self.reference(report)

    def compare(self, reference: Arrays, predictions: Arrays) -> dict[str, Any]:
        """Perplexities and the paired comparison, with the settings as adapted to the model's limits."""
        units, texts = self._units()
        compared = compare_losses(
            reference["loss"],
            predictions["loss"],
            rows=units,
            texts=texts,
            metric=self._data.task.about.metric,
            baseline={"name": "unigram", "value": self.unigram},
            correct_original=reference["correct"],
            correct_compressed=predictions["correct"],
        )
        return compared | {"protocol": self.settings}

    def _units(self) -> tuple[NDArray[np.int64], list[str]]:
        """For each token the index of its independent unit (a text or a row), and the texts of these units."""
        lengths = [len(row.places) for row in self.rows]
        if len({row.text for row in self.rows}) >= ENOUGH_TEXTS:
            return np.repeat([row.text for row in self.rows], lengths), list(self._data.splits["test"]["text"])
        shown = [tokenizer_of(self._loaded).decode(row.ids) for row in self.rows]
        return np.repeat(np.arange(len(self.rows)), lengths), shown


def open_tokenizer(loaded: LoadedModel, data: TaskData) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that can do the task. Raises TaskError."""
    reason = unfit(data.task, loaded.info.architecture, loaded.info.reads_text)
    if reason:
        raise TaskError(reason.removesuffix("."))
    if not len(data.splits["test"]):
        raise TaskError(NOTHING_TO_TELL.format(data.task.name))
    return tokenizer_of(loaded)


def frame(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer adds before and after a text."""
    bare = encode(tokenizer, text, add_special_tokens=False, verbose=False)["input_ids"]
    framed = encode(tokenizer, text, verbose=False)["input_ids"]
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    return [], []


def counted_texts(data: TaskData) -> list[str]:
    """The texts from which the unigram distribution is estimated: the validation split if there is one, else the test split."""
    validation = data.splits.get("validation")
    return list((validation or data.splits["test"])["text"])


def unigram_perplexity(targets: NDArray[np.int64], counted: NDArray[np.int64], vocabulary: int) -> float:
    """Perplexity of `targets` under the add-one-smoothed frequencies of the tokens in `counted`."""
    counts = np.bincount(counted[counted < vocabulary], minlength=vocabulary) + 1
    return exp(-float(np.log(counts[targets] / counts.sum()).mean()))


def logits_at(model: PreTrainedModel, inputs: Mapping[str, Tensor], asked: Tensor, gathers: bool) -> Tensor:
    """Logits (places, vocabulary) at the positions where `asked` (rows, tokens) is true."""
    takes_cache = "use_cache" in inspect.signature(model.forward).parameters
    options = {"use_cache": False} if takes_cache else {}
    if gathers:
        with _hidden_states_only_at(model, asked) as chosen:
            scores = _scores(model(**inputs, **options, return_dict=True))
        if not chosen:
            raise LookupError("the model does not call its base model, so no positions were selected")
        return scores[0]
    return _scores(model(**inputs, **options, return_dict=True))[asked]


@dataclass(frozen=True)
class _Batch:
    """Padded rows: `inputs` and `asked` (rows, tokens), `targets` (places,), and `where` (places,), indices in the result."""

    inputs: dict[str, Tensor]
    asked: Tensor
    targets: Tensor
    where: NDArray[np.int64]


def _head(loaded: LoadedModel, rows: Sequence[Row]) -> tuple[int, bool]:
    """Size of the model's vocabulary, and whether its head can be run on the target positions alone. Raises TaskError."""
    model = loaded.model
    largest = max(max(row.ids) for row in rows)
    known = model.get_input_embeddings().num_embeddings
    if largest >= known:
        raise TaskError(
            f"the tokenizer of {loaded.info.model} produces the token id {largest}, but the model has only {known} tokens; "
            "use the tokenizer that belongs to the model"
        )
    longest = max(rows, key=lambda row: len(row.ids))
    (batch,) = _batches([longest], 1, False, 0)
    inputs = {name: tensor.to(model.device) for name, tensor in batch.inputs.items()}
    asked = batch.asked.to(model.device)
    with torch.inference_mode():
        plain = logits_at(model, inputs, asked, gathers=False)
        if plain.ndim != 2 or plain.shape[1] <= max(longest.targets):
            raise TaskError(f"{loaded.info.model} is a {loaded.info.architecture}, whose head does not predict tokens")
        return plain.shape[1], _can_gather(model, inputs, asked, plain)


def _can_gather(model: PreTrainedModel, inputs: Mapping[str, Tensor], asked: Tensor, plain: Tensor) -> bool:
    """Return whether the head gives the same logits when run on the target positions alone."""
    if model.base_model is model or not plain.isfinite().all():
        return False
    try:
        gathered = logits_at(model, inputs, asked, gathers=True)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):  # the head needs whole rows
        return False
    return gathered.shape == plain.shape and torch.allclose(gathered, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))


@contextmanager
def _hidden_states_only_at(model: PreTrainedModel, asked: Tensor) -> Iterator[list[Tensor]]:
    """Pass only the base model's hidden states at the target positions on to the head, as one row (1, places, hidden).

    Yields a list that receives those states when the model runs.
    """
    seen: list[Tensor] = []

    def choose(_module: object, _inputs: object, output: Any) -> Any:
        chosen = output[0][asked].unsqueeze(0)
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
    """The token logits; a ...ForPreTraining model also outputs those of its other head."""
    return output["prediction_logits"] if "prediction_logits" in output else output["logits"]


def _answers(model: PreTrainedModel, batch: _Batch, gathers: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Loss in nats (places,), and whether the top prediction is correct (places,)."""
    inputs = {name: tensor.to(model.device) for name, tensor in batch.inputs.items()}
    logits = logits_at(model, inputs, batch.asked.to(model.device), gathers).float()
    targets = batch.targets.to(model.device)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return losses.double().cpu().numpy(), (logits.argmax(1) == targets).cpu().numpy()


def _batches(rows: Sequence[Row], vocabulary: int, gathers: bool, pad: int) -> list[_Batch]:
    """The rows, longest first, in batches of at most BATCH_SIZE rows and, where possible, MAX_LOGITS logits."""
    starts = np.cumsum([0, *(len(row.places) for row in rows)])
    batches: list[list[int]] = []
    filled = 0
    for index in sorted(range(len(rows)), key=lambda i: -len(rows[i].ids)):
        size = vocabulary * len(rows[index].places if gathers else rows[index].ids)
        if not batches or len(batches[-1]) == BATCH_SIZE or filled + size > MAX_LOGITS:
            batches.append([])
            filled = 0
        batches[-1].append(index)
        filled += size
    return [_batch([rows[i] for i in chosen], [int(starts[i]) for i in chosen], pad) for chosen in batches]


def _batch(rows: Sequence[Row], starts: Sequence[int], pad: int) -> _Batch:
    """These rows as tensors; the results of each row begin at `starts`."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad)
    attention, asked = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        attention[index, : len(row.ids)] = 1
        asked[index, row.places] = True
    targets = torch.tensor([target for row in rows for target in row.targets])
    where = np.concatenate([np.arange(start, start + len(row.places)) for row, start in zip(rows, starts, strict=True)])
    return _Batch({"input_ids": ids, "attention_mask": attention}, asked, targets, where)
