"""One run as its folder shows it at one moment; or a folder that cannot be read, which is in the way of no other. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from offcomp.claims import foreign_host
from offcomp.files import changed, check_shortage
from offcomp.json_checks import Malformed
from offcomp.models.identity import is_content
from offcomp.plan import Plan
from offcomp.run_documents import (
    LATEST_SECONDS,
    RESULT,
    read_inputs,
    read_plan,
    read_progress,
    read_result,
    read_worker,
)
from offcomp.run_start import LOG, has_worker

MOST_KEPT = 4096
Stamp = tuple[int, int] | None
"""What `files.changed` tells of a file."""
OF_A_SAMPLE = "known by a sample of the weights, not by all of them, as versions before this one did"
"""What is said of a model's identity where `Run.of_a_sample`."""
ENDED = ("done", "failed", "cancelled", "interrupted")


@dataclass(frozen=True)
class Run:
    """A run as its files show it at one moment.

    progress    the checked progress.json of a run that has not ended; empty where nothing is known
    result      the checked run.json (`offcomp.run_documents`) of a run that has ended by itself
    host        where it is at work, if that is not this host
    inputs      what it was submitted to read, of a run without a result
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
        """Whether it knows its model by a sample of the weights, as former versions did, not by all bytes."""
        model = (self.result or {}).get("model") or {}
        return "fingerprint" in model and not is_content(str(model["fingerprint"]))

    @property
    def at_work_on(self) -> str:
        """Its status in words: with the host where that is another one, which says what it does in its own time."""
        return f"{self.status} on {self.host}" if self.host else self.status

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ENDED

    def group_file(self, name: str) -> Path:
        """Where the stored tensors of a group are."""
        return self.folder / "groups" / f"{name}.safetensors"

    @property
    def has_weights(self) -> bool:
        """Whether what its groups store is here: runs that come with offcomp are figures alone, and so is a baseline."""
        return bool(self.plan.groups) and all(self.group_file(group.name).is_file() for group in self.plan.groups)

    @property
    def error(self) -> str:
        """Why it did not finish, in a sentence; empty where it did."""
        if self.result and self.result.get("error"):
            return str(self.result["error"])
        if self.status != "interrupted":
            return ""
        words = self.last_log_line
        return f"the worker ended without a result{f'. Its last words: {words}' if words else ' or a word'}; run it again"

    @property
    def last_log_line(self) -> str:
        """What the worker wrote last; empty where it wrote nothing."""
        try:
            return (self.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1]
        except (OSError, IndexError):
            return ""


@dataclass(frozen=True)
class BadFolder:
    """A folder among the runs that cannot be read as one, and why, in a clause."""

    name: str
    folder: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.name} cannot be read, since {self.reason}; run its plan again, or remove {self.folder}"


@lru_cache(maxsize=MOST_KEPT)
def _ended_run(folder: Path, _seen: Stamp) -> Run | BadFolder:
    """The run of a folder that has a result, which does not change any more; read once for each state of its run.json.

    Raises OSError where it cannot be opened: another look may find it.
    """
    try:
        plan, result = read_result(folder)
    except Malformed as fault:
        return _bad(folder, fault)
    try:
        submitted = float(read_worker(folder).get("submitted", 0.0))
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
    """When a run started, in seconds since 1970; 0 where that cannot be told."""
    try:
        seconds = datetime.fromisoformat(result["started"]).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LATEST_SECONDS)


def _unended_run(folder: Path) -> Run | BadFolder:
    """The run of a folder that has no result, as it is now."""
    worker = read_worker(folder)
    host = foreign_host(worker)
    alive = bool(host) or has_worker(folder, worker)
    if not alive and changed(folder / RESULT):  # its worker ended between two looks
        return read_run(folder)
    progress = read_progress(folder)
    waiting = progress.get("stage", "queued") == "queued"
    status = ("queued" if waiting else "running") if alive else "interrupted"
    about = read_plan(folder), status, worker.get("submitted", 0.0), progress
    return Run(folder.name, folder, *about, None, host, read_inputs(folder))


def read_run(folder: Path) -> Run | BadFolder:
    """The run of a folder. Raises StorageError where no file can be opened any more."""
    try:
        seen = changed(folder / RESULT)
        return _ended_run(folder, seen) if seen else _unended_run(folder)
    except (Malformed, OSError) as fault:
        return _bad(folder, fault)
