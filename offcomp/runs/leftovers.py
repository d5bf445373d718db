"""Clean up what killed processes left in the home folder, removing only unused files of offcomp. Does not import torch.

.NAME.XXXXXXXX.part     a file or a run's folder that was being written; a file stays locked while it is written
runs/.ID.former         a run that was about to be replaced by a new run
runs/.ID.lock           the lock that earlier versions held while starting a run
runs/ID                 if it contains no plan: a run that an earlier version was about to start
"""

from __future__ import annotations

import re
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

from offcomp.errors import StorageError
from offcomp.files import read_json, remove_left_over
from offcomp.planning.json_checks import Malformed
from offcomp.runs.claims import Claim, foreign_host
from offcomp.runs.documents import RESULT, WORKER
from offcomp.runs.start import LOCK, has_worker, remove_folder

FOLDERS = ("digests", "evaluations", "groups", "models", "sensitivities", "spectra", "uploads", "views")
"""Subfolders of the home folder, other than `runs`."""
UNFINISHED = re.compile(r"\..+\.part")
RUN_ID = re.compile(r"[0-9a-f]{12}")
FORMER_RUN = re.compile(rf"\.({RUN_ID.pattern})\.former")
UNFINISHED_RUN = re.compile(rf"\.{RUN_ID.pattern}(\.former)?\.[a-z0-9_]{{8}}\.part")
FORMER_LOCK = re.compile(rf"\.{RUN_ID.pattern}\.lock")
EMPTY_SECONDS = 60.0
"""Age at which an empty run folder is removed. Earlier versions create the folder shortly before writing the plan."""


def sweep(home: Path) -> None:
    """Remove leftovers from a home folder, and restore runs that were moved aside. The caller must hold the `store_lock`.

    Leftovers that cannot be removed stay in place; they are harmless.
    """
    with suppress(OSError):
        _restrict_access(home)
    with suppress(OSError, StorageError):
        for entry in list((home / "runs").iterdir()):
            with suppress(OSError, StorageError):
                _sweep_entry(entry)
    for name in FOLDERS:
        for part in (home / name).rglob(".*.part"):
            remove_left_over(part)


def _restrict_access(home: Path) -> None:
    """Make the home folder private to its owner; if it is shared or contains other files, make only our subfolders private."""
    own = [home / name for name in ("runs", *FOLDERS)]
    others = [entry for entry in home.iterdir() if entry not in own and not entry.name.startswith(".")]
    shared = home.stat().st_mode & (stat.S_ISVTX | stat.S_ISGID) or home.resolve() == Path.home().resolve()
    for folder in own if others or shared else [home]:
        with suppress(OSError):  # missing, or owned by another user
            mode = stat.S_IMODE(folder.stat().st_mode)
            if mode & 0o077:
                folder.chmod(mode & ~0o077)


def _sweep_entry(entry: Path) -> None:
    """Remove or restore an entry of the runs folder if it is a leftover."""
    name = entry.name
    if former := FORMER_RUN.fullmatch(name):
        _sweep_former(entry, entry.with_name(former[1]))
    elif UNFINISHED_RUN.fullmatch(name) and entry.is_dir():
        shutil.rmtree(entry)
    elif FORMER_LOCK.fullmatch(name) or (UNFINISHED.fullmatch(name) and entry.is_file()):
        remove_left_over(entry)
    elif entry.is_dir() and not name.startswith("."):
        _sweep_run(entry)


def _sweep_former(former: Path, folder: Path) -> None:
    """Remove a replaced run, or restore it if it has a result and its replacement ended without one."""
    if (former / RESULT).exists() and not (folder / RESULT).exists() and not is_in_use(folder):
        remove_folder(folder)
    if folder.exists():
        shutil.rmtree(former)
    else:
        former.rename(folder)


def _sweep_run(folder: Path) -> None:
    names = {entry.name for entry in folder.iterdir()}
    unfinished = [*folder.glob(".*.part"), *(folder / "groups").glob(".*.part")]
    never_planned = RUN_ID.fullmatch(folder.name) and not names - {LOCK, *(part.name for part in unfinished)}
    if not (unfinished or never_planned) or is_in_use(folder):
        return
    for part in unfinished:
        remove_left_over(part)
    if never_planned and time.time() - folder.stat().st_mtime > EMPTY_SECONDS:
        shutil.rmtree(folder)


def is_in_use(folder: Path) -> bool:
    """Whether a run's folder may be in use, by a live worker on this host or by another host. Raises OSError."""
    try:
        claimed = Claim.from_json(read_json(folder / WORKER) or {})
    except Malformed:
        return True
    return has_worker(folder, claimed) or bool(foreign_host(claimed))
