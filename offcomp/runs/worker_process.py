"""The worker process of a run: its lock, progress, result and place in the queue.

Even while torch is busy, a watcher thread checks whether the run was cancelled, the parent process exited or the folder was
removed, so that the worker stops within a second. Queued runs start in order of submission. OFFCOMP_SLOTS sets how many may
run concurrently (default: 1).
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from offcomp import files
from offcomp.errors import InputError, RunError, StorageError
from offcomp.files import PART, write_json
from offcomp.methods import packages_of
from offcomp.models.environment import environment
from offcomp.planning.data.scores import Score
from offcomp.planning.json_checks import Malformed
from offcomp.runs.documents import PROGRESS, RESULT, Progress, read_plan
from offcomp.runs.result import RUN_SCHEMA, Environment, GroupResult, Inputs, ModelResult, RunResult
from offcomp.runs.start import LOCK, LOCK_VARIABLE, PARENT_VARIABLE
from offcomp.runs.store import RunStore

log = logging.getLogger("offcomp")

WATCH_SECONDS = 0.2
PLACE_SECONDS = 0.01
TAKE_SECONDS = 2.0
PROGRESS_SECONDS = 0.25
SLOTS = re.compile(r"[1-9][0-9]{0,2}")
RESERVED_BYTES = 256_000
RESERVE = f".reserve{PART}"
"""A placeholder that is deleted before the result is written, so that a failure can be reported even if the disk is full."""


def parent_is_gone() -> bool:
    """Whether the process that started this worker has exited."""
    parent = int(os.environ.get(PARENT_VARIABLE, "0"))
    return bool(parent) and os.getppid() != parent


def hold_lock(folder: Path) -> int:
    """Hold the lock of a run's folder until this process exits. Returns the file descriptor, which children do not inherit.

    The process that starts a run acquires the lock, passes it to the worker and then renames the folder; this function waits
    for the rename. A manually started worker acquires the lock itself. Raises OSError, and RunError if another worker holds
    the lock.
    """
    inherited = os.environ.pop(LOCK_VARIABLE, "")
    if not inherited:
        lock = files.open_lock(folder / LOCK)
        if not files.take_lock(lock, TAKE_SECONDS):
            raise RunError(f"another worker is running in {folder}; wait for it to finish, or cancel its run")
        return lock
    lock = int(inherited)
    os.set_inheritable(lock, False)
    while not is_in_place(folder, lock):
        if parent_is_gone():
            os._exit(1)
        time.sleep(PLACE_SECONDS)
    return lock


def is_in_place(folder: Path, lock: int) -> bool:
    """Whether the folder contains this lock; False if the folder has been removed or replaced by another run."""
    try:
        return os.path.samestat((folder / LOCK).stat(), os.fstat(lock))
    except OSError:
        return False


@dataclass(frozen=True)
class Outcome:
    """What a run knows at its end: the model, its scores by task, and notes on its sizes. Empty if it fails."""

    model: ModelResult | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    inputs: Inputs | None = None
    notes: Sequence[str] = ()


NOTHING = Outcome()


class Worker:
    """A single run, from its plan to its result. `finish` may be called from any thread; the first call wins.

    The worker never recreates its folder, so nothing is written once the folder has been removed. Raises StorageError if the
    plan cannot be read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.plan = read_plan(folder)
        except Malformed as fault:
            raise StorageError(f"the plan in {folder} cannot be read because {fault}; remove the folder") from None
        packages = packages_of(group.method for group in self.plan.groups)
        self._packages = {"plugins": packages} if packages else {}
        self.started = time.time()
        self.groups: list[GroupResult] = []
        self.timings: dict[str, float] = {}
        self._costs: Mapping[str, float] = {}
        self._done_cost = 0.0
        self._last_write = 0.0
        self._working_since = self.started
        self._lock = threading.Lock()

    def finish(self, status: str, *, error: str = "", outcome: Outcome = NOTHING) -> None:
        """Write run.json, including any results so far, and exit the process."""
        with self._lock:
            written = self._write_result(self.result(status, error, outcome))
            logging.shutdown()
            os._exit(0 if written and status == "done" else 1)

    def result(self, status: str, error: str = "", outcome: Outcome = NOTHING) -> RunResult:
        """The content of run.json. It is not validated, so that a failure can always be reported."""
        known: dict[str, Any] = {"inputs": outcome.inputs, "notes": tuple(outcome.notes)} if outcome.inputs else {}
        return RunResult.model_construct(
            schema=RUN_SCHEMA,
            id=self.folder.name,
            status=status,
            error=error,
            plan=self.plan.to_dict(),
            groups=tuple(self.groups),
            model=outcome.model,
            scores=outcome.scores,
            environment=Environment.from_json(environment() | self._packages),
            timings=self.timings | {"total": time.time() - self.started},
            started=datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds"),
            **known,
        )

    def _write_result(self, result: RunResult) -> bool:
        """Write run.json, or only the error if that fails (e.g. on a full disk). Returns whether either was written."""
        try:
            (self.folder / RESERVE).unlink(missing_ok=True)
            write_json(self.folder / RESULT, result.to_dict(), make_folder=False)
        except (OSError, StorageError) as error:
            log.error("%s", error)  # the last log line, shown if the run appears as interrupted
            failure = {"status": "failed", "error": result.error or f"{error}."}
            result = result.model_copy(update=failure | {"groups": (), "scores": {}, "model": None})
            with suppress(StorageError):
                write_json(self.folder / RESULT, result.to_dict(), make_folder=False)
                return True
            return False
        return True

    @property
    def groups_folder(self) -> Path:
        """The folder of the stored groups, created on first access. Raises OSError."""
        folder = self.folder / "groups"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def reserve_space(self) -> None:
        """Reserve disk space, if available, for reporting a failure."""
        reserve = self.folder / RESERVE
        with suppress(OSError):
            reserve.touch(mode=0o600)
            reserve.write_bytes(bytes(RESERVED_BYTES))

    def expect(self, costs: Mapping[str, float]) -> None:
        """Set the estimated duration of each stage in seconds. Progress is weighted by these durations."""
        self._costs = costs
        self._working_since = time.time()

    def report(self, stage: str, fraction: float) -> None:
        """Write progress.json, at most four times per second."""
        now = time.time()
        if fraction < 1 and now - self._last_write < PROGRESS_SECONDS:
            return
        self._last_write = now
        total = sum(self._costs.values()) or 1.0
        done = min(self._done_cost + self._costs.get(stage, 0.0) * fraction, total)
        elapsed = now - self._working_since
        pace = elapsed / done if done > 1 else 1.0  # actual seconds per estimated second
        remaining = (total - done) * pace
        progress = Progress(stage=stage, fraction=done / total, remaining_seconds=remaining, elapsed_seconds=elapsed)
        write_json(self.folder / PROGRESS, progress.to_dict(), make_folder=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """Context manager for a stage, which yields a progress callback and then records the duration."""
        self._last_write = 0.0
        self.report(name, 0.0)
        began = time.perf_counter()
        yield lambda fraction: self.report(name, fraction)
        self.timings[name] = time.perf_counter() - began
        self._done_cost += self._costs.get(name, 0.0)

    def watch(self, lock: int) -> None:
        """Exit once the run is cancelled, its folder is removed, or the parent process exits (which interrupts the run)."""
        while True:
            if parent_is_gone() or not is_in_place(self.folder, lock):
                os._exit(1)
            if (self.folder / "cancel").exists():
                self.finish("cancelled", error="Cancelled.")
            time.sleep(WATCH_SECONDS)


@contextmanager
def slot(worker: Worker) -> Iterator[None]:
    """Wait for a free slot, first come, first served. The slot is released when the process exits."""
    store = RunStore(worker.folder.parent.parent)
    count = _slot_count()
    worker.report("queued", 1.0)
    while True:
        for index in range(count):
            with files.closing(files.open_lock(store.home / f".slot-{index}.lock")) as file:
                if files.take_lock(file) and not is_preceded(store, worker.folder.name):
                    yield
                    return
        time.sleep(WATCH_SECONDS)


def _slot_count() -> int:
    """The maximum number of concurrent runs. Raises InputError if OFFCOMP_SLOTS is invalid."""
    value = os.environ.get("OFFCOMP_SLOTS", "1")
    if not SLOTS.fullmatch(value.strip()):
        raise InputError(f"OFFCOMP_SLOTS is {value[:40]!r}; set it to the number of concurrent runs (1 to 999), or unset it")
    return int(value)


def is_preceded(store: RunStore, name: str) -> bool:
    """Whether a run submitted earlier on this host is still waiting."""
    waiting = [run for run in store.all() if run.status == "queued" and not run.host]
    submitted = next((run.submitted for run in waiting if run.id == name), 0.0)
    return any(run.submitted < submitted for run in waiting)
