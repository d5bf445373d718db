"""The lock that a worker holds on the folder of its run until it exits."""

from __future__ import annotations

import os
import time
from pathlib import Path

from offcomp import files
from offcomp.errors import RunError
from offcomp.runs.start import LOCK
from offcomp.runs.worker_environment import LOCK_VARIABLE, parent_is_gone

PLACE_SECONDS = 0.01
TAKE_SECONDS = 2.0


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
    wait_for_folder(folder, lock)
    return lock


def wait_for_folder(folder: Path, lock: int) -> None:
    """Wait until a run's folder has its final name. Exits the process if the parent exits or the start is undone."""
    while not is_in_place(folder, lock):
        if parent_is_gone() or not os.fstat(lock).st_nlink:
            os._exit(1)
        time.sleep(PLACE_SECONDS)


def is_in_place(folder: Path, lock: int) -> bool:
    """Whether the folder contains this lock; False if the folder has been removed or replaced by another run."""
    try:
        return os.path.samestat((folder / LOCK).stat(), os.fstat(lock))
    except OSError:
        return False
