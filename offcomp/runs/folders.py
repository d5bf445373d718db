"""Read the folder of a run, or report it as unreadable without affecting other runs. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from offcomp.files import changed, check_shortage
from offcomp.models.identity import is_content
from offcomp.planning.json_checks import Malformed
from offcomp.planning.plan import Plan
from offcomp.runs import documents
from offcomp.runs.claims import foreign_host
from offcomp.runs.start import LOG, has_worker

MOST_CACHED = 4096
OF_A_SAMPLE = "identified by a sample of its weights (as in earlier versions), not by all of them"
"""How a model's identity is described if `Run.of_a_sample` is true."""
ENDED = ("done", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class Run:
    """A snapshot of a run, read from its files.

    progress    the checked progress.json of a run that has not ended; empty if unknown
    result      the checked run.json (`offcomp.runs.documents`), if the run has written one
    host        the host that it is running on, if that is not this host
    inputs      the inputs it was submitted with, for a run without a result
    """

    id: str
    folder: Path
    plan: Plan
    status: str
    submitted: float
    progress: dict[str, Any]
    result: dict[str, Any] | None
    host: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of_a_sample(self) -> bool:
        """Whether the run identifies its model by a sample of the weights, as in earlier versions, rather than by all bytes."""
        model = (self.result or {}).get("model") or {}
        return "fingerprint" in model and not is_content(str(model["fingerprint"]))

    @property
    def status_text(self) -> str:
        """The run's status, followed by the host if that is a different one."""
        return f"{self.status} on {self.host}" if self.host else self.status

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.status in ENDED

    def group_file(self, name: str) -> Path:
        """Path of the file with a group's stored tensors."""
        return self.folder / "groups" / f"{name}.safetensors"

    @property
    def has_weights(self) -> bool:
        """Whether the stored tensors of its groups are present; bundled runs and baselines have none."""
        return bool(self.plan.groups) and all(self.group_file(group.name).is_file() for group in self.plan.groups)

    @property
    def error(self) -> str:
        """Why the run did not finish, as a sentence; empty if it did."""
        if self.result and self.result.get("error"):
            return str(self.result["error"])
        if self.status != "interrupted":
            return ""
        try:
            last_line = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        except (OSError, IndexError):
            return "the worker ended without a result or any output; run the plan again"
        return f"the worker ended without a result; run the plan again. The last line of its log: {last_line}"


@dataclass(frozen=True)
class BadFolder:
    """A folder that should contain a run but cannot be read as one, with the reason as a clause."""

    name: str
    folder: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.name} cannot be read, since {self.reason}; run its plan again, or remove {self.folder}"


@lru_cache(maxsize=MOST_CACHED)
def _ended_run(folder: Path, _stamp: tuple[int, int]) -> Run | BadFolder:
    """The run in a folder with a result, which no longer changes. Cached for each state of its run.json (`files.changed`).

    Raises OSError if a file cannot be opened. This is not cached, since a later read may succeed.
    """
    try:
        plan, result = documents.read_result(folder)
    except Malformed as fault:
        return _bad(folder, fault)
    try:
        submitted = float(documents.read_worker(folder).get("submitted", 0.0))
    except Malformed:
        submitted = _started(result)
    return Run(folder.name, folder, plan, result["status"], submitted, {}, result)


def _bad(folder: Path, fault: Malformed | OSError) -> BadFolder:
    if isinstance(fault, OSError):
        check_shortage(folder, fault)
        name = Path(fault.filename).name if fault.filename else "it"
        return BadFolder(folder.name, folder, f"{name} cannot be opened ({fault.strerror})")
    return BadFolder(folder.name, folder, str(fault))


def _started(result: Mapping[str, Any]) -> float:
    """When a run started, in seconds since 1970; 0 if unknown."""
    try:
        seconds = datetime.fromisoformat(result["started"]).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), documents.LATEST_SECONDS)


def _unended_run(folder: Path) -> Run | BadFolder:
    """The current state of a run that has no result yet."""
    worker = documents.read_worker(folder)
    host = foreign_host(worker)
    alive = bool(host) or has_worker(folder, worker)
    if not alive and changed(folder / documents.RESULT):  # its worker ended between the two checks
        return read_run(folder)
    progress, status = documents.read_progress(folder), "interrupted"
    if alive:
        status = "queued" if progress.get("stage", "queued") == "queued" else "running"
    plan, submitted = documents.read_plan(folder), worker.get("submitted", 0.0)
    return Run(folder.name, folder, plan, status, submitted, progress, None, host, documents.read_inputs(folder))


def read_run(folder: Path) -> Run | BadFolder:
    """The run in a folder. Raises StorageError if no file descriptors are left."""
    try:
        stamp = changed(folder / documents.RESULT)
        return _ended_run(folder, stamp) if stamp else _unended_run(folder)
    except (Malformed, OSError) as fault:
        return _bad(folder, fault)
