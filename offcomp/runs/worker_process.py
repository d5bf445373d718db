"""A run as seen by the process that works on it: its progress, its result, and whether it should continue.

Even while torch is busy, a watcher thread checks whether the run was cancelled, the parent process exited or the folder was
removed, so that the worker stops within a second.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from offcomp.errors import RunError, StorageError
from offcomp.files import PART, write_json
from offcomp.methods import packages_of
from offcomp.models.environment import environment
from offcomp.planning.data.scores import Score
from offcomp.planning.json_checks import Malformed
from offcomp.runs.claims import claim
from offcomp.runs.documents import HEARTBEAT, PROGRESS, RESULT, WORKER, Progress, read_plan, read_worker
from offcomp.runs.forecast import Forecast
from offcomp.runs.result import RUN_SCHEMA, Environment, GroupResult, Inputs, LedgerEntry, ModelResult, RunResult
from offcomp.runs.resume import forget_groups
from offcomp.runs.worker_environment import parent_is_gone
from offcomp.runs.worker_lock import is_in_place

log = logging.getLogger("offcomp")

WATCH_SECONDS = 0.2
PLACE_SECONDS = 0.01
TAKE_SECONDS = 2.0
PROGRESS_SECONDS, IDLE_PROGRESS_SECONDS = 0.25, 1.0
BEAT_SECONDS = 4.0
QUEUED, CANCEL = "queued", "cancel"
RESERVED_BYTES = 256_000
RESERVE = f".reserve{PART}"
"""A placeholder that is deleted before the result is written, so that a failure can be reported even if the disk is full."""


@dataclass(frozen=True)
class Outcome:
    """What a run has produced when it ends, apart from its groups. Empty if the run failed.

    notes          caveats about the sizes
    corrections    the ledger of the corrected biases and gains
    """

    model: ModelResult | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    inputs: Inputs | None = None
    notes: Sequence[str] = ()
    corrections: Sequence[LedgerEntry] = ()


NOTHING = Outcome()


class Worker:
    """A single run, from its plan to its result. `finish` may be called from any thread; the first call wins.

    The worker never recreates its folder, and writes nothing once the folder has been removed, replaced or claimed by a later
    attempt. Raises StorageError if the plan cannot be read.

    lock    the open lock of the folder, if it has one
    """

    def __init__(self, folder: Path, lock: int | None = None):
        self.folder, self.lock = folder, lock
        try:
            self.plan = read_plan(folder)
        except Malformed as fault:
            raise StorageError(f"the plan in {folder} cannot be read because {fault}; remove the folder") from None
        packages = packages_of(group.method for group in self.plan.groups)
        self._packages = {"plugins": packages} if packages else {}
        self.attempt = self._claimed_attempt()
        self.device = "cpu"
        self.groups: list[GroupResult] = []
        self.timings: dict[str, float] = {}
        self.current_stage = ""
        self._forecast = Forecast()
        self._started: float | None = None
        self._last_write = self._last_beat = 0.0
        self._writing = threading.RLock()
        self._ending = threading.Lock()

    def begin(self, costs: Mapping[str, float]) -> None:
        """Start the clock: the run has left the queue. `costs`: estimated seconds of each remaining stage."""
        self._started = time.time()
        self._forecast = Forecast()
        self._forecast.expect(costs)

    @property
    def has_begun(self) -> bool:
        """Whether the run has left the queue."""
        return self._started is not None

    def finish(self, status: str, *, error: str = "", outcome: Outcome = NOTHING) -> None:
        """Write run.json, including any results so far, and exit the process."""
        written = self.conclude(status, error=error, outcome=outcome)
        logging.shutdown()
        os._exit(0 if written and status == "done" else 1)

    def conclude(self, status: str, *, error: str = "", outcome: Outcome = NOTHING) -> bool:
        """Write run.json, including any results so far. Returns whether it was written. Any later call blocks forever."""
        self._ending.acquire()
        try:
            written = self.owns_folder() and self._write_result(self.result(status, error, outcome))
        except BaseException:
            self._ending.release()  # the caller may report the failure
            raise
        if written and status == "done":
            forget_groups(self.folder)
        return written

    def owns_folder(self) -> bool:
        """Whether the folder still belongs to this attempt at the run."""
        if self.lock is not None and not is_in_place(self.folder, self.lock):
            return False
        return self.attempt is None or (self._claimed_attempt() or 0) <= self.attempt

    def take_over(self) -> None:
        """Record this process as the one that works on the run. Raises StorageError."""
        with suppress(Malformed):
            if self.owns_folder() and (record := read_worker(self.folder)):
                update = {"submitted": record.submitted, "attempt": record.attempt}
                known = {name: value for name, value in update.items() if value is not None}
                write_json(self.folder / WORKER, claim(os.getpid()).to_dict() | known, make_folder=False)

    def _claimed_attempt(self) -> int | None:
        with suppress(Malformed, OSError):
            if record := read_worker(self.folder):
                return record.attempt
        return None

    def result(self, status: str, error: str = "", outcome: Outcome = NOTHING) -> RunResult:
        """The content of run.json. It is not validated, so that a failure can always be reported."""
        known: dict[str, Any] = {"inputs": outcome.inputs, "notes": tuple(outcome.notes)} if outcome.inputs else {}
        known |= {"attempt": self.attempt} if self.attempt is not None else {}
        known |= {"corrections": tuple(outcome.corrections)} if outcome.corrections else {}
        started = self._started or time.time()
        return RunResult.model_construct(
            schema=RUN_SCHEMA,
            id=self.folder.name,
            status=status,
            error=error,
            plan=self.plan.to_dict(),
            groups=tuple(self.groups),
            model=outcome.model,
            scores=outcome.scores,
            environment=Environment.from_json(environment() | {"device": self.device} | self._packages),
            timings=self.timings | {"total": time.time() - started if self.has_begun else 0.0},
            started=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
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
        """The folder of the stored groups, created on first access. Raises OSError, and RunError if the run was replaced."""
        if not self.owns_folder():
            raise RunError(f"{self.folder} now belongs to a later attempt at the run")
        folder = self.folder / "groups"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def reserve_space(self) -> None:
        """Reserve disk space, if available, for reporting a failure."""
        reserve = self.folder / RESERVE
        with suppress(OSError):
            reserve.touch(mode=0o600)
            reserve.write_bytes(bytes(RESERVED_BYTES))

    def report(self, stage: str, fraction: float) -> None:
        """Record the progress of the current stage, and write it to progress.json at most four times per second."""
        with self._writing:
            self._forecast.advance(fraction)
            if fraction >= 1 or time.monotonic() - self._last_write >= PROGRESS_SECONDS:
                self._write_progress(stage)

    def _write_progress(self, stage: str) -> None:
        with self._writing:
            self._last_write = time.monotonic()
            outlook = self._forecast.outlook()
            known = {"note": outlook.note} if outlook.note else {}
            progress = Progress(
                stage=stage,
                fraction=outlook.fraction,
                remaining_seconds=outlook.remaining,
                elapsed_seconds=outlook.elapsed,
                **known,
            )
            if self.owns_folder():
                write_json(self.folder / PROGRESS, progress.to_dict(), make_folder=False)

    def wait_in_queue(self) -> None:
        """Record that the run is queued. Raises StorageError."""
        write_json(self.folder / PROGRESS, Progress(stage=QUEUED, fraction=0.0).to_dict(), make_folder=False)

    def enter(self, stage: str) -> None:
        """Begin a stage, unless it is the current one. Raises StorageError."""
        with self._writing:
            if stage != self.current_stage:
                self.current_stage = stage
                self._forecast.enter(stage)
            self._write_progress(stage)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], None]]:
        """Context manager for a stage, which yields a progress callback and then records the duration."""
        self.enter(name)
        yield lambda fraction: self.report(name, fraction)
        with self._writing:
            self.timings[name] = self._forecast.leave()
            self.current_stage = ""

    def show_life(self) -> None:
        """Touch the heartbeat, and update the remaining time if a stage reports nothing. Call several times a second."""
        now = time.monotonic()
        if now - self._last_beat >= BEAT_SECONDS:
            self._last_beat = now
            with suppress(OSError):
                (self.folder / HEARTBEAT).touch(mode=0o600)
        if self.current_stage and now - self._last_write >= IDLE_PROGRESS_SECONDS:
            with self._writing, suppress(StorageError):
                if self.current_stage:
                    self._write_progress(self.current_stage)

    @property
    def is_cancelled(self) -> bool:
        """Whether cancellation was requested."""
        return (self.folder / CANCEL).exists()

    def watch(self) -> None:
        """Exit once the run is cancelled or replaced, its folder is removed, or the parent exits (which interrupts the run)."""
        while True:
            if parent_is_gone() or not self.owns_folder():
                os._exit(1)
            if self.is_cancelled:
                self.finish("cancelled", error="Cancelled.")
            self.show_life()
            time.sleep(WATCH_SECONDS)
