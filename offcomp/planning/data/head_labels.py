"""Match the outputs of a model's own classification head to the classes of the data, or report why this fails. No torch.

Outputs and classes are matched by the label names in the model's config, by the task's option `labels` or, if either side has
only generic names (LABEL_0, 0), by index.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offcomp.errors import TaskError, shortly
from offcomp.planning.data.tasks import ALSO, Task

MULTI_LABEL = "multi_label_classification"
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
CANONICAL_NAMES = {name: names[0] for names in SYNONYMS for name in names}


@dataclass(frozen=True)
class ModelHead:
    """A model's head as described by its config: the output names in order, and whether it is a multi-label head."""

    model: str
    names: tuple[str, ...]
    multi_label: bool = False

    @property
    def is_regression(self) -> bool:
        """Whether the head outputs a single number instead of classes."""
        return len(self.names) == 1

    @staticmethod
    def from_config(model: str, config: Mapping[str, Any]) -> ModelHead | None:
        """The head described by a config.json; None if the description is incomplete or malformed."""
        named = config.get("id2label")
        if named is None:
            count = config.get("num_labels", 2)
            named = {str(i): f"LABEL_{i}" for i in range(count)} if isinstance(count, int) else None
        if not isinstance(named, Mapping) or not named:
            return None
        names = tuple(str(named[key]) for key in map(str, range(len(named))) if key in named)
        several = config.get("problem_type") == MULTI_LABEL
        return ModelHead(model, names, several) if len(names) == len(named) else None


@dataclass(frozen=True)
class LabelOrder:
    """The index of the model output for each class of the data, and how it was determined: by name, option or index."""

    outputs: tuple[int, ...]
    known_by: str


def label_order(head: ModelHead, names: Sequence[str], labels: Sequence[str] | None = None) -> LabelOrder:
    """Find the model output for each class of the data. Raises TaskError if the outputs and classes do not match.

    names     the class names of the data
    labels    the task's option `labels`: the same names in the order of the model's outputs
    """
    check_kind(head, regression=False)
    model, own, count = head.model, head.names, len(head.names)
    if count != len(names):
        raise TaskError(
            f"the head of {model} has {count} classes, but the data have {len(names)}: {shortly(names)}; "
            "check that the label column is correct"
        )
    if labels is not None:
        if sorted(labels) != sorted(names):
            raise TaskError(f"the option 'labels' lists {shortly(labels)}, but the classes of the data are {shortly(names)}")
        return LabelOrder(tuple(list(labels).index(name) for name in names), "option")
    data_names, model_names = [_normalised(name) for name in names], [_normalised(name) for name in own]
    if sorted(data_names) == sorted(model_names) and len(set(data_names)) == count:
        return LabelOrder(tuple(model_names.index(name) for name in data_names), "name")
    if not (_are_generic(model_names) or _are_generic(data_names)):
        raise TaskError(
            f"the classes of {model} are {shortly(own)}, but those of the data are {shortly(names)}; use the task's "
            "option labels (--labels A,B) to list the data's class names in the order of the model's outputs"
        )
    return LabelOrder(tuple(range(count)), "index")


def adapted_to(task: Task, head: ModelHead | None) -> Task:
    """Turn a head task into a regression task if the head outputs a number; a column mapped to `label` becomes the score."""
    if task.family != "head" or head is None or not head.is_regression or head.multi_label:
        return task
    columns = {"score" if ours == "label" else ours: named for ours, named in task.columns.items()}
    also = tuple(name for name in task.also if name in ALSO["spearman"])
    return task.replace(family="head-regression", columns=columns, options={}, also=also)


def check_kind(head: ModelHead, *, regression: bool) -> None:
    """Raise TaskError unless the head supports the kind of task: regression or single-label classification."""
    if head.multi_label:
        raise TaskError(
            f"the head of {head.model} can assign several labels to one text (problem_type {MULTI_LABEL}), which is not "
            "supported; set the family to probe"
        )
    if head.is_regression and not regression:
        raise TaskError(
            f"the head of {head.model} outputs a number, not classes; set the family to head-regression and add a score column"
        )
    if regression and not head.is_regression:
        raise TaskError(
            f"the head of {head.model} has {len(head.names)} classes ({shortly(head.names)}) instead of a single numeric "
            "output; set the family to head"
        )


def _normalised(name: str) -> str:
    """Normalise a class name: lower case, no spaces or punctuation, synonyms unified, and LABEL_0 reduced to 0."""
    plain = re.sub(r"^(label|class)(?=\d+$)", "", re.sub(r"[\W_]", "", name.casefold()))
    return CANONICAL_NAMES.get(plain, plain)


def _are_generic(names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in names)
