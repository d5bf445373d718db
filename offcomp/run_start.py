"""How a run starts: its folder is made under another name, with its worker's lock held, and put in its place whole. No torch.

    runs/.ID.XXXXXXXX.part     the folder while it is made; its worker waits until it has its name
    runs/.ID.former            the folder of the former run of that id, until the new one is in its place

So nobody sees half a run, and none that nobody works on: whatever step fails, the former run is back and nothing else is left.
Whoever changes folders of runs holds the `store_lock` meanwhile. What a killed process leaves is swept at the next start.
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

from offcomp import locks
from offcomp.claims import claim, is_alive
from offcomp.files import PART, private_folder
from offcomp.run_documents import INPUTS, PLAN, WORKER

LOG, LOCK = "log.txt", "worker.lock"
FORMER = ".former"
STORE_LOCK = ".lock"
STORE_SECONDS = 30.0
PARENT_VARIABLE, LOCK_VARIABLE = "OFFCOMP_PARENT", "OFFCOMP_LOCK"
PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""A polite worker's threads must not spin for each other: beside another busy process they would be a hundred times slower."""


@contextmanager
def store_lock(runs: Path, seconds: float = STORE_SECONDS) -> Iterator[None]:
    """Be the only one who adds, replaces or removes folders of runs. Raises OSError, at the latest after `seconds`."""
    private_folder(runs)
    with locks.locked(runs / STORE_LOCK, seconds):
        yield


def start_run(place: Path, plan: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Start a worker on a plan, its folder at `place`; a former run there is removed. The caller holds the `store_lock`.

    Raises OSError where a step fails: then everything is as it was.
    """
    made = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=PART, dir=place.parent))
    worker = None
    try:
        _write(made / PLAN, plan)
        _write(made / INPUTS, inputs)
        lock = locks.open_lock(made / LOCK)
        try:
            locks.take(lock)
            worker = start_worker(place, made / LOG, lock)
        finally:
            os.close(lock)  # the worker holds it on
        _write(made / WORKER, claim(worker.pid) | {"submitted": time.time()})
        _put(made, place)
    except BaseException:
        if worker is not None:
            worker.kill()
            worker.wait()
        _take_back(made, place)
        raise
    with suppress(OSError):  # else it is swept later
        remove_folder(former_of(place))


def _write(file: Path, document: Mapping[str, Any]) -> None:
    """Write a file of a folder that nobody sees yet."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=1, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())


def start_worker(place: Path, log: Path, lock: int) -> subprocess.Popen[bytes]:
    """Start `python -m offcomp.execute PLACE` as a child in a session of its own, which holds the lock for as long as it lives.

    The worker ends with its parent (it compares OFFCOMP_PARENT with its parent's id), so nothing runs on unseen.
    """
    environment = PATIENT_THREADS | os.environ | {PARENT_VARIABLE: str(os.getpid()), LOCK_VARIABLE: str(lock)}
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "offcomp.execute", str(place)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment | {"HF_HUB_OFFLINE": "1"},
            pass_fds=(lock,),
            start_new_session=True,
        )
    finally:
        os.close(output)


def has_worker(folder: Path, worker: Mapping[str, Any]) -> bool:
    """Whether a worker of this host, which worker.json names, is at work in a run's folder. Raises OSError."""
    lock = folder / LOCK
    return locks.is_held(lock) or (not lock.exists() and is_alive(worker))


def former_of(place: Path) -> Path:
    """Where the folder of a run is while its successor takes its place."""
    return place.with_name(f".{place.name}{FORMER}")


def _put(made: Path, place: Path) -> None:
    """Give a folder its name; what had it is `former_of` afterwards."""
    former = former_of(place)
    if place.exists():
        place.rename(former)
    made.rename(place)


def _take_back(made: Path, place: Path) -> None:
    """Undo what was done of a start, whichever step was the last: the former run is in its place again."""
    if made.exists():
        _remove_made(made)
    else:
        with suppress(OSError):  # else the next sweep prefers the former run
            remove_folder(place)
    former = former_of(place)
    if former.exists() and not place.exists():
        former.rename(place)


def _remove_made(made: Path) -> None:
    """Remove a folder that never got its place; file by file, as a walk through it would need descriptors."""
    for name in (PLAN, INPUTS, WORKER, LOG, LOCK):
        with suppress(OSError):
            (made / name).unlink()
    with suppress(OSError):
        made.rmdir()


def remove_folder(folder: Path) -> None:
    """Remove the folder of a run: it loses its name at once, and then its files. Raises OSError where that cannot be."""
    if not folder.exists():
        return
    gone = Path(tempfile.mkdtemp(prefix=f".{folder.name.strip('.')}.", suffix=PART, dir=folder.parent))
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
