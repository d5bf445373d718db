"""Classification with the model's own head: nothing is fitted.

The model's outputs are reordered to match the data's classes: by the names in its config, by the task's option `labels`, or,
if the config has only placeholders (LABEL_0, LABEL_1), left as they are. The order is checked with the original model on the
validation split; a head that is far more accurate under another order is rejected rather than scored. Without a validation
split nothing may be selected, so a better order on the test examples is only mentioned in a note next to the score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import factorial, sqrt
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax
from scipy.stats import norm
from torch import Tensor

from offcomp.errors import TaskError, shortly
from offcomp.evaluation.base import Arrays, TaskData
from offcomp.evaluation.batches import Batches, batches, tokenizer_of
from offcomp.evaluation.comparison import compare_classes
from offcomp.evaluation.embeddings import shown_texts
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.head_labels import MULTI_LABEL, ModelHead, label_order
from offcomp.planning.data.tasks import unfit

CHECKED_EXAMPLES = 1000
FALSE_ALARMS = 0.001  # a correct order is rejected in at most one of a thousand cases


class Head:
    """See the module docstring. Reference and predictions: `probabilities` (examples, classes) in the data's class order."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        head = head_of(loaded, data)
        self._loaded, self._data = loaded, data
        self._names = list(data.splits["test"].features["label"].names)
        self.order = label_order(head, self._names, data.task.settings.get("labels"))
        self._batches = split_batches(loaded, data.splits["test"])
        self._validation: Dataset | None = None
        if self.order.known_by != "option" and "validation" in data.splits:
            self._validation = _spread(data.splits["validation"], CHECKED_EXAMPLES)
            self._validation_batches = split_batches(loaded, self._validation)

    def about(self) -> dict[str, Any]:
        """How many texts are truncated."""
        return {"cut": self._batches.cut_figures(np.arange(self._batches.count))}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """The original's probabilities. Raises TaskError if its labels seem to be in the wrong order."""
        start = 0.0
        if self._validation is not None:
            start = len(self._validation) / (len(self._validation) + self._batches.count)
            checked = self._probabilities(self._validation_batches, lambda fraction: report(start * fraction))
            check_order(self._loaded.info.model, np.array(self._validation["label"]), checked.argmax(1), self._names)
        return {"probabilities": self._probabilities(self._batches, lambda fraction: report(start + (1 - start) * fraction))}

    def predict(self, reference: Arrays, report: Report = ignore_progress) -> Arrays:
        """The current model's probabilities."""
        return {"probabilities": self._probabilities(self._batches, report)}

    def compare(self, reference: Arrays, predictions: Arrays) -> dict[str, Any]:
        """Accuracy and the paired comparison, how the labels were matched, and a note if their order looks wrong."""
        test = self._data.splits["test"]
        checked = self._validation is not None
        compared = compare_classes(
            list(test["label"]),
            reference["probabilities"],
            predictions["probabilities"],
            texts=shown_texts(test),
            names=self._names,
        )
        doubt = None if checked or self.order.known_by == "option" else self._doubt(reference["probabilities"].argmax(1))
        notes = {"note": [doubt]} if doubt else {}
        return compared | {"labels": {"known_by": self.order.known_by, "checked": checked}} | notes

    def _doubt(self, said: NDArray[np.int64]) -> str | None:
        """A sentence that describes the evidence in the test examples against the label order, if there is any."""
        better = better_order(np.array(self._data.splits["test"]["label"]), said)
        if better is None:
            return None
        reversed_ = list(better.outputs) == list(range(len(self._names)))[::-1]
        order = "the reversed order" if reversed_ else f"another order ({better.meant(self._names)})"
        return (
            f"Labels in {order} would give {better.accuracy:.3f} on these test examples, compared with "
            f"{better.now:.3f} in the current order, and there was no validation split to decide; if the order is wrong, set "
            "the right one under id2label in config.json, or with the task's option labels (--labels A,B)."
        )

    def _probabilities(self, ready: Batches, report: Report) -> NDArray[np.float64]:
        """Probabilities (examples, classes) in the data's class order."""
        logits: NDArray[np.float64] = np.empty((ready.count, len(self._names)))
        for rows, inputs in ready.on(self._loaded, report):
            logits[rows] = logits_of(self._loaded, inputs).double().cpu().numpy()
        if not np.isfinite(logits).all():
            raise TaskError(f"{self._loaded.info.model} outputs values that are not finite, so no task can be scored")
        return softmax(logits[:, self.order.outputs], axis=1)


@dataclass(frozen=True)
class BetterOrder:
    """A label order that fits clearly better than the current one.

    outputs     for each class of the data, the class that its output should represent (classes,)
    accuracy    under that order; `now`: under the current one
    """

    outputs: tuple[int, ...]
    accuracy: float
    now: float

    def meant(self, names: Sequence[str]) -> str:
        """The corrections to the current order, in words."""
        return shortly([f"{names[i]} should be {names[j]}" for i, j in enumerate(self.outputs) if i != j], between="; ")


def better_order(truth: NDArray[np.int64], said: NDArray[np.int64]) -> BetterOrder | None:
    """The label order that is clearly better than the current one, if there is one.

    truth, said   classes (examples,) in the data, and as predicted by the original model under the current order

    The best alternative must beat the current order and the majority class by more than the best of all orders would by chance.
    """
    count, total = int(max(truth.max(), said.max())) + 1, len(truth)
    table = np.zeros((count, count))
    np.add.at(table, (said, truth), 1)
    _, better = linear_sum_assignment(-table)  # better[said] is the class it should represent
    right, right_if_better = said == truth, better[said] == truth
    gain = right_if_better.astype(float) - right.astype(float)
    beyond = float(norm.isf(FALSE_ALARMS / factorial(min(count, 100))))
    majority = float(np.bincount(truth).max()) / total
    margin = beyond * sqrt(majority * (1 - majority) / total)
    if gain.mean() > beyond * gain.std() / sqrt(total) and right_if_better.mean() > majority + margin:
        return BetterOrder(tuple(map(int, better)), float(right_if_better.mean()), float(right.mean()))
    return None


def check_order(model: str, truth: NDArray[np.int64], said: NDArray[np.int64], names: Sequence[str]) -> None:
    """Reject a label order that another one clearly beats on the validation split. Raises TaskError."""
    better = better_order(truth, said)
    if better is not None:
        raise TaskError(
            f"{model} is right on {better.now:.0%} of {len(truth)} validation examples, but on {better.accuracy:.0%} with "
            f"its labels in another order ({better.meant(names)}), so the order looks wrong; name the classes under id2label "
            "in its config.json, or with the task's option labels (--labels A,B): the data's names in the order of the model's "
            "outputs"
        )


def head_of(loaded: LoadedModel, data: TaskData) -> ModelHead:
    """The model's head for a task. Raises TaskError if the model has none that fits."""
    reason = unfit(data.task, loaded.info.architecture, loaded.info.reads_text)
    if reason:
        raise TaskError(reason.removesuffix("."))
    return described_head(loaded)


def described_head(loaded: LoadedModel) -> ModelHead:
    """Describe a model's head from its config."""
    config = loaded.model.config
    names = tuple(str(config.id2label.get(index, f"LABEL_{index}")) for index in range(config.num_labels))
    return ModelHead(loaded.info.model, names, config.problem_type == MULTI_LABEL)


def _spread(split: Dataset, most: int) -> Dataset:
    """At most `most` evenly spaced examples, since a file may be sorted by class."""
    return split if len(split) <= most else split.select(np.linspace(0, len(split) - 1, most).astype(int))


def split_batches(loaded: LoadedModel, split: Dataset) -> Batches:
    """The texts or pairs of a split, each tokenised as one input. Raises TaskError."""
    columns = ("text",) if "text" in split.column_names else ("sentence1", "sentence2")
    return batches(loaded, *(list(split[column]) for column in columns))


def logits_of(loaded: LoadedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits (batch, classes).

    A decoder classifies at the last token that is not the config's padding token; if the tokenizer pads with another token,
    each text is run separately.
    """
    if loaded.model.config.get_text_config().pad_token_id == tokenizer_of(loaded).pad_token_id:
        return loaded.model(**inputs).logits
    lengths = inputs["attention_mask"].sum(1).tolist()
    alone = [{name: tensor[i : i + 1, :length] for name, tensor in inputs.items()} for i, length in enumerate(lengths)]
    return torch.cat([loaded.model(**single).logits for single in alone])
