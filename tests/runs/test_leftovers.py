"""The leftovers of killed processes are swept, and nothing else is; only the owner may access the home."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from offcomp import files
from offcomp.errors import RunError
from offcomp.files import write_bytes, write_json
from offcomp.runs import start as run_start
from tests.runs.test_store import wait_until
from tests.trial_store import FORMER_WORDS, Trial, folder, pid_of, sleeping, store

__all__ = ["folder", "sleeping", "store"]  # fixtures


KILLED_AT = """
import os, sys
from pathlib import Path
from offcomp.runs import start as run_start
from offcomp.models.listing import model_info
from offcomp.planning.plan import Plan
from offcomp.runs.store import RunStore
home, step = Path(sys.argv[1]), sys.argv[2]
module, name = (run_start.Path, step.removeprefix("Path.")) if step.startswith("Path.") else (run_start, step)
real, calls = getattr(module, name), iter(range(100))
def die(*arguments, **options):
    if next(calls) == int(sys.argv[3]):
        os._exit(9)
    return real(*arguments, **options)
plan = Plan.from_json((home / "plan.json").read_text())
info = model_info(plan.model, home)
setattr(module, name, die)
RunStore(home).submit(plan, info, again=True)
"""


@pytest.mark.parametrize("former", [False, True], ids=["first", "again"])
@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("_write", 0),
        ("_write", 1),
        ("start_worker", 0),
        ("_write", 2),
        ("_move_into_place", 0),
        ("Path.rename", 1),
        ("remove_folder", 0),
    ],
)
def test_a_submitter_killed_between_two_steps_blocks_nobody_and_loses_nothing(
    store: Trial, sleeping: None, former: bool, step: str, call: int
) -> None:
    write_json(store.home / "plan.json", store.plan.to_dict())
    if former:
        store.interrupted()
    command = [sys.executable, "-c", KILLED_AT, str(store.home), step, str(call)]
    subprocess.run(command, check=False, timeout=120, capture_output=True)
    store.sweep()
    assert not [name for name in store.entries if name.startswith(".")]
    if former and step != "remove_folder":
        assert (store.all()[0].folder / "log.txt").read_text() == FORMER_WORDS
    for run in store.all():
        wait_until(store, run.id, lambda r: r.ended, seconds=20)
    assert store.start().status == "queued"


def test_leftovers_are_swept_and_nothing_else(store: Trial, sleeping: None) -> None:
    live = store.start()
    left = [
        live.folder.with_name(".0123456789ab.lock"),
        live.folder.with_name(".0123456789ab.abcdefgh.part") / "plan.json",
        store.home / "spectra" / "x" / ".y.npy.77.part",
        store.home / "evaluations" / ".y.npz.abcdefgh.part",
        store.folder / "0123456789d2" / "groups" / ".key.safetensors.abcdefgh.part",
    ]
    kept = [
        live.folder / ".groups.abcdefgh.part",
        store.home / "spectra" / "x" / "y.npy",
        store.home / ".download.part",
        store.folder / "notes" / "mine.txt",
        store.folder / "0123456789cd" / "groups" / "key.safetensors",
        store.folder / "0123456789ce" / ".x.abcdefgh.part",
        store.folder / "0123456789cf" / "placeholder",
    ]
    for file in (*left, *kept):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    foreign = {"host": "other-machine", "pid": 7, "started": 1.0, "submitted": 1.0}
    write_json(store.folder / "0123456789ce" / "worker.json", foreign)
    new, old = store.folder / "0123456789d0", store.folder / "0123456789d1"
    new.mkdir()
    old.mkdir()
    os.utime(old, (1.0, 1.0))
    store.sweep()
    assert not [file for file in left if file.exists()] and not (left[1].parent).exists() and not old.exists()
    assert all(file.exists() for file in kept) and new.exists()
    os.kill(pid_of(live.folder), signal.SIGKILL)
    wait_until(store, live.id, lambda r: r.ended)
    store.sweep()
    assert not kept[0].exists()


def test_the_next_start_of_a_run_sweeps(store: Trial, sleeping: None) -> None:
    left = store.folder / ".0123456789ab.abcdefgh.part" / "plan.json"
    left.parent.mkdir(parents=True)
    left.touch()
    store.start()
    assert not left.parent.exists()


@pytest.mark.parametrize(
    "name", ["..former", ".former", ".mine.former", ".0123456789ab.c.former", ".mine.part", ".mine.abcdefgh.part", ".mine"]
)
def test_folders_that_offcomp_did_not_make_are_not_touched(store: Trial, name: str) -> None:
    file = store.folder / name / ".x.abcdefgh.part"
    file.parent.mkdir(parents=True)
    file.touch()
    store.sweep()
    assert file.exists()


def test_a_file_that_is_being_written_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked temporary file is not removed; one that is removed before it is locked is made again."""
    real = os.fsync
    tries = []

    def sweep_then_sync(file: int) -> None:
        for part in tmp_path.glob(".*.part"):
            tries.append(part)
            files.remove_left_over(part)
        real(file)

    monkeypatch.setattr(files.os, "fsync", sweep_then_sync)
    write_bytes(tmp_path / "x", b"content")
    assert tries and (tmp_path / "x").read_bytes() == b"content"
    made = files.tempfile.mkstemp

    def made_and_swept(**options: Any) -> tuple[int, str]:
        file, name = made(**options)
        if len(tries) < 3:
            tries.append(Path(name))
            Path(name).unlink()
        return file, name

    monkeypatch.setattr(files.tempfile, "mkstemp", made_and_swept)
    write_bytes(tmp_path / "y", b"content")
    assert (tmp_path / "y").read_bytes() == b"content"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x", "y"]


def test_a_deleted_run_is_gone_at_once_however_long_its_files_take(
    store: Trial, sleeping: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.start()
    with pytest.raises(RunError, match="cancel it before"):
        store.delete(run.id)
    os.kill(pid_of(run.folder), signal.SIGKILL)
    wait_until(store, run.id, lambda r: r.ended)
    with monkeypatch.context() as patch:
        patch.setattr(run_start.shutil, "rmtree", lambda *_, **__: None)  # as if killed before the files were deleted
        store.delete(run.id)
    assert store.listing() == ([], [])
    store.sweep()
    assert store.entries == set()


# ----------------------------------------------------------------------------------------------------------------- rights


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_only_the_owner_may_enter_the_home(store: Trial) -> None:
    shutil.rmtree(store.home)
    old = os.umask(0o022)
    try:
        store = Trial(store.home, Path(store.plan.model))
        run = wait_until(store, store.start().id, lambda r: r.ended)
    finally:
        os.umask(old)
    assert run.status == "done", run.error
    everything = [store.home, *store.home.rglob("*")]
    wrong = {str(path): oct(mode(path)) for path in everything if mode(path) != (0o700 if path.is_dir() else 0o600)}
    assert not wrong
    assert {"groups", "run.json", "log.txt", "worker.lock"} <= {path.name for path in everything}


def test_a_home_that_others_can_enter_is_narrowed_at_the_next_start(store: Trial) -> None:
    store.home.chmod(0o755)
    store.sweep()
    assert mode(store.home) == 0o700


@pytest.mark.parametrize("case", ["sticky, as /tmp", "a group's", "with other things"])
def test_of_a_home_that_is_not_its_owners_alone_only_its_own_folders_are_narrowed(store: Trial, case: str) -> None:
    store.folder.mkdir(parents=True)
    others = store.home / "papers"
    if case == "with other things":
        others.mkdir(mode=0o755)
    bits = {"sticky, as /tmp": 0o1777, "a group's": 0o2775}.get(case, 0o755)
    store.folder.chmod(0o755)
    store.home.chmod(bits)
    store.sweep()
    assert (store.home.stat().st_mode & 0o7777, mode(store.folder)) == (bits, 0o700)
    assert not others.exists() or mode(others) == 0o755


def test_a_home_whose_rights_cannot_be_changed_is_swept(store: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    left = store.folder / ".0123456789ab.abcdefgh.part"
    left.mkdir(parents=True)
    store.home.chmod(0o755)

    def chmod(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "chmod", chmod)
    store.sweep()
    assert not left.exists()
