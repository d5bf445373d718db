"""Classification with the model's own head, without fitting anything.

The model's outputs are matched to the data's classes by the names in its config or by the task option `labels`. If the config
contains only placeholders (LABEL_0, LABEL_1), the outputs are taken to be in the order of the data's classes. The order is
checked with the original model on the validation split; a head that would be far more accurate with a different order is
rejected rather than scored. Without a validation split, no order is rejected, since that decision would depend on the test
examples. If a different order fits the test examples better, a note next to the score says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import factorial, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax
from scipy.stats import norm
from torch import Tensor

from offcomp.errors import TaskError, shortly
from offcomp.evaluation.base import Arrays, Evaluator, TaskData, text_columns
from offcomp.evaluation.batches import Batches, batches, tokenizer_of
from offcomp.evaluation.comparison import compare_classes
from offcomp.evaluation.embeddings import part
from offcomp.models.loading import LoadedModel
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.planning.data.head_labels import MULTI_LABEL, ModelHead, label_order
from offcomp.planning.data.scores import Score

CHECKED_EXAMPLES = 1000
FALSE_ALARMS = 0.001  # a correct order is rejected in at most one case in a thousand


class Head(Evaluator):
    """See the module docstring. `reference` and `predict` return the `probabilities` (examples, classes)."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        self._loaded, self._data = loaded, data
        self.order = label_order(described_head(loaded), data.class_names, data.task.settings.get("labels"))
        self._batches = batches(loaded, *text_columns(data.splits["test"]))
        self._checks_order = self.order.known_by != "option" and "validation" in data.splits
        if self._checks_order:
            split = data.splits["validation"]  # may be sorted by class, so the checked examples are evenly spaced
            self._checked = np.linspace(0, len(split) - 1, min(len(split), CHECKED_EXAMPLES)).astype(int)
            self._validation_batches = batches(loaded, *text_columns(split.select(self._checked)))

    def details(self) -> dict[str, Any]:
        """The number of truncated texts."""
        return {"cut": self._batches.cut_figures()}

    def reference(self, report: Report = ignore_progress) -> Arrays:
        """The original's probabilities. Raises TaskError if its labels appear to be in the wrong order."""
        start = 0.0
        if self._checks_order:
            start = len(self._checked) / (len(self._checked) + self._batches.count)
            predicted = self._probabilities(self._validation_batches, part(report, 0.0, start)).argmax(1)
            truth = self._data.answers("validation")[self._checked]
            check_order(self._loaded.info.model, truth, predicted, self._data.class_names)
        return {"probabilities": self._probabilities(self._batches, part(report, start, 1.0))}

    def predict(self, reference: Arrays, report: Report = ignore_progress) -> Arrays:
        """The current model's probabilities."""
        return {"probabilities": self._probabilities(self._batches, report)}

    def compare(self, reference: Arrays, predictions: Arrays) -> Score:
        """Accuracies, their paired comparison, how labels were matched, and a note if the label order looks wrong."""
        data, before, after = self._data, reference["probabilities"], predictions["probabilities"]
        compared = compare_classes(data.answers(), before, after, texts=data.texts, names=data.class_names)
        update: dict[str, Any] = {"labels": {"known_by": self.order.known_by, "checked": self._checks_order}}
        certain = self._checks_order or self.order.known_by == "option"
        better = None if certain else better_order(data.answers(), before.argmax(1))
        if better is not None:
            update["note"] = (self._doubt(better),)
        return compared.model_copy(update=update)

    def _doubt(self, better: BetterOrder) -> str:
        """Describe the evidence from the test examples that the label order is wrong, as one or two sentences."""
        names = self._data.class_names
        is_reversed = list(better.outputs) == list(range(len(names)))[::-1]
        order = "the reversed order" if is_reversed else f"a different order ({better.corrections(names)})"
        return (
            f"Labels in {order} would give an accuracy of {better.accuracy:.3f} on these test examples, compared with "
            f"{better.now:.3f} in the current order. There was no validation split to check the order; if it is wrong, set the "
            "correct order under id2label in config.json or with the task option labels (--labels A,B)."
        )

    def _probabilities(self, texts: Batches, report: Report) -> NDArray[np.float64]:
        """Probabilities (examples, classes), with classes ordered as in the data."""
        logits = head_outputs(self._loaded, texts, len(self.order.outputs), report)
        return softmax(logits[:, self.order.outputs], axis=1)


@dataclass(frozen=True)
class BetterOrder:
    """A label order that fits clearly better than the current order.

    outputs     (classes,): for each class, the class that its current output should represent
    accuracy    accuracy under this order
    now         accuracy under the current order
    """

    outputs: tuple[int, ...]
    accuracy: float
    now: float

    def corrections(self, names: Sequence[str]) -> str:
        """Describe the corrections to the current order."""
        return shortly([f"{names[i]} should be {names[j]}" for i, j in enumerate(self.outputs) if i != j], between="; ")


def better_order(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> BetterOrder | None:
    """Find a label order that fits clearly better than the current order. Returns None if there is none.

    truth, predicted    classes (examples,): the true ones, and those predicted by the original model under the current order

    The best alternative must be significantly better than both the current order and the majority class, after a correction for
    the number of orders.
    """
    count, total = int(max(truth.max(), predicted.max())) + 1, len(truth)
    table = np.zeros((count, count))
    np.add.at(table, (predicted, truth), 1)
    _, better = linear_sum_assignment(-table)  # better[predicted] is the class that this output should represent
    right, right_if_better = predicted == truth, better[predicted] == truth
    gain = right_if_better.astype(float) - right.astype(float)
    beyond = float(norm.isf(FALSE_ALARMS / factorial(min(count, 100))))
    majority = float(np.bincount(truth).max()) / total
    margin = beyond * sqrt(majority * (1 - majority) / total)
    if gain.mean() > beyond * gain.std() / sqrt(total) and right_if_better.mean() > majority + margin:
        return BetterOrder(tuple(map(int, better)), float(right_if_better.mean()), float(right.mean()))
    return None


def check_order(model: str, truth: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str]) -> None:
    """Raise TaskError if a different label order is clearly better on the validation split."""
    better = better_order(truth, predicted)
    if better is not None:
        raise TaskError(
            f"{model} classifies {better.now:.0%} of {len(truth)} validation examples correctly, but would classify "
            f"{better.accuracy:.0%} correctly with a different label order ({better.corrections(names)}), so the order looks "
            "wrong; list the data's class names in the order of the model's outputs, under id2label in its config.json or with "
            "the task option labels (--labels A,B)"
        )


def described_head(loaded: LoadedModel) -> ModelHead:
    """Describe a model's head from its config."""
    config = loaded.model.config
    names = tuple(str(config.id2label.get(index, f"LABEL_{index}")) for index in range(config.num_labels))
    return ModelHead(loaded.info.model, names, config.problem_type == MULTI_LABEL)


def head_outputs(loaded: LoadedModel, texts: Batches, width: int, report: Report) -> NDArray[np.float64]:
    """Outputs (examples, width) of the head. Raises TaskError if any value is not finite."""
    outputs: NDArray[np.float64] = np.empty((texts.count, width))
    for rows, inputs in texts.on(loaded, report):
        outputs[rows] = logits_of(loaded, inputs).double().cpu().numpy()
    if not np.isfinite(outputs).all():
        raise TaskError(f"{loaded.info.model} outputs values that are not finite, so no task can be scored")
    return outputs


def logits_of(loaded: LoadedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits (batch, classes).

    A decoder predicts the class at the last token that is not the padding token of its config. If the tokenizer pads with a
    different token, each text is run separately.
    """
    if loaded.model.config.get_text_config().pad_token_id == tokenizer_of(loaded).pad_token_id:
        return loaded.model(**inputs).logits
    lengths = inputs["attention_mask"].sum(1).tolist()
    alone = [{name: tensor[i : i + 1, :length] for name, tensor in inputs.items()} for i, length in enumerate(lengths)]
    return torch.cat([loaded.model(**single).logits for single in alone])
