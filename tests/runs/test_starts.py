"""Starts that fail at any step, workers recognised by their locks, and folders removed during a run."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from offcomp import files
from offcomp.errors import InputError, OffcompError, RunError, StorageError
from offcomp.files import read_json, write_bytes, write_json
from offcomp.runs import start as run_start
from offcomp.runs.start import start_run
from offcomp.runs.store import BadFolder
from tests.runs.test_store import endless_plan, is_training, wait_until
from tests.trial_store import FORMER_WORDS, Trial, folder, pid_of, sleeping, store, workers

__all__ = ["folder", "sleeping", "store"]  # fixtures


# ---------------------------------------------------------------------------------------------------------- failed starts


def failing(error: int, *, after: int = 0) -> Callable[..., Any]:
    """Return a decorator. Among all calls of the functions that it decorates, call `after` (from 0) raises the OSError."""
    calls = iter(range(1_000_000))

    def fail(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == after:
                raise OSError(error, os.strerror(error))
            return real(*arguments, **options)

        return call

    return fail


STEPS: dict[str, tuple[Any, str, int]] = {
    "plan.json": (run_start, "_write", 0),
    "inputs.json": (run_start, "_write", 1),
    "worker.json": (run_start, "_write", 2),
    "the worker": (run_start, "start_worker", 0),
    "the last name": (run_start, "_move_into_place", 0),
}


@pytest.mark.parametrize("former", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("step", STEPS)
def test_a_start_that_fails_at_any_step_leaves_everything_as_it_was(
    store: Trial, sleeping: None, monkeypatch: pytest.MonkeyPatch, former: bool, step: str
) -> None:
    where, what, call = STEPS[step]
    if former:
        store.interrupted()
    before = store.entries
    with monkeypatch.context() as patch:
        patch.setattr(where, what, failing(errno.ENOSPC, after=call)(getattr(where, what)))
        with pytest.raises(StorageError, match=r"cannot start a run in .*runs: No space left on device; free some") as caught:
            store.start()
    assert ".part" not in str(caught.value)
    assert store.entries == before
    if former:
        (kept,) = store.all()
        assert (kept.status, (kept.folder / "log.txt").read_text()) == ("interrupted", FORMER_WORDS)
    assert not workers(store)
    assert store.start().status == "queued"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errno.EAGAIN, "Resource temporarily unavailable; close other programs, or raise the limit on processes"),
        (errno.ENOMEM, "Cannot allocate memory; close other programs"),
        (errno.EMFILE, "Too many open files; close other programs, or raise the limit on open files"),
    ],
)
def test_a_worker_that_cannot_be_started_leaves_no_run(
    store: Trial, monkeypatch: pytest.MonkeyPatch, error: int, words: str
) -> None:
    def popen(*_: Any, **__: Any) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(run_start.subprocess, "Popen", popen)
        with pytest.raises(StorageError, match=words) as caught:
            store.start()
    assert "space" not in str(caught.value)
    assert store.entries == set() and store.all() == []


LIMITED = """
import os, resource, sys
from pathlib import Path
from offcomp.errors import OffcompError
from offcomp.models.listing import model_info
from offcomp.planning.plan import Plan
from offcomp.runs.store import RunStore
home = Path(sys.argv[1])
plan = Plan.from_json((home / "plan.json").read_text())
info = model_info(plan.model, home)
store = RunStore(home)
store.sweep()
for free in range(10):
    used = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used[0] + 1 + free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.close(used[0])
    try:
        store.submit(plan, info)
    except OffcompError as error:
        print(free, error)
    else:
        print(free, "started")
        break
"""


def test_a_start_without_descriptors_leaves_nothing_and_says_so(store: Trial) -> None:
    """Starts are tried with one more free descriptor each time until one succeeds."""
    write_json(store.home / "plan.json", store.plan.to_dict())
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(store.home)], capture_output=True, text=True, check=False, timeout=120
    )
    assert "Traceback" not in done.stderr, done.stderr
    *refused, started = done.stdout.strip().splitlines()
    assert len(refused) >= 3 and started.endswith("started")
    assert all("Too many open files; close other programs" in line and "space" not in line for line in refused), refused
    assert len([name for name in store.entries if not name.startswith(".")]) == 1
    assert not [name for name in store.entries if name.endswith(".part")]


def test_a_result_is_kept_where_running_again_cannot_start(store: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    run = wait_until(store, store.start().id, lambda r: r.ended)
    with monkeypatch.context() as patch:
        patch.setattr(run_start, "start_worker", failing(errno.EAGAIN)(run_start.start_worker))
        with pytest.raises(StorageError, match="close other programs"):
            store.start(again=True)
    assert store.get(run.id) == run and (run.folder / "groups" / "key.safetensors").is_file()


@pytest.mark.parametrize("step", ["Path.rename 0", "Path.rename 1", "_move_into_place 0", "killed"])
def test_a_start_that_is_broken_off_after_any_step_loses_no_result(
    store: Trial, sleeping: None, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The start is interrupted right after the step; in the case 'killed', it also has no chance to undo its changes."""
    run = store.interrupted()
    (run.folder / "run.json").write_text("a result")
    where, what, number = (run_start, "_move_into_place", "0") if step == "killed" else (run_start, *step.split())
    where, what = (Path, "rename") if what == "Path.rename" else (where, what)
    real, calls = getattr(where, what), iter(range(100))

    def broken_off(*arguments: Any) -> Any:
        done = real(*arguments)
        if next(calls) == int(number):
            raise KeyboardInterrupt
        return done

    with monkeypatch.context() as patch:
        patch.setattr(where, what, broken_off)
        if step == "killed":
            patch.setattr(run_start, "_undo_start", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            start_run(run.folder, store.plan, {})
    if step == "killed":
        assert not (run.folder / "run.json").exists()
        store.sweep()
    assert store.entries == {run.id} and not workers(store)
    assert (run.folder / "run.json").read_text() == "a result"


def test_a_file_system_without_locks_is_told(store: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with pytest.raises(StorageError, match="No locks available; set OFFCOMP_HOME to a folder on a local disk"):
        store.start()
    assert store.entries == set()


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EMFILE, "Too many open files; close other programs, or raise the limit on open files"),
        (errno.EACCES, "Permission denied; set OFFCOMP_HOME to a folder you can write to"),
        (errno.EROFS, "Read-only file system; set OFFCOMP_HOME to a folder you can write to"),
        (errno.EIO, "Input/output error$"),
        (errno.ENOENT, "No such file or directory$"),
        (errno.ENOTEMPTY, "Directory not empty$"),
    ],
)
def test_what_helps_fits_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, remedy: str) -> None:
    monkeypatch.setattr(files.os, "fsync", failing(error)(os.fsync))
    with pytest.raises(StorageError, match=f"cannot write to {tmp_path}: {remedy}") as caught:
        write_bytes(tmp_path / "x", b"content")
    assert ".part" not in str(caught.value) and list(tmp_path.iterdir()) == []
    monkeypatch.setattr(files.os, "fsync", failing(error)(os.fsync))
    with pytest.raises(InputError, match="cannot write to out: ") as refused, files.new_folder(Path("out")):
        raise OSError(error, os.strerror(error))
    assert ".part" not in str(refused.value) and ("space" in str(refused.value)) == (error != errno.EMFILE)


def test_too_little_space_is_told_with_two_figures_that_differ(store: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20_000_000))
    with pytest.raises(StorageError, match="20 MB free but the run needs 21 MB; free some space"):
        store.start()
    assert store.entries == set()


# ---------------------------------------------------------------------------------------------------------------- workers


def test_a_live_worker_is_alive_whatever_the_clock_says(store: Trial, sleeping: None) -> None:
    run = store.start()
    worker = read_json(run.folder / "worker.json")
    write_json(run.folder / "worker.json", worker | {"started": worker["started"] + 3})
    assert store.get(run.id).status == "queued"
    assert store.start().folder == store.start(again=True).folder == run.folder
    assert psutil.pid_exists(worker["pid"]) and pid_of(run.folder) == worker["pid"], "no second worker was started"
    os.kill(worker["pid"], signal.SIGSTOP)
    assert store.get(run.id).status == "queued", "a stopped process may go on"
    os.kill(worker["pid"], signal.SIGKILL)
    assert wait_until(store, run.id, lambda r: r.ended).status == "interrupted"


def test_a_second_worker_does_not_work_in_the_same_folder(store: Trial, sleeping: None) -> None:
    run = store.start()
    before = {file.name: file.read_bytes() for file in run.folder.iterdir()}
    command = [sys.executable, "-m", "offcomp.runs.worker", str(run.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "another worker is running" in done.stderr and "Traceback" not in done.stderr
    assert {file.name: file.read_bytes() for file in run.folder.iterdir()} == before


def test_readers_never_keep_a_run_from_starting(store: Trial, sleeping: None) -> None:
    stop = threading.Event()
    readers = [threading.Thread(target=lambda: [store.all() for _ in iter(stop.is_set, True)]) for _ in range(10)]
    for reader in readers:
        reader.start()
    try:
        for seed in range(5):
            run = store.submit(store.plan.replace(seed=seed), store.info)
            assert run.status == "queued"
    finally:
        stop.set()
        for reader in readers:
            reader.join()


@pytest.mark.parametrize("left", [("plan.json",), ("plan.json", "worker.json"), ("plan.json", "worker.json", "worker.lock")])
def test_a_run_that_no_worker_has_is_over_and_can_be_run(store: Trial, sleeping: None, left: tuple[str, ...]) -> None:
    """The files are those of a killed submitter, or of a start that failed in an earlier version; the pid may be the app's."""
    run = store.start()
    os.kill(pid_of(run.folder), signal.SIGKILL)
    wait_until(store, run.id, lambda r: r.ended)
    for file in run.folder.iterdir():
        if file.name not in left:
            file.unlink()
    if "worker.json" in left:
        write_json(run.folder / "worker.json", {"pid": os.getpid(), "started": time.time(), "submitted": time.time()})
    found = store.get(run.id)
    assert (found.status, found.error) == ("interrupted", "the worker exited without a result or output; run the plan again")
    store.cancel(run.id)
    assert store.start().status == "queued"


def test_a_worker_of_an_earlier_version_which_has_no_lock_keeps_its_run(store: Trial, sleeping: None) -> None:
    run = store.start()
    (run.folder / "worker.lock").unlink()
    worker = read_json(run.folder / "worker.json")
    (run.folder / ".x.abcdefgh.part").touch()
    store.sweep()
    assert store.start(again=True).status == "queued" and (run.folder / ".x.abcdefgh.part").exists()
    assert pid_of(run.folder) == worker["pid"], "no second worker was started"
    for other in ({"started": worker["started"] + 3}, {"boot": "another"}, {"boot": ""}, {"pid": 999_999_999}, {"pid": 2**53}):
        write_json(run.folder / "worker.json", worker | other)
        assert store.get(run.id).status == "interrupted", other
    write_json(run.folder / "worker.json", worker)
    assert store.get(run.id).status == "queued"
    os.kill(worker["pid"], signal.SIGKILL)
    assert wait_until(store, run.id, lambda r: r.ended).status == "interrupted"


def test_a_worker_whose_folder_is_removed_stops_and_makes_none_anew(folder: Path, store: Trial) -> None:
    run = wait_until(store, store.submit(endless_plan(folder), store.info).id, is_training)
    process = psutil.Process(pid_of(run.folder))
    shutil.rmtree(run.folder)
    process.wait(10)
    assert not run.folder.exists()


def test_writing_into_a_removed_folder_does_not_bring_it_back(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot write to .*gone: No such file or directory"):
        write_json(tmp_path / "gone" / "x.json", {}, make_folder=False)
    assert not (tmp_path / "gone").exists()


def test_what_a_worker_says_of_a_full_disk_reaches_the_person(
    store: Trial, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The disk is full by the time the group is saved; the only free space is the reserve that the worker releases."""
    monkeypatch.setenv("OFFCOMP_RESIDENT", "0")
    script = tmp_path / "full.py"
    script.write_text(
        "import errno, os, sys\n"
        "from pathlib import Path\n"
        "from offcomp import files\n"
        "from offcomp.runs import worker, worker_process\n"
        "real = os.fsync\n"
        "def full(file):\n"
        "    name = os.readlink(f'/proc/self/fd/{file}')\n"
        "    place = Path(name).parents[1] if 'groups' in name else Path(name).parent\n"
        "    reserve = place / worker_process.RESERVE\n"
        "    if reserve.exists() and 'progress' not in name:\n"
        "        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "    return real(file)\n"
        "files.os.fsync = full\n"
        "worker.main(sys.argv[1:])\n"
    )
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return real([sys.executable, str(script), command[-1]] if "offcomp.runs.worker" in command else command, **options)

    monkeypatch.setattr(run_start.subprocess, "Popen", popen)
    run = wait_until(store, store.start().id, lambda r: r.ended)
    assert run.status == "failed"
    assert "No space left on device; free some space" in run.error and ".part" not in run.error
    assert not list(run.folder.rglob(".*.part"))


# ---------------------------------------------------------------------------------------------------------------- reading


def test_a_list_that_cannot_be_read_for_want_of_descriptors_is_not_empty(store: Trial, sleeping: None) -> None:
    store.start()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    file = os.open(os.devnull, os.O_RDONLY)
    os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, (file, limit[1]))
    try:
        with pytest.raises(OffcompError, match="Too many open files; close other programs"):
            store.all()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert len(store.all()) == 1


def test_a_folder_that_cannot_be_read_never_loses_its_live_worker(store: Trial, sleeping: None) -> None:
    run = store.start()
    (run.folder / "worker.json").write_text(json.dumps([[]]))
    runs, (bad,) = store.listing()
    assert runs == [] and isinstance(bad, BadFolder) and bad.reason == "worker.json: it is [[]]; it must be a JSON object"
    with pytest.raises(RunError, match=f"run {run.id} is in progress but cannot be read"):
        store.start()
    assert run.folder.is_dir()
