"""Validate the tasks of a plan without reading the data or loading the model's weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from offcomp.errors import InputError, TaskError
from offcomp.files import path_of
from offcomp.models.sentence_modules import POOLINGS
from offcomp.planning.data.harness_files import harness_faults
from offcomp.planning.data.tasks import ALSO, BUNDLED, HARNESSES, HUB, TASKS, Task, find_task, unfit
from offcomp.planning.data.text_tables import TABLE_SUFFIXES as SUFFIXES
from offcomp.planning.document import Flag, MustBe
from offcomp.planning.json_fields import Texts, whole

MAX_STEM_LENGTH = 90
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
OPTION_TYPES: Mapping[type, TypeAdapter[Any]] = {
    type(None): TypeAdapter(Annotated[Texts | None, MustBe("a list of class names")], config=_STRICT),
    bool: TypeAdapter(Flag, config=_STRICT),
    int: TypeAdapter(Annotated[int, whole(0)], config=_STRICT),
    float: TypeAdapter(Annotated[float, Field(ge=0), MustBe("a number, 0 or greater")], config=_STRICT),
    str: TypeAdapter(Annotated[str, MustBe("text")], config=_STRICT),
}
"""Type of an option's default -> type of the option."""
COUNTS: Mapping[str, TypeAdapter[Any]] = {
    "num_fewshot": TypeAdapter(Annotated[int, whole(0)] | None, config=_STRICT),
    "limit": TypeAdapter(Annotated[int, whole(1)] | None, config=_STRICT),
}
"""Options that are whole numbers, or None for what the task itself says -> type of the option."""


def task_name(task: str | Task) -> str:
    """The name of a task, which may be given as a name or as a `Task`."""
    return task if isinstance(task, str) else task.name


def own_task(
    data: str, family: str, columns: Mapping[str, str], source: str = "", options: Mapping[str, Any] | None = None
) -> Task:
    """A task that reads a user's file or folder and is named after it. The path is made absolute so that workers can find it.

    Raises InputError if `data` is not a valid path.
    """
    if not data.startswith((BUNDLED, HUB)):
        data = str(path_of(data).absolute())
    stem = re.sub(r"[^A-Za-z0-9._+-]", "-", Path(data).stem).strip("._+-")[:MAX_STEM_LENGTH] or "data"
    name = f"own-{stem}" if any(task.name == stem for task in TASKS) else stem
    return Task(
        name=name, family=family, data=data, title=stem, columns=dict(columns), options=dict(options or {}), source=source
    )


def task_faults(tasks: Sequence[str | Task], architecture: str, reads_text: bool = True) -> list[str]:
    """Reasons why a model of this class cannot be scored on these tasks, one sentence each."""
    names = [task_name(task) for task in tasks]
    faults = [f"task {name!r} is listed twice." for name in sorted(set(names)) if names.count(name) > 1]
    for entry in tasks:
        try:
            task = find_task(entry) if isinstance(entry, str) else entry
        except TaskError as error:
            faults.append(str(error) if str(error).endswith("?") else f"{error}.")
            continue
        faults += [*harness_faults(task)] if isinstance(entry, str) else described_faults(task)
        faults += filter(None, [unfit(task, architecture, reads_text)])
    return faults


def described_faults(task: Task) -> list[str]:
    """Faults in a task's description that can be found without reading its data, one sentence each."""
    where = f"task {task.name!r}"
    faults = [*_column_faults(task, where), *_option_faults(task, where), *_metric_faults(task, where)]
    faults += [] if faults else harness_faults(task)
    if any(known.name == task.name and known != task for known in TASKS):
        faults.append(f"{where} has the same name as a built-in task; choose a different name.")
    fault = None if task.kind.harness else data_fault(task.data)
    return [*faults, f"{where}: {fault}"] if fault else faults


def _column_faults(task: Task, where: str) -> Iterator[str]:
    for name in task.columns:
        if name not in task.kind.columns:
            yield f"{where} maps an unknown column {name!r}; columns of family {task.family!r}: {', '.join(task.kind.columns)}."


def _option_faults(task: Task, where: str) -> Iterator[str]:
    defaults = {**task.kind.options, **task.kind.optional}
    for name, value in task.options.items():
        if name not in defaults:
            yield f"{where} has an unknown option {name!r}; options of family {task.family!r}: {', '.join(defaults) or 'none'}."
            continue
        try:
            COUNTS.get(name, OPTION_TYPES[type(defaults[name])]).validate_python(value)
        except ValidationError as error:
            yield f"{where} sets the option {name} to {value!r}; it must be {error.errors()[0]['msg']}."
            continue
        if name == "pooling" and value not in ("", *POOLINGS):
            yield f"{where} sets the option pooling to {value!r}; choose one of {', '.join(POOLINGS)}."


def _metric_faults(task: Task, where: str) -> Iterator[str]:
    known = ALSO.get(task.kind.metric, ())
    for name in task.also:
        if name not in known:
            more = " and ".join(known) or "none"
            yield f"{where} lists the metric {name!r}; in addition to {task.kind.metric}, a {task.family} task can list {more}."


def data_fault(data: str) -> str | None:
    """A sentence that says what is wrong with the location of the data; None if the location is valid."""
    if data.startswith(BUNDLED):
        known = sorted({task.data for task in TASKS if task.bundled})
        return None if data in known else f"{data!r} is not bundled with offcomp; choose from {', '.join(known)}."
    if data.startswith(HARNESSES):
        return f"data {data!r} needs the family {data.partition(':')[0]!r}; set that family, or choose a table."
    try:
        path = None if data.startswith(HUB) else path_of(data)
    except InputError as error:
        return f"data {error}."
    if path is None or path.is_dir():
        return None
    if path.suffix.lower() not in SUFFIXES:
        return f"data {data!r} must be 'hub:PATH/CONFIG', a folder, or a file with one of the extensions {', '.join(SUFFIXES)}."
    return None if path.exists() else f"data {data!r} does not exist; specify the path of a file or folder."
