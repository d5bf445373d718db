"""Task definitions: what a model is evaluated on, and where the examples come from.

This module neither reads data nor imports torch.

A plan refers to a built-in task by name ("topics") or defines its own:
{"name": "mine", "family": "probe", "data": "reviews.csv", "columns": {"text": "body", "label": "stars"}}.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import Field

from offcomp.errors import TaskError
from offcomp.planning.data.task_families import FAMILIES, LM_EVAL, MTEB, ONE, OWN_FAMILIES, PAIR, TaskFamily
from offcomp.planning.document import MustBe
from offcomp.planning.json_fields import JsonModel, Name, Object, Text, Texts, is_name, one_of

__all__ = [
    "ALSO",
    "FAMILIES",
    "ONE",
    "OWN_FAMILIES",
    "PAIR",
    "TASKS",
    "Task",
    "TaskFamily",
    "find_task",
    "fitting_families",
    "unfit",
    "usual_tasks",
]

BUNDLED, HUB = "bundled:", "hub:"
HARNESSES = (f"{LM_EVAL}:", f"{MTEB}:")
"""What the tasks of other libraries begin with."""


ALSO = {"accuracy": ("f1", "matthews"), "spearman": ("pearson",)}
"""Metric of a family -> additional metrics that its tasks may list."""


def _is_empty(value: Any) -> bool:
    return not value


Columns = Annotated[dict[Text, Text], MustBe("a JSON object of column names")]
Line = Annotated[str, MustBe("text")]


class Task(JsonModel):
    """A task to evaluate a model on."""

    noun = "task"

    name: Name
    """Name of the task in plans and results."""
    family: Annotated[str, one_of(FAMILIES)]
    """The kind of task."""
    data: Annotated[Text, MustBe("a file, a folder, 'bundled:NAME' or 'hub:PATH/CONFIG'")]
    """Where the data are.

    "bundled:NAME" (assets/tasks/NAME.csv), "hub:PATH/CONFIG" (fetched once, then cached), a file (.csv, .tsv, .jsonl, .parquet)
    with or without a column `split`, or a folder with train, validation and test files. For a task of another library,
    "lm-eval:NAME" or "mteb:NAME", with the name that the library gives it.
    """
    title: Line = Field(default="", exclude_if=_is_empty)
    """Title in tables and figures."""
    columns: Columns = Field(default_factory=dict, exclude_if=_is_empty)
    """Column of the family -> column of the data, where the names differ."""
    options: Object = Field(default_factory=dict, exclude_if=_is_empty)
    """Options of the family that differ from its defaults."""
    version: Line = Field(default="1", exclude_if=_is_empty)
    """Version of the data."""
    source: Line = Field(default="", exclude_if=_is_empty)
    """Where the data come from."""
    licence: Line = Field(default="", exclude_if=_is_empty)
    """Licence of the data."""
    also: Annotated[Texts, MustBe("a list of metrics")] = Field(default=(), exclude_if=_is_empty)
    """Metrics of `ALSO` that are reported in addition to the family's own."""

    @property
    def kind(self) -> TaskFamily:
        """The task's family."""
        return FAMILIES[self.family]

    @property
    def settings(self) -> dict[str, Any]:
        """All options of the family, with the values that apply to this task."""
        return {**self.kind.options, **self.options}

    @property
    def bundled(self) -> bool:
        """Whether the data are bundled with offcomp."""
        return self.data.startswith(BUNDLED)


def _bundled_task(name: str, family: str, data: str, title: str, version: str = "1") -> Task:
    """A task that is bundled with offcomp."""
    return Task(
        name=name, family=family, data=BUNDLED + data, title=title, version=version, source="Written for offcomp", licence="MIT"
    )


def _glue(name: str, title: str, source: str, *, family: str = "probe", also: tuple[str, ...] = (), **columns: str) -> Task:
    """A task of the GLUE benchmark; `columns` maps columns of the family to those of the data."""
    data = f"{HUB}nyu-mll/glue/{name.removesuffix('-head')}"
    return Task(name=name, family=family, data=data, title=title, columns=columns, source=f"{source}, GLUE", also=also)


def _wikitext(name: str, family: str, title: str) -> Task:
    data = f"{HUB}Salesforce/wikitext/wikitext-2-raw-v1"
    return Task(name=name, family=family, data=data, title=title, source="Merity et al. 2016", licence="CC BY-SA 3.0")


TASKS = (
    _bundled_task("sentiment", "probe", "sentiment", "Sentiment", version="2"),
    _bundled_task("topics", "probe", "topics", "Topics"),
    _bundled_task("similarity", "similarity", "similarity", "Similarity"),
    _bundled_task("sentiment-head", "head", "sentiment", "Sentiment with the model's own head", version="2"),
    _bundled_task("masked-prose", "masked-lm", "prose", "Masked words in prose"),
    _bundled_task("causal-prose", "causal-lm", "prose", "Next words in prose"),
    _bundled_task("seq2seq-prose", "seq2seq-lm", "prose", "Second halves of prose"),
    _bundled_task("embedding-fidelity", "embedding-fidelity", "prose", "Embeddings of prose (fidelity)"),
    _bundled_task("masked-fidelity", "masked-fidelity", "prose", "Masked words in prose (fidelity)"),
    _bundled_task("causal-fidelity", "causal-fidelity", "prose", "Next words in prose (fidelity)"),
    _bundled_task("head-fidelity", "head-fidelity", "prose", "Classes of prose (fidelity)"),
    _glue("sst2", "SST-2", "Socher et al. 2013", text="sentence"),
    _glue("sst2-head", "SST-2 with the model's own head", "Socher et al. 2013", family="head", text="sentence"),
    _glue("mrpc", "MRPC", "Dolan and Brockett 2005", also=("f1",)),
    _glue("qqp", "QQP", "Iyer et al. 2017", also=("f1",), sentence1="question1", sentence2="question2"),
    _glue("stsb", "STS-B", "Cer et al. 2017", family="similarity", also=("pearson",), score="label"),
    _glue("cola", "CoLA", "Warstadt et al. 2018", also=("matthews",), text="sentence"),
    _glue("qnli", "QNLI", "Rajpurkar et al. 2016", sentence1="question", sentence2="sentence"),
    _glue("rte", "RTE", "Dagan et al. 2005"),
    _wikitext("wikitext2-masked", "masked-lm", "Masked words in WikiText-2"),
    _wikitext("wikitext2-causal", "causal-lm", "Next words in WikiText-2"),
)
"""The tasks that are available by name: first the bundled tasks, then those from a data hub."""


def harness_task(data: str, **options: Any) -> Task:
    """The task "lm-eval:NAME" or "mteb:NAME"; `options` are those of its family. Raises TaskError if the name is not valid."""
    library, _, name = data.partition(":")
    if not is_name(named := f"{library}-{name}") or not name:
        raise TaskError(f"task {data!r} must be {library}:NAME, with the name that the library gives the task")
    return Task(name=named, family=library, data=data, title=f"{name} ({library})", options=options)


def find_task(name: str) -> Task:
    """The task with this name, or that of another library ("lm-eval:NAME", "mteb:NAME"). Raises TaskError."""
    if name.startswith(HARNESSES):
        return harness_task(name)
    known = {task.name: task for task in TASKS}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(known)}"
    raise TaskError(f"unknown task {name!r}; {hint}")


WITHOUT_TEXT = ("Matrices",)
"""Model classes in `offcomp.models` that cannot process text."""


def unfit(task: Task, architecture: str, reads_text: bool = True) -> str | None:
    """Why a model of this class does not support the task, in one sentence; None if the task is supported.

    reads_text    whether text tokens are the model's only input; see `ModelInfo`
    """
    if architecture in WITHOUT_TEXT:
        return f"task {task.name!r} needs a model that reads text, but this one is only a set of matrices; remove all tasks."
    if not reads_text:
        return (
            f"task {task.name!r} needs a model that reads text, but {architecture} takes other inputs and supports no "
            "family of tasks; remove all tasks."
        )
    needs = task.kind.needs
    if not needs or architecture.endswith(needs):
        return None
    return (
        f"task {task.name!r} needs a model with a {' or '.join(needs)} head, but this one is {architecture}, which supports "
        f"the families {', '.join(fitting_families(architecture))}."
    )


def fitting_families(architecture: str, reads_text: bool = True) -> tuple[str, ...]:
    """The families of tasks on tables that a model of this class supports."""
    if architecture in WITHOUT_TEXT or not reads_text:
        return ()
    return tuple(name for name in OWN_FAMILIES if not (needs := FAMILIES[name].needs) or architecture.endswith(needs))


def usual_tasks(architecture: str, reads_text: bool = True) -> tuple[str, ...]:
    """The bundled tasks that a model of this class supports."""
    return tuple(task.name for task in TASKS if task.bundled and unfit(task, architecture, reads_text) is None)
