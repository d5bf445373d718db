"""Task definitions: what a model is evaluated on, and with which examples. Nothing is read here, and no torch is needed.

A plan names a task from the catalogue ("topics") or describes its own:
{"name": "mine", "family": "probe", "data": "reviews.csv", "columns": {"text": "body", "label": "stars"}}.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from offcomp.errors import TaskError

__all__ = ["ALSO", "FAMILIES", "TASKS", "Task", "TaskFamily", "find_task", "fitting_families", "unfit", "usual_tasks"]

BUNDLED, HUB = "bundled:", "hub:"


@dataclass(frozen=True)
class TaskFamily:
    """A kind of task: what it needs from the data and the model, and how it is scored.

    inputs      one of these sets of columns must be present
    target      the column with the correct answer; "" if the text itself is the target
    trains      whether a training and a validation split are needed in addition to the test split
    metric      name of the score; two tasks share an axis only if they share it
    direction   whether a higher or a lower score is better
    needs       accepted endings of the model's class name (`ForMaskedLM`, ...); empty for any model with hidden states
    """

    name: str
    title: str
    inputs: tuple[tuple[str, ...], ...]
    target: str
    trains: bool
    metric: str
    direction: Literal["higher", "lower"]
    needs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def embeds(self) -> bool:
        """Whether it uses sentence embeddings, as the model's folder declares them."""
        return not self.needs and bool(self.target)


ONE, PAIR = ("text",), ("sentence1", "sentence2")
FAMILIES = {
    family.name: family
    for family in (
        TaskFamily(
            "head",
            "Classification by the model's own head",
            (ONE, PAIR),
            "label",
            False,
            "accuracy",
            "higher",
            ("ForSequenceClassification",),
            {"labels": None},
        ),
        TaskFamily(
            "head-regression",
            "Regression by the model's own head",
            (ONE, PAIR),
            "score",
            False,
            "spearman",
            "higher",
            ("ForSequenceClassification",),
        ),
        TaskFamily(
            "probe",
            "Classification by a probe on sentence embeddings",
            (ONE, PAIR),
            "label",
            True,
            "accuracy",
            "higher",
            (),
            {"refit": False},
        ),
        TaskFamily(
            "regression",
            "Regression by a probe on sentence embeddings",
            (ONE, PAIR),
            "score",
            True,
            "spearman",
            "higher",
            (),
            {"refit": False},
        ),
        TaskFamily(
            "similarity",
            "Similarity of two sentences by the cosine of their embeddings",
            (PAIR,),
            "score",
            False,
            "spearman",
            "higher",
        ),
        TaskFamily(
            "masked-lm",
            "Masked-token prediction (pseudo-perplexity)",
            (ONE,),
            "",
            False,
            "masked perplexity",
            "lower",
            ("ForMaskedLM", "ForPreTraining"),
            {"fraction": 0.15, "whole_words": False, "tokens": 128, "seed": 0},
        ),
        TaskFamily(
            "causal-lm",
            "Next-token prediction (perplexity)",
            (ONE,),
            "",
            False,
            "perplexity",
            "lower",
            ("ForCausalLM", "LMHeadModel"),
            {"context": 256, "stride": 128},
        ),
    )
}
"""Name -> family. Each is implemented by the module of that name in `offcomp/evaluation`."""

ALSO = {"accuracy": ("f1", "matthews"), "spearman": ("pearson",)}
"""Metric of a family -> additional metrics that its tasks may list."""


@dataclass(frozen=True)
class Task:
    """One task.

    data      "bundled:NAME" (assets/tasks/NAME.csv), "hub:PATH/CONFIG" (fetched once, then cached), a file (.csv, .tsv, .jsonl,
              .parquet) with or without a column `split`, or a folder with train, validation and test files
    columns   column of the family -> column of the data, where the names differ
    options   options of the family that differ from its defaults
    also      metrics of `ALSO` that are reported in addition to the family's own
    """

    name: str
    family: str
    data: str
    title: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    version: str = "1"
    source: str = ""
    licence: str = ""
    also: tuple[str, ...] = ()

    @property
    def about(self) -> TaskFamily:
        """The task's family."""
        return FAMILIES[self.family]

    @property
    def settings(self) -> dict[str, Any]:
        """Every option of the family, with this task's values."""
        return {**self.about.options, **self.options}

    @property
    def bundled(self) -> bool:
        """Whether the data are bundled with offcomp."""
        return self.data.startswith(BUNDLED)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, without empty fields."""
        return {name: value for name, value in asdict(self).items() if value or name in ("name", "family", "data")}


def _ours(name: str, family: str, data: str, title: str, version: str = "1") -> Task:
    """A task that is bundled with offcomp."""
    return Task(name, family, BUNDLED + data, title, version=version, source="Written for offcomp", licence="MIT")


GLUE = "nyu-mll/glue"
TASKS = (
    _ours("sentiment", "probe", "sentiment", "Sentiment", version="2"),
    _ours("topics", "probe", "topics", "Topics"),
    _ours("similarity", "similarity", "similarity", "Similarity"),
    _ours("sentiment-head", "head", "sentiment", "Sentiment by the model's own head", version="2"),
    _ours("masked-prose", "masked-lm", "prose", "Masked words in prose"),
    _ours("causal-prose", "causal-lm", "prose", "Next words in prose"),
    Task("sst2", "probe", f"hub:{GLUE}/sst2", "SST-2", {"text": "sentence"}, source="Socher et al. 2013, GLUE"),
    Task(
        "sst2-head",
        "head",
        f"hub:{GLUE}/sst2",
        "SST-2 by the model's own head",
        {"text": "sentence"},
        source="Socher et al. 2013, GLUE",
    ),
    Task("mrpc", "probe", f"hub:{GLUE}/mrpc", "MRPC", source="Dolan and Brockett 2005, GLUE", also=("f1",)),
    Task(
        "qqp",
        "probe",
        f"hub:{GLUE}/qqp",
        "QQP",
        {"sentence1": "question1", "sentence2": "question2"},
        source="Iyer et al. 2017, GLUE",
        also=("f1",),
    ),
    Task(
        "stsb", "similarity", f"hub:{GLUE}/stsb", "STS-B", {"score": "label"}, source="Cer et al. 2017, GLUE", also=("pearson",)
    ),
    Task(
        "cola",
        "probe",
        f"hub:{GLUE}/cola",
        "CoLA",
        {"text": "sentence"},
        source="Warstadt et al. 2018, GLUE",
        also=("matthews",),
    ),
    Task(
        "qnli",
        "probe",
        f"hub:{GLUE}/qnli",
        "QNLI",
        {"sentence1": "question", "sentence2": "sentence"},
        source="Rajpurkar et al. 2016, GLUE",
    ),
    Task("rte", "probe", f"hub:{GLUE}/rte", "RTE", source="Dagan et al. 2005, GLUE"),
    Task(
        "wikitext2-masked",
        "masked-lm",
        "hub:Salesforce/wikitext/wikitext-2-raw-v1",
        "Masked words in WikiText-2",
        source="Merity et al. 2016",
        licence="CC BY-SA 3.0",
    ),
    Task(
        "wikitext2-causal",
        "causal-lm",
        "hub:Salesforce/wikitext/wikitext-2-raw-v1",
        "Next words in WikiText-2",
        source="Merity et al. 2016",
        licence="CC BY-SA 3.0",
    ),
)
"""The tasks known by name: bundled ones, then those from a data hub."""


def find_task(name: str) -> Task:
    """The task of this name. Raises TaskError."""
    for task in TASKS:
        if task.name == name:
            return task
    names = [task.name for task in TASKS]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(names)}"
    raise TaskError(f"unknown task {name!r}; {hint}")


WITHOUT_TEXT = ("Matrices",)
"""Classes of `offcomp.models` that cannot process text."""


def unfit(task: Task, architecture: str, reads_text: bool = True) -> str | None:
    """Why a model of this class cannot do the task, in one sentence; None if it can.

    reads_text    whether its input is tokens of text and nothing else, see `ModelInfo`
    """
    if architecture in WITHOUT_TEXT:
        return f"task {task.name!r} needs a model that reads text, but these are only matrices; leave the tasks out."
    if not reads_text:
        return (
            f"task {task.name!r} needs a model that reads text, but {architecture} takes other input and supports no "
            "family of tasks; leave the tasks out."
        )
    needs = task.about.needs
    if not needs or architecture.endswith(needs):
        return None
    return (
        f"task {task.name!r} needs a model with the head {' or '.join(needs)}, but this one is {architecture}, which supports "
        f"the families {', '.join(fitting_families(architecture))}."
    )


def fitting_families(architecture: str, reads_text: bool = True) -> tuple[str, ...]:
    """The families of tasks that a model of this class can do."""
    if architecture in WITHOUT_TEXT or not reads_text:
        return ()
    return tuple(name for name, family in FAMILIES.items() if not family.needs or architecture.endswith(family.needs))


def usual_tasks(architecture: str, reads_text: bool = True) -> tuple[str, ...]:
    """The bundled tasks that a model of this class can do."""
    return tuple(task.name for task in TASKS if task.bundled and unfit(task, architecture, reads_text) is None)
