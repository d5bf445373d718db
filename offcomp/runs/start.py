"""Start a run: create its folder under a temporary name while holding the worker's lock, then rename the folder.

    runs/.ID.XXXXXXXX.part     the folder while it is being created; its worker waits for the final name
    runs/.ID.former            the folder of the previous run with the same id, until the new run has replaced it

Other processes therefore never see a partial run or a run without a worker. If any step fails, the previous run is restored and
nothing else is left behind. Hold the `store_lock` while changing run folders. Leftovers of killed processes are removed when
the next run starts. This module does not import torch.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from offcomp import files
from offcomp.files import PART, private_folder, read_json
from offcomp.planning.cost import needs_model
from offcomp.planning.plan import Plan
from offcomp.runs import resident
from offcomp.runs.claims import Claim, claim, is_alive
from offcomp.runs.documents import INPUTS, PLAN, WORKER
from offcomp.runs.frames import FRAMES
from offcomp.runs.resume import FINISHED, GROUPS, take_over_groups
from offcomp.runs.worker_environment import LOCK_VARIABLE, worker_environment

LOG, LOCK = "log.txt", "worker.lock"
FORMER = ".former"
STORE_LOCK = ".lock"
STORE_SECONDS = 30.0
LAST_ATTEMPT = 1_000_000


@contextmanager
def store_lock(runs: Path, seconds: float = STORE_SECONDS) -> Iterator[None]:
    """Acquire the exclusive right to add, replace or remove run folders, waiting up to `seconds`. Raises OSError."""
    private_folder(runs)
    with files.locked(runs / STORE_LOCK, seconds):
        yield


def start_run(folder: Path, plan: Plan, inputs: Mapping[str, Any], *, resumes: bool = False) -> None:
    """Start a worker for a plan in `folder`, replacing any previous run. The caller must hold the `store_lock`.

    If a step fails, restores the previous state and raises OSError.

    resumes    whether to use the finished groups of the previous run
    """
    model = resident.Model(folder.parent.parent, plan.model, str(inputs.get("model", "")))
    attempt = next_attempt(folder)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=PART, dir=folder.parent))
    worker = None
    try:
        _write(new / PLAN, plan.to_dict())
        _write(new / INPUTS, inputs)
        if resumes:
            take_over_groups(folder, new)
        with files.closing(files.open_lock(new / LOCK)) as lock:  # the worker keeps holding the lock afterwards
            files.take_lock(lock)
            worker = start_worker(folder, new / LOG, lock, model, loads=needs_model(plan))
        _write(new / WORKER, claim(worker.pid).to_dict() | {"submitted": time.time(), "attempt": attempt})
        _move_into_place(new, folder)
    except BaseException:
        if worker is not None:
            worker.kill()
            worker.wait()
        _undo_start(new, folder)
        raise
    with suppress(OSError):  # if this fails, a later sweep removes it
        remove_folder(former_of(folder))


def next_attempt(folder: Path) -> int:
    """The number of the next attempt at a run: 1 for the first, and 2 after a run that recorded no number."""
    former = read_json(folder / WORKER)
    if former is None:
        return 1
    number = former.get("attempt", 1) if isinstance(former, dict) else 1
    return number + 1 if isinstance(number, int) and number < LAST_ATTEMPT else 2


def _write(file: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file to a folder that is not yet visible to other processes."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=1, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())


class Started(Protocol):
    """A run that has just been started. Call `kill` and then `wait` to undo the start."""

    @property
    def pid(self) -> int:
        """The id of the process, which the claim on the run records."""

    def kill(self) -> None:
        """End the work on the run at once."""

    def wait(self) -> object:
        """Wait until no process works on the run any more."""


def start_worker(folder: Path, log: Path, lock: int, model: resident.Model, *, loads: bool) -> Started:
    """Hand a run to this process's resident worker (see `resident`) or, where there can be none, to a new worker process.

    The process that works on the run holds the run's lock until the run has ended, and writes to the log. Raises OSError.

    folder      the final path of the run's folder
    model       the model of the run
    loads       whether the run needs the whole model
    """
    with files.closing(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)) as output:
        if resident.is_available():
            return resident.start_run(model, folder, lock, output, loads=loads)
        return _start_worker_process(folder, lock, output)


def _start_worker_process(folder: Path, lock: int, output: int) -> subprocess.Popen[bytes]:
    """Start `python -m offcomp.runs.worker FOLDER` in a new session. The process inherits the lock."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "offcomp.runs.worker", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=worker_environment() | {LOCK_VARIABLE: str(lock)},
        pass_fds=(lock,),
        start_new_session=True,
    )


def has_worker(folder: Path, worker: Claim) -> bool:
    """Whether a worker on this host is using a run's folder; `worker` is the claim in worker.json. Raises OSError."""
    lock = folder / LOCK
    return files.is_locked(lock) or (not lock.exists() and is_alive(worker))


def former_of(folder: Path) -> Path:
    """Temporary path of a run's folder while a new run is replacing it."""
    return folder.with_name(f".{folder.name}{FORMER}")


def _move_into_place(new: Path, folder: Path) -> None:
    """Move a new folder to its final path. Any existing folder at that path is first moved to `former_of`."""
    former = former_of(folder)
    if folder.exists():
        folder.rename(former)
    new.rename(folder)


def _undo_start(new: Path, folder: Path) -> None:
    """Undo a start that failed at any step, and restore the previous run."""
    if new.exists():
        _remove_new(new)
    else:
        with suppress(OSError):  # if this fails, the next sweep restores the previous run
            remove_folder(folder)
    former = former_of(folder)
    if former.exists() and not folder.exists():
        former.rename(folder)


def _remove_new(new: Path) -> None:
    """Remove a folder that was never renamed, file by file, since listing the folder would require file descriptors."""
    for name in (GROUPS, FINISHED):
        shutil.rmtree(new / name, ignore_errors=True)
    for name in (PLAN, INPUTS, WORKER, LOG, LOCK, FRAMES):
        with suppress(OSError):
            (new / name).unlink()
    with suppress(OSError):
        new.rmdir()


def remove_folder(folder: Path) -> None:
    """Remove a run's folder by renaming it and then deleting its files. Raises OSError if it cannot be renamed."""
    if not folder.exists():
        return
    gone = Path(tempfile.mkdtemp(prefix=f".{folder.name.strip('.')}.", suffix=PART, dir=folder.parent))
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
