"""Read the files of a run as typed documents, so that all other code can rely on them. Does not import torch.

Files from earlier versions may lack some fields. Unknown fields may have any value that is not nested too deeply.
"""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, Strict

from offcomp.errors import InputError, PlanError
from offcomp.files import changed
from offcomp.methods import METHODS, make_method
from offcomp.planning.document import Amount, Document, Fraction, Line, MustBe, Positive
from offcomp.planning.json_checks import Malformed, anything, by_name, read_checked
from offcomp.planning.plan import Plan
from offcomp.runs.claims import Claim
from offcomp.runs.result import Inputs, RunResult

PLAN, INPUTS, WORKER, PROGRESS, RESULT = "plan.json", "inputs.json", "worker.json", "progress.json", "run.json"
CORRECTIONS_FILE = "corrections.safetensors"
"""Name of the file in which a run or an export stores corrected biases and gains."""
HEARTBEAT = "heartbeat"
"""An empty file that the worker of a run touches at least every five seconds."""
LATEST_SECONDS = 1e11
"""The latest accepted timestamp, in seconds since 1970; it is within the range of `datetime`."""
D = TypeVar("D", bound=Document)
KNOWN_METHODS = frozenset(method.name for method in METHODS)
Timestamp = Annotated[float, Strict(), Field(ge=0, le=LATEST_SECONDS), MustBe(f"a number, 0 to {LATEST_SECONDS:g}")]


class WorkerRecord(Claim):
    """The process that works on a run, and when the run was submitted."""

    submitted: Timestamp
    """When the run was submitted, in seconds since 1970."""
    attempt: Positive | None = None
    """How many times the run has been started, including this time."""


class Progress(Document):
    """How far a run has progressed, while it is running."""

    stage: Line
    fraction: Fraction
    """Elapsed time as a share of the predicted duration of the whole run."""
    remaining_seconds: Amount | None = None
    elapsed_seconds: Amount | None = None
    note: Line | None = None
    """Why `remaining_seconds` has grown, such as "slower than estimated"."""


def read_plan(folder: Path) -> Plan:
    """Read the plan of a run. Raises Malformed and OSError."""
    return _plan_of(read_checked(folder / PLAN, _object), PLAN)


def _object(value: Any) -> Any:
    by_name(anything)(value)
    return value


def _plan_of(document: Any, where: str) -> Plan:
    """Parse the plan of a run. Unknown methods may have any options, since the run may come from another version of offcomp."""
    try:
        plan = Plan.from_dict(document)
        for group in plan.groups:
            if group.method in KNOWN_METHODS:
                _check_options(group.method, json.dumps(group.options))
    except InputError as error:
        fault = error.faults[0] if isinstance(error, PlanError) else str(error)
        raise Malformed(f": {fault.rstrip('.')}", where) from None
    return plan


@lru_cache(maxsize=1024)
def _check_options(method: str, options: str) -> None:
    """Raise InputError if a method does not accept these options (JSON). Cached, since many runs share the same options."""
    make_method(method, json.loads(options))


def read_result(folder: Path) -> tuple[Plan, RunResult]:
    """Read the plan and the result of a run. Raises Malformed and OSError."""
    result = read_checked(folder / RESULT, RunResult.from_json)
    return _plan_of(result.plan, f"{RESULT}: plan"), result


def read_worker(folder: Path) -> WorkerRecord | None:
    """Read the record of a run's worker process; None if the file is missing. Raises Malformed and OSError."""
    return _optional(folder / WORKER, WorkerRecord)


def read_inputs(folder: Path) -> Inputs | None:
    """Read the inputs of a run; None for old runs, which did not record them. Raises Malformed and OSError."""
    return _optional(folder / INPUTS, Inputs)


def read_progress(folder: Path) -> Progress | None:
    """Read the progress of a run; None if the file is missing or malformed (it will soon be rewritten). Raises OSError.

    The time since the file was written is subtracted from `remaining_seconds`.
    """
    file = folder / PROGRESS
    try:
        progress = _optional(file, Progress)
    except Malformed:
        return None
    written = changed(file)
    if progress is None or progress.remaining_seconds is None or written is None:
        return progress
    age = max(time.time() - written[0] / 1e9, 0.0)
    return progress.model_copy(update={"remaining_seconds": max(progress.remaining_seconds - age, 0.0)})


def _optional(file: Path, kind: type[D]) -> D | None:
    try:
        return read_checked(file, kind.from_json)
    except FileNotFoundError:
        return None
