"""Read the tasks of a plan from JSON, and check what can be checked without the data and the model's weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from offcomp.errors import InputError, TaskError
from offcomp.files import path_of
from offcomp.plain_text import quoted, text_fault
from offcomp.planning.data.tasks import ALSO, BUNDLED, FAMILIES, HUB, TASKS, Task, find_task, unfit
from offcomp.planning.data.text_tables import TABLE_SUFFIXES as SUFFIXES
from offcomp.planning.json_fields import NAME_WORDS, FieldTypes, is_name, is_number, is_text, is_text_list, read_fields

LONGEST_STEM = 90


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text_object(value: Any) -> bool:
    return isinstance(value, dict) and all(is_text(item) for pair in value.items() for item in pair)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


TASK_TYPES: FieldTypes = {
    "name": (is_name, NAME_WORDS),
    "family": (lambda value: isinstance(value, str) and value in FAMILIES, f"one of {', '.join(FAMILIES)}"),
    "data": (is_text, "a file, a folder, 'bundled:NAME' or 'hub:PATH/CONFIG'"),
    "title": (_is_string, "text"),
    "columns": (_is_text_object, "a JSON object of column names"),
    "options": (_is_object, "a JSON object"),
    "version": (_is_string, "text"),
    "source": (_is_string, "text"),
    "licence": (_is_string, "text"),
    "also": (is_text_list, "a list of metrics"),
}


def read_tasks(entries: Sequence[Any], faults: list[str]) -> tuple[str | Task, ...]:
    """Task names and descriptions from JSON values; faults are appended to `faults`."""
    tasks: list[str | Task] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, dict):
            task = read_task(entry, f"task {quoted(entry.get('name', index))}", faults)
            tasks += [] if task is None else [task]
        elif is_text(entry) and not text_fault(entry):
            tasks.append(entry)
        else:
            faults.append(f"task {index} is {quoted(entry)}; it must be the name of a task or a JSON object.")
    return tuple(tasks)


def read_task(document: Mapping[str, Any], where: str, faults: list[str]) -> Task | None:
    """A task from a JSON object; None if it has faults, which are appended to `faults`."""
    found: list[str] = []
    values = read_fields(Task, document, where, TASK_TYPES, found)
    faults += found
    return None if found else Task(**values)


def task_name(task: str | Task) -> str:
    """The name of a task given by name or description."""
    return task if isinstance(task, str) else task.name


def own_task(
    data: str, family: str, columns: Mapping[str, str], source: str = "", options: Mapping[str, Any] | None = None
) -> Task:
    """A task on a file or folder, named after it; its path is made absolute because workers run in another folder.

    Raises InputError if the data cannot be a path.
    """
    if not data.startswith((BUNDLED, HUB)):
        data = str(path_of(data).absolute())
    stem = re.sub(r"[^A-Za-z0-9._+-]", "-", Path(data).stem).strip("._+-")[:LONGEST_STEM] or "data"
    taken = any(task.name == stem for task in TASKS)
    return Task(
        f"own-{stem}" if taken else stem, family, data, title=stem, columns=columns, options=options or {}, source=source
    )


def task_faults(tasks: Sequence[str | Task], architecture: str, reads_text: bool = True) -> list[str]:
    """Reasons why a model of this class cannot be scored on these tasks, a sentence each."""
    names = [task_name(task) for task in tasks]
    faults = [f"task {name!r} is named twice." for name in sorted(set(names)) if names.count(name) > 1]
    for entry in tasks:
        try:
            task = find_task(entry) if isinstance(entry, str) else entry
        except TaskError as error:
            faults.append(str(error) if str(error).endswith("?") else f"{error}.")
            continue
        faults += [] if isinstance(entry, str) else described_faults(task)
        reason = unfit(task, architecture, reads_text)
        faults += [reason] if reason else []
    return faults


def described_faults(task: Task) -> list[str]:
    """What is wrong with a described task, as far as can be seen without reading its data."""
    where = f"task {task.name!r}"
    faults = [*_column_faults(task, where), *_option_faults(task, where), *_metric_faults(task, where)]
    if any(known.name == task.name and known != task for known in TASKS):
        faults.append(f"{where} has the name of a task that comes with offcomp; give your own another name.")
    fault = data_fault(task.data)
    return [*faults, f"{where}: {fault}"] if fault else faults


def _column_faults(task: Task, where: str) -> Iterator[str]:
    known = [*dict.fromkeys(column for columns in task.about.inputs for column in columns)]
    known += [task.about.target] if task.about.target else []
    for name in task.columns:
        if name not in known:
            yield f"{where} renames the column {name!r}; family {task.family!r} has {', '.join(known)}."


def _option_faults(task: Task, where: str) -> Iterator[str]:
    defaults = task.about.options
    for name, value in task.options.items():
        if name not in defaults:
            takes = f"takes {', '.join(defaults)}" if defaults else "takes none"
            yield f"{where} has an unknown option {name!r}; family {task.family!r} {takes}."
        elif wanted := _unlike(value, defaults[name]):
            yield f"{where} has option {name} {value!r}; it must be {wanted}."


def _metric_faults(task: Task, where: str) -> Iterator[str]:
    known = ALSO.get(task.about.metric, ())
    for name in task.also:
        if name not in known:
            has = f"can list {' and '.join(known)}" if known else "can list none"
            yield f"{where} lists the metric {name!r}; in addition to {task.about.metric}, a {task.family} task {has}."


def _unlike(value: Any, default: Any) -> str:
    """What a value must be to replace this default; empty if it is valid."""
    if default is None:
        return "" if value is None or is_text_list(value) else "a list of class names"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        return "" if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else "a whole number of 0 or more"
    if isinstance(default, float):
        return "" if is_number(value) and value >= 0 else "a number of 0 or more"
    return "" if isinstance(value, type(default)) else f"a {type(default).__name__}"


def data_fault(data: str) -> str | None:
    """What is wrong with the location of the data, in one sentence; None if nothing is."""
    if data.startswith(BUNDLED):
        known = sorted({task.data for task in TASKS if task.bundled})
        return None if data in known else f"{data!r} does not come with offcomp; choose from {', '.join(known)}."
    if data.startswith(HUB):
        return None
    try:
        path = path_of(data)
    except InputError as error:
        return f"data {error}."
    if path.is_dir():
        return None
    if path.suffix.lower() not in SUFFIXES:
        return f"data {data!r} must be a file that ends in {', '.join(SUFFIXES)}, a folder of such files, or 'hub:PATH/CONFIG'."
    return None if path.exists() else f"data {data!r} is not there; give the path of a file or folder."
