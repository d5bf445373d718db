"""What killed processes leave in the home folder, and its removal: only what offcomp made, and nobody works on. No torch.

.NAME.XXXXXXXX.part     a file or a folder of a run that was being written; a file's writer holds its lock
runs/.ID.former         a run whose successor was about to take its place
runs/.ID.lock           what earlier versions locked while they started a run
runs/ID                 without a plan: an earlier version was about to start a run
"""

from __future__ import annotations

import re
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

from offcomp.claims import foreign_host
from offcomp.errors import StorageError
from offcomp.files import read_json, remove_left_over
from offcomp.run_documents import RESULT, WORKER
from offcomp.run_start import LOCK, has_worker, remove_folder

FOLDERS = ("digests", "evaluations", "groups", "models", "spectra", "uploads", "views")
"""The folders of the home beside that of the runs."""
UNFINISHED = re.compile(r"\..+\.part")
RUN_ID = re.compile(r"[0-9a-f]{12}")
FORMER_RUN = re.compile(rf"\.({RUN_ID.pattern})\.former")
UNFINISHED_RUN = re.compile(rf"\.{RUN_ID.pattern}(\.former)?\.[a-z0-9_]{{8}}\.part")
FORMER_LOCK = re.compile(rf"\.{RUN_ID.pattern}\.lock")
EMPTY_SECONDS = 60.0
"""An earlier version makes the folder of a run a moment before the plan in it."""


def sweep(home: Path) -> None:
    """Remove what is left over in a home folder, and restore a run that lost its place. The caller holds the `store_lock`.

    What cannot be removed stays; it is in nobody's way.
    """
    with suppress(OSError):
        _narrow(home)
    with suppress(OSError, StorageError):
        for entry in list((home / "runs").iterdir()):
            with suppress(OSError, StorageError):
                _sweep_entry(entry)
    for name in FOLDERS:
        for part in (home / name).rglob(".*.part"):
            remove_left_over(part)


def _narrow(home: Path) -> None:
    """Let nobody but its owner enter the home; of one that holds other things too, or is a group's, only the own folders."""
    own = [home / name for name in ("runs", *FOLDERS)]
    others = [entry for entry in home.iterdir() if entry not in own and not entry.name.startswith(".")]
    shared = home.stat().st_mode & (stat.S_ISVTX | stat.S_ISGID) or home.resolve() == Path.home().resolve()
    for folder in own if others or shared else [home]:
        with suppress(OSError):  # it is missing, or another person's
            mode = stat.S_IMODE(folder.stat().st_mode)
            if mode & 0o077:
                folder.chmod(mode & ~0o077)


def _sweep_entry(entry: Path) -> None:
    """Look at one file or folder beside or among the runs."""
    name = entry.name
    if former := FORMER_RUN.fullmatch(name):
        _sweep_former(entry, entry.with_name(former[1]))
    elif UNFINISHED_RUN.fullmatch(name) and entry.is_dir():
        shutil.rmtree(entry)
    elif FORMER_LOCK.fullmatch(name) or (UNFINISHED.fullmatch(name) and entry.is_file()):
        remove_left_over(entry)
    elif entry.is_dir() and not name.startswith("."):
        _sweep_run(entry)


def _sweep_former(former: Path, place: Path) -> None:
    """Remove a former run whose successor is in its place; but a result gives way to nothing that came to nothing."""
    if (former / RESULT).exists() and not (place / RESULT).exists() and not is_at_work(place):
        remove_folder(place)
    if place.exists():
        shutil.rmtree(former)
    else:
        former.rename(place)


def _sweep_run(folder: Path) -> None:
    names = {entry.name for entry in folder.iterdir()}
    unfinished = [part for place in (folder, folder / "groups") for part in place.glob(".*.part")]
    never_planned = RUN_ID.fullmatch(folder.name) and not names - {LOCK, *(part.name for part in unfinished)}
    if not (unfinished or never_planned) or is_at_work(folder):
        return
    for part in unfinished:
        remove_left_over(part)
    if never_planned and time.time() - folder.stat().st_mtime > EMPTY_SECONDS:
        shutil.rmtree(folder)


def is_at_work(folder: Path) -> bool:
    """Whether somebody may work in a run's folder: a worker of this host does, or another host claims it. Raises OSError."""
    worker = read_json(folder / WORKER)
    claimed = worker if isinstance(worker, dict) else {}
    return has_worker(folder, claimed) or bool(foreign_host(claimed))
