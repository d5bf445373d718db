"""A lock is held until its process ends, can be passed on to a child process, and can be read by any number of readers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from offcomp import files

HOLD = (
    "import sys, time; from offcomp import files; "
    "file = files.open_lock(sys.argv[1]); files.take_lock(file); print(flush=True); time.sleep(600)"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A separate process that holds the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def until_free(path: Path, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while held := files.is_locked(path):
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return not held


def test_a_killed_process_lets_go_and_a_stopped_one_does_not(path: Path, holder: subprocess.Popen[str]) -> None:
    assert files.is_locked(path)
    holder.send_signal(signal.SIGSTOP)
    assert files.is_locked(path)
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it has exited, but is a zombie until it is reaped
    assert until_free(path)


def test_a_child_that_is_handed_the_file_holds_the_lock_on(path: Path) -> None:
    file = files.open_lock(path)
    assert files.take_lock(file)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=(file,)) as child:
        os.close(file)
        assert files.is_locked(path)
        child.kill()
    assert until_free(path)


def test_other_children_do_not_hold_it(path: Path) -> None:
    file = files.open_lock(path)
    files.take_lock(file)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        os.close(file)
        assert not files.is_locked(path)
        child.kill()


def test_looking_makes_no_file_and_no_lock(path: Path) -> None:
    assert not files.is_locked(path)
    assert not files.is_locked(path / "beneath nothing")
    assert not path.exists()


def test_ten_readers_keep_nobody_from_taking_a_lock(path: Path) -> None:
    files.open_lock(path)
    stop = threading.Event()
    readers = [threading.Thread(target=lambda: [files.is_locked(path) for _ in iter(stop.is_set, True)]) for _ in range(10)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(20):
            file = files.open_lock(path)
            assert files.take_lock(file, 5.0)
            os.close(file)
    finally:
        stop.set()
        for reader in readers:
            reader.join()


def test_a_lock_that_another_keeps_is_an_error_after_a_while(path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(TimeoutError, match=r"another process has held the lock for 0\.1 s"), files.locked(path, 0.1):
        raise AssertionError
    assert holder.poll() is None
