"""Classification by the model's own head: nothing is fitted, the model answers as it was trained to.

The model's outputs are put in the order of the data's classes: by the names in its config, by the task's option `labels`, or,
where the config has no real names (LABEL_0, LABEL_1), as they stand. Whether that order can be right is checked with the
original model on the validation split; a head that is far better under another order is refused rather than scored. Without a
validation split nothing may be chosen, so a better order on the test examples is a note beside the score.
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
from offcomp.head_labels import MULTI_LABEL, ModelHead, label_order
from offcomp.methods.base import Report, ignore_progress
from offcomp.models.loading import LoadedModel
from offcomp.tasks import unfit

CHECKED_EXAMPLES = 1000
FALSE_ALARMS = 0.001  # a right order is refused in one of a thousand cases at most


class Head:
    """See the module. Reference and predictions: `probabilities` (examples, classes) in the order of the data's classes."""

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
        """How many texts are cut."""
        return {"cut": self._batches.cut_figures(np.arange(self._batches.count))}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """The original's probabilities. Raises TaskError where its labels look to be in the wrong order."""
        start = 0.0
        if self._validation is not None:
            start = len(self._validation) / (len(self._validation) + self._batches.count)
            checked = self._probabilities(self._validation_batches, lambda fraction: report(start * fraction))
            check_order(self._loaded.info.model, np.array(self._validation["label"]), checked.argmax(1), self._names)
        return {"probabilities": self._probabilities(self._batches, lambda fraction: report(start + (1 - start) * fraction))}

    def predict(self, reference: Arrays, report: Report = ignore_progress) -> Arrays:
        """The probabilities of the model as it is now."""
        return {"probabilities": self._probabilities(self._batches, report)}

    def compare(self, reference: Arrays, predictions: Arrays) -> dict[str, Any]:
        """Accuracy and the paired comparison, with how the labels were matched and a note where their order looks wrong."""
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
        """What the test examples say against the order of the labels, in a sentence."""
        better = better_order(np.array(self._data.splits["test"]["label"]), said)
        if better is None:
            return None
        reversed_ = list(better.outputs) == list(range(len(self._names)))[::-1]
        order = "the reversed order" if reversed_ else f"another order ({better.meant(self._names)})"
        return (
            f"Labels in {order} would give {better.accuracy:.3f} on these test examples, but as they stand "
            f"{better.now:.3f}, and no validation split was there to settle it; if the order is wrong, say the right one under "
            "id2label in config.json, or by the task's option labels (--labels A,B)."
        )

    def _probabilities(self, ready: Batches, report: Report) -> NDArray[np.float64]:
        """Probabilities (examples, classes) in the order of the data's classes."""
        logits: NDArray[np.float64] = np.empty((ready.count, len(self._names)))
        for rows, inputs in ready.on(self._loaded, report):
            logits[rows] = logits_of(self._loaded, inputs).double().cpu().numpy()
        if not np.isfinite(logits).all():
            raise TaskError(f"{self._loaded.info.model} gives values that are not finite, so no task can be scored")
        return softmax(logits[:, self.order.outputs], axis=1)


@dataclass(frozen=True)
class BetterOrder:
    """An order of labels that fits clearly better than the one in use.

    outputs     for each class of the data, the class that its output should stand for (classes,)
    accuracy    under that order; `now`: under the one in use
    """

    outputs: tuple[int, ...]
    accuracy: float
    now: float

    def meant(self, names: Sequence[str]) -> str:
        """What should be what, in words."""
        return shortly([f"{names[i]} should be {names[j]}" for i, j in enumerate(self.outputs) if i != j], between="; ")


def better_order(truth: NDArray[np.int64], said: NDArray[np.int64]) -> BetterOrder | None:
    """The order of labels that beats the one in use clearly, if there is one.

    truth, said   classes (examples,) of the data, and of the original model under the order in use

    The best other order must be better than this one, and than the largest class alone, by more than chance gives the best of
    all orders.
    """
    count, total = int(max(truth.max(), said.max())) + 1, len(truth)
    table = np.zeros((count, count))
    np.add.at(table, (said, truth), 1)
    _, better = linear_sum_assignment(-table)  # better[said] is the class it should stand for
    right, right_if_better = said == truth, better[said] == truth
    gain = right_if_better.astype(float) - right.astype(float)
    beyond = float(norm.isf(FALSE_ALARMS / factorial(min(count, 100))))
    majority = float(np.bincount(truth).max()) / total
    margin = beyond * sqrt(majority * (1 - majority) / total)
    if gain.mean() > beyond * gain.std() / sqrt(total) and right_if_better.mean() > majority + margin:
        return BetterOrder(tuple(map(int, better)), float(right_if_better.mean()), float(right.mean()))
    return None


def check_order(model: str, truth: NDArray[np.int64], said: NDArray[np.int64], names: Sequence[str]) -> None:
    """Refuse an order of labels that another one beats clearly on the validation split. Raises TaskError."""
    better = better_order(truth, said)
    if better is not None:
        raise TaskError(
            f"{model} is right on {better.now:.0%} of {len(truth)} validation examples, but on {better.accuracy:.0%} with "
            f"its labels in another order ({better.meant(names)}), so the order looks wrong; name the classes under id2label "
            "in its config.json, or by the task's option labels (--labels A,B): the data's names in the order of the model's "
            "outputs"
        )


def head_of(loaded: LoadedModel, data: TaskData) -> ModelHead:
    """The head that is to do a task. Raises TaskError where the model has none."""
    reason = unfit(data.task, loaded.info.architecture, loaded.info.reads_text)
    if reason:
        raise TaskError(reason.removesuffix("."))
    return described_head(loaded)


def described_head(loaded: LoadedModel) -> ModelHead:
    """What the config of a model with a head says of it."""
    config = loaded.model.config
    names = tuple(str(config.id2label.get(index, f"LABEL_{index}")) for index in range(config.num_labels))
    return ModelHead(loaded.info.model, names, config.problem_type == MULTI_LABEL)


def _spread(split: Dataset, most: int) -> Dataset:
    """So many examples at equal distances, since a file may be sorted by class."""
    return split if len(split) <= most else split.select(np.linspace(0, len(split) - 1, most).astype(int))


def split_batches(loaded: LoadedModel, split: Dataset) -> Batches:
    """The texts of a split, or its pairs, each read as one input. Raises TaskError."""
    columns = ("text",) if "text" in split.column_names else ("sentence1", "sentence2")
    return batches(loaded, *(list(split[column]) for column in columns))


def logits_of(loaded: LoadedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits (batch, classes).

    A decoder reads its answer at the last token that is no padding by the config; where the tokenizer pads otherwise, each text
    goes alone.
    """
    if loaded.model.config.get_text_config().pad_token_id == tokenizer_of(loaded).pad_token_id:
        return loaded.model(**inputs).logits
    lengths = inputs["attention_mask"].sum(1).tolist()
    alone = [{name: tensor[i : i + 1, :length] for name, tensor in inputs.items()} for i, length in enumerate(lengths)]
    return torch.cat([loaded.model(**single).logits for single in alone])
