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
from typing import Any

from offcomp import files
from offcomp.files import PART, private_folder
from offcomp.runs.claims import Claim, claim, is_alive
from offcomp.runs.documents import INPUTS, PLAN, WORKER

LOG, LOCK = "log.txt", "worker.lock"
FORMER = ".former"
STORE_LOCK = ".lock"
STORE_SECONDS = 30.0
PARENT_VARIABLE, LOCK_VARIABLE = "OFFCOMP_PARENT", "OFFCOMP_LOCK"
PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""Settings that prevent threads from spin-waiting, which slows a worker down a hundredfold while another process is busy."""
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MKL_DISABLE_FAST_MM": "1"}
"""Settings that return freed blocks of 1 MB or more to the system instead of caching blocks of up to 32 MB (also in MKL)."""


@contextmanager
def store_lock(runs: Path, seconds: float = STORE_SECONDS) -> Iterator[None]:
    """Acquire the exclusive right to add, replace or remove run folders, waiting up to `seconds`. Raises OSError."""
    private_folder(runs)
    with files.locked(runs / STORE_LOCK, seconds):
        yield


def start_run(folder: Path, plan: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Start a worker for a plan in `folder`, replacing any previous run. The caller must hold the `store_lock`.

    If a step fails, restores the previous state and raises OSError.
    """
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=PART, dir=folder.parent))
    worker = None
    try:
        _write(new / PLAN, plan)
        _write(new / INPUTS, inputs)
        with files.closing(files.open_lock(new / LOCK)) as lock:  # the worker keeps holding the lock afterwards
            files.take_lock(lock)
            worker = start_worker(folder, new / LOG, lock)
        _write(new / WORKER, claim(worker.pid).to_dict() | {"submitted": time.time()})
        _move_into_place(new, folder)
    except BaseException:
        if worker is not None:
            worker.kill()
            worker.wait()
        _undo_start(new, folder)
        raise
    with suppress(OSError):  # if this fails, a later sweep removes it
        remove_folder(former_of(folder))


def _write(file: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file to a folder that is not yet visible to other processes."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=1, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())


def start_worker(folder: Path, log: Path, lock: int) -> subprocess.Popen[bytes]:
    """Start `python -m offcomp.runs.worker FOLDER` in a new session; the worker holds the lock until it exits.

    The worker compares OFFCOMP_PARENT with its parent process id and exits when the parent does, so it is never orphaned.
    """
    environment = PATIENT_THREADS | RETURN_MEMORY | os.environ | {PARENT_VARIABLE: str(os.getpid()), LOCK_VARIABLE: str(lock)}
    with files.closing(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)) as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "offcomp.runs.worker", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment | {"HF_HUB_OFFLINE": "1"},
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
    for name in (PLAN, INPUTS, WORKER, LOG, LOCK):
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
