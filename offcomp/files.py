"""Atomic writes and file locks for data shared between processes, and the standard folder locations.

The home folder is accessible only to its owner. A lock (`flock`) is released when the process that holds it ends, even if it
crashes. The lock belongs to the open file: a child process that inherits the file shares the lock, which is released when the
last of these processes closes the file or exits. Locks do not rely on clocks or process ids. By default, child processes do not
inherit files that Python has opened.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from offcomp.errors import InputError, StorageError

PACKAGE = Path(__file__).resolve().parent
LOCK_WAIT_SECONDS = 0.02


def app_folder() -> Path:
    """The folder that contains app.py, pages, .streamlit and assets: the root of a clone, or `offcomp/app` in the wheel."""
    installed = PACKAGE / "app"
    return installed if (installed / "app.py").is_file() else PACKAGE.parent


def assets_folder() -> Path:
    """The folder that contains the bundled models, runs, spectra, surveys and tasks."""
    return app_folder() / "assets"


def home_folder() -> Path:
    """The user data folder: OFFCOMP_HOME if it is set, otherwise `offcomp` in XDG_DATA_HOME or ~/.local/share."""
    if home := os.environ.get("OFFCOMP_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "offcomp"


def path_of(text: str) -> Path:
    """Convert user input to a path, whether or not it exists. Raises InputError if the input is not a usable path."""
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path  # callers that need an existing path check for themselves
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown user's home, or a NUL character
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"{text[:100]!r} is not a usable path ({reason}); specify the path of a file or folder") from None
    return path


SHORTAGES = (errno.EMFILE, errno.ENFILE)
"""Error numbers which mean that file descriptors have run out, not that something is wrong with the file."""
REMEDIES = {
    **dict.fromkeys(SHORTAGES, "close other programs, or raise the limit on open files (ulimit -n)"),
    **dict.fromkeys((errno.EAGAIN, errno.ENOMEM), "close other programs, or raise the limit on processes (ulimit -u)"),
    errno.EFBIG: "raise the limit on file size (ulimit -f)",
    errno.ETIMEDOUT: "try again, or end the other process",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or set OFFCOMP_HOME to a folder on another disk"),
    **dict.fromkeys((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS), "set OFFCOMP_HOME to a folder on a local disk"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
        "set OFFCOMP_HOME to a folder you can write to",
    ),
}
"""OS error number -> remedy for file errors in the home folder; other errors have no known remedy."""


def storage_error(folder: Path, error: OSError, doing: str = "write to") -> StorageError:
    """The error for a failed operation on a folder inside the home folder, with a remedy if one is known."""
    remedy = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
    return StorageError(f"cannot {doing} {folder}: {error.strerror or error}{remedy}")


@contextmanager
def storage_errors(folder: Path, doing: str) -> Iterator[None]:
    """Convert any OSError in the block to a StorageError; see `storage_error`."""
    try:
        yield
    except OSError as error:
        raise storage_error(folder, error, doing) from None


def private_folder(folder: Path) -> None:
    """Create a folder and any missing parents, accessible only to the owner. Raises OSError."""
    if not folder.is_dir():
        if folder.parent != folder:
            private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def write_bytes(path: Path, content: bytes, *, make_folder: bool = True) -> None:
    """Write an owner-only file atomically: readers see either the old or the new file, never a partial one.

    Raises StorageError if the file cannot be written.

    make_folder     whether to create the folder if it is missing; if False, a folder removed in the meantime is not recreated
    """
    with storage_errors(path.parent, "write to"):
        if make_folder:
            private_folder(path.parent)
        file, part = _new_part(path)
        try:
            with os.fdopen(file, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(file)
                part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


PATIENCE_SECONDS = 5.0
PART = ".part"
"""Suffix of unfinished files and folders, whose names also begin with a dot."""


def _new_part(path: Path) -> tuple[int, Path]:
    """Open and lock a new temporary file next to `path`; any unlocked temporary file is a leftover (see `remove_left_over`)."""
    while True:
        file, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        with suppress(OSError):  # the file system does not support locks; leftovers are not removed there either
            take_lock(file, PATIENCE_SECONDS)
        if os.fstat(file).st_nlink:
            return file, Path(name)
        os.close(file)  # another process removed it before it was locked


def remove_left_over(part: Path) -> None:
    """Remove an unfinished file, unless a process is still writing it."""
    with suppress(OSError), closing(os.open(part, os.O_RDONLY)) as file:
        if take_lock(file):
            part.unlink()


def write_json(path: Path, document: Any, *, make_folder: bool = True) -> None:
    """Write a JSON document atomically; see `write_bytes`. Raises ValueError for NaN."""
    write_bytes(path, json.dumps(document, indent=1, allow_nan=False).encode(), make_folder=make_folder)


def changed(file: Path) -> tuple[int, int] | None:
    """The modification time and size of a file; None if it does not exist."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def read_json(path: Path) -> Any:
    """Read a JSON file; return None if it is missing or invalid. Raises StorageError if no file descriptors are left."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        check_shortage(path.parent, error)
        return None
    except (ValueError, RecursionError):
        return None


def check_shortage(folder: Path, error: OSError) -> None:
    """Raise StorageError if the process has run out of file descriptors, which does not mean that the file is missing."""
    if error.errno in SHORTAGES:
        raise storage_error(folder, error, "read") from None


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Create a folder atomically: it has a temporary name until the block succeeds, and is removed if an error occurs.

    The unfinished folder is locked, and those that killed processes have left behind are removed.

    Raises InputError if the target already exists and is not an empty folder, or if the folder cannot be written.
    """
    target = path_of(str(folder)).resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}{PART}")
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{folder} already exists and is not an empty folder; specify a new or empty folder")
        _remove_left_over_folders(target)
        part.mkdir(parents=True)
        with closing(os.open(part, os.O_RDONLY)) as file:
            with suppress(OSError):  # the file system does not support locks
                take_lock(file)
            yield part
            part.replace(target)
    except OSError as error:
        remedy = "specify a folder that you can write to, on a disk with free space"
        if error.errno in SHORTAGES:
            remedy = REMEDIES[error.errno]
        raise InputError(f"cannot write to {folder}: {error.strerror or error}; {remedy}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _remove_left_over_folders(target: Path) -> None:
    """Remove what killed processes left of earlier attempts to create a folder."""
    unfinished = re.compile(rf"\.{re.escape(target.name)}\.\d+{re.escape(PART)}")
    for part in target.parent.iterdir() if target.parent.is_dir() else ():
        if unfinished.fullmatch(part.name):
            with suppress(OSError), closing(os.open(part, os.O_RDONLY | os.O_DIRECTORY)) as file:
                if take_lock(file):
                    shutil.rmtree(part, ignore_errors=True)


def open_lock(path: Path) -> int:
    """Open a lock file, creating it if it is missing, and return its descriptor without locking it. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


@contextmanager
def closing(file: int) -> Iterator[int]:
    """Close a file descriptor at the end of the block, which releases its lock unless another process has inherited it."""
    try:
        yield file
    finally:
        os.close(file)


def take_lock(file: int, seconds: float = 0.0) -> bool:
    """Lock an open file exclusively; return False if another process still holds the lock after `seconds`.

    Raises OSError if the file system does not support locks.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOCK_WAIT_SECONDS)
        else:
            return True


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on a file; False if the file does not exist. Raises OSError.

    Any number of processes may check at the same time. Each check briefly holds a shared lock, so `take_lock` needs a short
    timeout if other processes may be checking.
    """
    try:
        with closing(os.open(path, os.O_RDONLY)) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock on a file. Raises TimeoutError if another process still holds it after `seconds`, or another OSError."""
    with closing(open_lock(path)) as file:
        if not take_lock(file, seconds):
            raise TimeoutError(errno.ETIMEDOUT, f"another process has held the lock for {seconds:g} s")
        yield
