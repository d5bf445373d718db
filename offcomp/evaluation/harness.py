"""What the evaluators of lm-evaluation-harness and MTEB share: their data, their errors and their random numbers."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, disable_progress_bars
from datasets.exceptions import DatasetsError

from offcomp.errors import OffcompError, TaskError
from offcomp.evaluation.base import TaskData
from offcomp.models.checkpoint import LIBRARY_FAULTS
from offcomp.models.loading import quiet
from offcomp.planning.data.harness_files import MODULES, harness_faults
from offcomp.planning.data.tasks import Task
from offcomp.planning.data.text_tables import reason

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""The part of a function's description that differs between processes."""
NOT_LOCAL = (OSError, DatasetsError)
"""What the libraries raise if a data set is not on this machine; a refused connection is an OSError."""


def check_available(task: Task) -> None:
    """Check that the library of a task is installed. Raises TaskError."""
    for fault in harness_faults(task):
        raise TaskError(fault.removesuffix("."))


def harness_data(task: Task, source: Any, texts: Sequence[str], *, content: Any, tested_on: str, release: str) -> TaskData:
    """The data of a task with these texts; `content` is everything that identifies them. Raises TaskError if there are none."""
    if not texts:
        raise TaskError(f"task {task.data!r} has no examples; choose a different task, or a larger limit")
    described = ADDRESS.sub("", json.dumps(content, sort_keys=True, default=str))
    digest = hashlib.sha256(described.encode()).hexdigest()[:12]
    splits = DatasetDict({"test": Dataset.from_dict({"text": list(texts)})})
    return TaskData(task, splits, digest, tested_on, source=source, release=release)


@contextmanager
def as_task_error(task: Task, action: str) -> Iterator[None]:
    """Run code of another library: convert its errors to one-sentence TaskErrors, and leave out what it prints."""
    disable_progress_bars()
    for library in MODULES.values():
        logging.getLogger(library).setLevel(logging.ERROR)
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said), quiet():
            yield
    except OffcompError:
        raise
    except NOT_LOCAL as error:
        raise TaskError(
            f"the data of task {task.data!r} are not on this machine ({reason(error)}); run `offcomp evaluate MODEL --task "
            f"{task.data}` once with network access, or use local files with --include-path"
        ) from error
    except LIBRARY_FAULTS as error:
        logging.getLogger("offcomp").info("task %s", task.data, exc_info=error)
        raise TaskError(f"{task.kind.harness} cannot {action} task {task.data!r}: {reason(error)}") from error


@contextmanager
def global_generators(python: int, numpy: int, torch_seed: int) -> Iterator[None]:
    """Seed the global random generators, which these libraries use, and restore their states afterwards."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(python)
        np.random.seed(numpy)
        torch.manual_seed(torch_seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
