"""Tasks by which an original and a compressed model are compared on the same examples."""

from __future__ import annotations

from offcomp.errors import TaskError
from offcomp.evaluation.probe import ProbeTask

TASKS = (ProbeTask(name="sentiment", title="Sentiment", version="1"),)


def find_task(name: str) -> ProbeTask:
    """The task of this name. Raises TaskError."""
    for task in TASKS:
        if task.name == name:
            return task
    raise TaskError(f"unknown task {name!r}; choose from {', '.join(task.name for task in TASKS)}")
