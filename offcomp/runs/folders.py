"""Read run folders. An unreadable folder is reported and does not affect other runs. Does not import torch."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from offcomp.files import changed, check_shortage
from offcomp.models.identity import is_content
from offcomp.planning.json_checks import Malformed
from offcomp.planning.plan import Plan
from offcomp.runs import documents
from offcomp.runs.claims import Claim, foreign_host
from offcomp.runs.documents import Progress
from offcomp.runs.result import Inputs, RunResult
from offcomp.runs.start import LOG, has_worker

if TYPE_CHECKING:
    import pandas as pd

MAX_CACHED = 4096
OF_A_SAMPLE = "identified by a sample of its weights, as in earlier versions, rather than by all of them"
"""Describes a model's identity in messages if `Run.of_a_sample` is true."""
TABLE_COLUMNS = ("name", "method", "size", "compression_ratio", "relative_error", "num_parameters", "num_bytes", "seconds")
SILENT_SECONDS = 120.0
"""A longer silence is reported, since a worker writes a heartbeat every five seconds unless it has ended or is suspended."""
ENDED = ("done", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class Run:
    """A snapshot of a run, read from its files.

    progress    the content of progress.json for a run that has not ended; None if unknown
    result      the content of run.json; None if it has not been written
    host        the host on which the run is in progress; empty if it is this host
    silent      seconds since the last sign of life of a run in progress; 0 if unknown
    inputs      the inputs with which the run was submitted; None if it has a result
    """

    id: str
    folder: Path
    plan: Plan
    status: str
    submitted: float
    progress: Progress | None = None
    result: RunResult | None = None
    host: str = ""
    inputs: Inputs | None = None
    silent: float = field(default=0.0, compare=False)

    @property
    def of_a_sample(self) -> bool:
        """Whether the run identifies its model by only a sample of the weights, as earlier versions did."""
        model = self.result.model if self.result else None
        return model is not None and not is_content(model.fingerprint)

    @property
    def status_text(self) -> str:
        """The run's status, the host if it is another one, and for how long a run in progress has shown no sign of life."""
        text = f"{self.status} on {self.host}" if self.host else self.status
        return text if self.silent <= SILENT_SECONDS else f"{text}, no sign of life for {self.silent / 60:.0f} min"

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return self.status in ENDED

    def table(self) -> pd.DataFrame:
        """A table with one row per group and the columns `TABLE_COLUMNS`. It has no rows if the run has no result."""
        import pandas as pd

        groups = self.result.groups if self.result else ()
        rows = [[getattr(group, name) for name in TABLE_COLUMNS] for group in groups]
        return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))

    def group_file(self, name: str) -> Path:
        """Path of the file that contains a group's stored tensors."""
        return self.folder / "groups" / f"{name}.safetensors"

    @property
    def corrections_file(self) -> Path:
        """Path of the file that contains the corrected biases and gains; it exists only if there are any."""
        return self.folder / documents.CORRECTIONS_FILE

    @property
    def tensor_files(self) -> list[Path]:
        """Paths of all files of stored tensors that the run has, or had before they were deleted."""
        corrected = self.result is not None and bool(self.result.corrections)
        return [self.group_file(group.name) for group in self.plan.groups] + [self.corrections_file] * corrected

    @property
    def has_weights(self) -> bool:
        """Whether all stored tensors are available. Bundled runs and baselines have no stored tensors."""
        return bool(self.plan.groups) and all(file.is_file() for file in self.tensor_files)

    @property
    def error(self) -> str:
        """The reason why the run did not finish, as a sentence; empty if it finished."""
        if self.result and self.result.error:
            return self.result.error
        if self.status != "interrupted":
            return ""
        try:
            last_line = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        except (OSError, IndexError):
            return "the worker exited without a result or output; run the plan again"
        return f"the worker exited without a result; run the plan again. Last line of the log: {last_line}"


@dataclass(frozen=True)
class BadFolder:
    """A folder that should contain a run but cannot be read; `reason` is a clause that explains why."""

    name: str
    folder: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.name} cannot be read because {self.reason}; run its plan again, or remove {self.folder}"


@lru_cache(maxsize=MAX_CACHED)
def _ended_run(folder: Path, _stamp: tuple[int, int]) -> Run | BadFolder:
    """Read a run that has ended and no longer changes. Cached for each version of its run.json (see `files.changed`).

    Raises OSError if a file cannot be opened. Such failures are not cached, since a later attempt may succeed.
    """
    try:
        plan, result = documents.read_result(folder)
    except Malformed as fault:
        return _bad(folder, fault)
    try:
        worker = documents.read_worker(folder)
        submitted = worker.submitted if worker else 0.0
    except Malformed:
        submitted = _started(result)
    return Run(folder.name, folder, plan, result.status, submitted, result=result)


def _bad(folder: Path, fault: Malformed | OSError) -> BadFolder:
    if isinstance(fault, OSError):
        check_shortage(folder, fault)
        name = Path(fault.filename).name if fault.filename else "it"
        return BadFolder(folder.name, folder, f"{name} cannot be opened ({fault.strerror})")
    return BadFolder(folder.name, folder, str(fault))


def _started(result: RunResult) -> float:
    """The start time of a run in seconds since 1970; 0 if unknown."""
    try:
        seconds = datetime.fromisoformat(result.started).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), documents.LATEST_SECONDS)


def _unended_run(folder: Path) -> Run | BadFolder:
    """Read the current state of a run that has no result yet."""
    worker = documents.read_worker(folder)
    claimed = worker or Claim()
    host = foreign_host(claimed)
    alive = bool(host) or has_worker(folder, claimed)
    if not alive and changed(folder / documents.RESULT):  # its worker ended between the two checks
        return read_run(folder)
    progress, status = documents.read_progress(folder), "interrupted"
    if alive:
        status = "queued" if progress is None or progress.stage == "queued" else "running"
    plan, submitted = documents.read_plan(folder), worker.submitted if worker else 0.0
    silent = _seconds_since(folder / documents.HEARTBEAT) if alive else 0.0
    return Run(folder.name, folder, plan, status, submitted, progress, None, host, documents.read_inputs(folder), silent)


def _seconds_since(file: Path) -> float:
    """Seconds since a file was last touched; 0 if it does not exist."""
    touched = changed(file)
    return max(time.time() - touched[0] / 1e9, 0.0) if touched else 0.0


def read_run(folder: Path) -> Run | BadFolder:
    """Read the run in a folder. Raises StorageError if no file descriptors are available."""
    try:
        stamp = changed(folder / documents.RESULT)
        return _ended_run(folder, stamp) if stamp else _unended_run(folder)
    except (Malformed, OSError) as fault:
        return _bad(folder, fault)
