"""Locks that end with the process that holds them, however it ends: `flock` of the operating system.

A lock belongs to an open file. A child that is handed the open file holds the lock on, and the system lets go of it when the
last process that has the file open is gone. No clock and no process id is asked. Python opens files so that other children do
not get them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_SECONDS = 0.02


def open_lock(path: Path) -> int:
    """The descriptor of a lock's file, which is made where it is missing; nothing is locked yet. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def take(file: int, seconds: float = 0.0) -> bool:
    """Lock an open file for this process alone; False where another one holds it for longer than `seconds`.

    Raises OSError where the file system has no locks.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(WAIT_SECONDS)
        else:
            return True


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file; False where there is no such file. Raises OSError.

    Any number may look at once. Looking shares the lock for an instant: who takes one that others know of waits a little.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of a file. Raises TimeoutError where another process keeps it for longer, and OSError."""
    file = open_lock(path)
    try:
        if not take(file, seconds):
            raise TimeoutError(errno.ETIMEDOUT, f"another process has kept its lock for {seconds:g} s")
        yield
    finally:
        os.close(file)
