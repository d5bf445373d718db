"""Classification by the model's own head: nothing is fitted, the model answers as it was trained to.

The model's outputs are put in the order of the data's classes: by the names in its config, by the task's option `labels`, or,
where the config has no real names (LABEL_0, LABEL_1), as they stand. Whether that order can be right is checked with the
original model on the validation split; a head that is far better under another order is refused rather than scored.
"""

from __future__ import annotations

import re
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

from offcomp.errors import TaskError
from offcomp.evaluation.base import Arrays, TaskData
from offcomp.evaluation.batches import Batches, batches, tokenizer_of
from offcomp.evaluation.comparison import compare_classes
from offcomp.evaluation.embeddings import shown_texts
from offcomp.methods.base import Report, ignore_progress
from offcomp.models.loading import LoadedModel
from offcomp.tasks import unfit

CHECKED_EXAMPLES = 1000
FALSE_ALARMS = 0.001  # a right order is refused in one of a thousand cases at most
SYNONYMS = (
    ("positive", "pos"),
    ("negative", "neg"),
    ("neutral", "neu"),
    ("yes", "true"),
    ("no", "false"),
    ("entailment", "entail", "entails", "entailed"),
    ("notentailment", "nonentailment", "notentail", "notentailed"),
    ("contradiction", "contradict", "contradicts"),
    ("equivalent", "paraphrase", "duplicate"),
    ("notequivalent", "nonequivalent", "notparaphrase", "notduplicate"),
    ("acceptable", "grammatical"),
    ("unacceptable", "ungrammatical"),
)
SAME = {name: names[0] for names in SYNONYMS for name in names}


@dataclass(frozen=True)
class LabelOrder:
    """Which output of the model (classes,) each of the data's classes is, and how that is known: name, option or index."""

    outputs: tuple[int, ...]
    known_by: str


class Head:
    """See the module. Reference and predictions: `probabilities` (examples, classes) in the order of the data's classes."""

    def __init__(self, loaded: LoadedModel, data: TaskData):
        reason = unfit(data.task, loaded.info.architecture)
        if reason:
            raise TaskError(reason.removesuffix("."))
        self._loaded, self._data = loaded, data
        self._names = list(data.splits["test"].features["label"].names)
        self.order = label_order(loaded, self._names, data.task.settings.get("labels"))
        self._batches = _split_batches(loaded, data.splits["test"])
        self._validation: Dataset | None = None
        if self.order.known_by != "option" and "validation" in data.splits:
            self._validation = _spread(data.splits["validation"], CHECKED_EXAMPLES)
            self._validation_batches = _split_batches(loaded, self._validation)

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
        """Accuracy and the paired comparison, with how the labels were matched."""
        test = self._data.splits["test"]
        compared = compare_classes(
            list(test["label"]),
            reference["probabilities"],
            predictions["probabilities"],
            texts=shown_texts(test),
            names=self._names,
        )
        return compared | {"labels": {"known_by": self.order.known_by, "checked": self._validation is not None}}

    def _probabilities(self, ready: Batches, report: Report) -> NDArray[np.float64]:
        """Probabilities (examples, classes) in the order of the data's classes."""
        logits: NDArray[np.float64] = np.empty((ready.count, len(self._names)))
        for rows, inputs in ready.on(self._loaded, report):
            logits[rows] = _logits(self._loaded, inputs).double().cpu().numpy()
        if not np.isfinite(logits).all():
            raise TaskError(f"{self._loaded.info.model} gives values that are not finite, so no task can be scored")
        return softmax(logits[:, self.order.outputs], axis=1)


def label_order(loaded: LoadedModel, names: Sequence[str], labels: Sequence[str] | None = None) -> LabelOrder:
    """The model's outputs in the order of the data's classes. Raises TaskError where they do not fit together."""
    config, model = loaded.model.config, loaded.info.model
    count = config.num_labels
    if count == 1:
        raise TaskError(
            f"the head of {model} gives one number, not classes; choose a task of the family regression or similarity"
        )
    if count != len(names):
        raise TaskError(f"the head of {model} has {count} classes, but the data have {len(names)}: {', '.join(names)}")
    if labels is not None:
        if sorted(labels) != sorted(names):
            raise TaskError(f"labels names {', '.join(labels)}, but the classes of the data are {', '.join(names)}")
        return LabelOrder(tuple(list(labels).index(name) for name in names), "option")
    own = [str(config.id2label[index]) for index in range(count)]
    ours, theirs = [_normal(name) for name in names], [_normal(name) for name in own]
    if sorted(ours) == sorted(theirs) and len(set(ours)) == count:
        return LabelOrder(tuple(theirs.index(name) for name in ours), "name")
    if not (_are_generic(theirs) or _are_generic(ours)):
        raise TaskError(
            f"the classes of {model} are {', '.join(own)}, those of the data {', '.join(names)}; say which is which by the "
            "task's option labels: the data's names in the order of the model's outputs"
        )
    return LabelOrder(tuple(range(count)), "index")


def check_order(model: str, truth: NDArray[np.int64], said: NDArray[np.int64], names: Sequence[str]) -> None:
    """Refuse an order of labels that another one beats clearly. Raises TaskError.

    truth, said   classes (examples,) of the data, and of the original model under the order in use

    The best other order must be better than this one, and than the largest class alone, by more than chance gives the best of
    all orders.
    """
    count, total = len(names), len(truth)
    table = np.zeros((count, count))
    np.add.at(table, (said, truth), 1)
    _, better = linear_sum_assignment(-table)  # better[said] is the class it should stand for
    right, right_if_better = said == truth, better[said] == truth
    gain = right_if_better.astype(float) - right.astype(float)
    beyond = float(norm.isf(FALSE_ALARMS / factorial(min(count, 100))))
    majority = float(np.bincount(truth).max()) / total
    margin = beyond * sqrt(majority * (1 - majority) / total)
    if gain.mean() > beyond * gain.std() / sqrt(total) and right_if_better.mean() > majority + margin:
        # An output that now counts as class i should count as class better[i].
        meant = "; ".join(f"{names[i]} should be {names[better[i]]}" for i in range(count) if better[i] != i)
        raise TaskError(
            f"{model} is right on {right.mean():.0%} of {total} validation examples, but on {right_if_better.mean():.0%} with "
            f"its labels in another order ({meant}), so the order looks wrong; name the classes under id2label in its "
            "config.json, or by the task's option labels: the data's names in the order of the model's outputs"
        )


def _normal(name: str) -> str:
    """The name without case, spaces and signs, one word for what means the same, and a bare number for LABEL_0."""
    plain = re.sub(r"^(label|class)(?=\d+$)", "", re.sub(r"[\W_]", "", name.casefold()))
    return SAME.get(plain, plain)


def _are_generic(names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in names)


def _spread(split: Dataset, most: int) -> Dataset:
    """So many examples at equal distances, since a file may be sorted by class."""
    return split if len(split) <= most else split.select(np.linspace(0, len(split) - 1, most).astype(int))


def _split_batches(loaded: LoadedModel, split: Dataset) -> Batches:
    columns = ("text",) if "text" in split.column_names else ("sentence1", "sentence2")
    return batches(loaded, *(list(split[column]) for column in columns))


def _logits(loaded: LoadedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits (batch, classes).

    A decoder reads its answer at the last token that is no padding by the config; where the tokenizer pads otherwise, each text
    goes alone.
    """
    if loaded.model.config.get_text_config().pad_token_id == tokenizer_of(loaded).pad_token_id:
        return loaded.model(**inputs).logits
    lengths = inputs["attention_mask"].sum(1).tolist()
    alone = [{name: tensor[i : i + 1, :length] for name, tensor in inputs.items()} for i, length in enumerate(lengths)]
    return torch.cat([loaded.model(**single).logits for single in alone])
