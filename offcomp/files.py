"""Files and folders that others read while one writes: whole or not at all. What lies in the home is its owner's alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from offcomp.errors import InputError, StorageError
from offcomp.locks import take


def home_folder() -> Path:
    """The user data folder: OFFCOMP_HOME, else `offcomp` in XDG_DATA_HOME or ~/.local/share."""
    if chosen := os.environ.get("OFFCOMP_HOME"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "offcomp"


def path_of(text: str) -> Path:
    """The path that a person's text means, whether something is there or not. Raises InputError where it can be none."""
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path  # for whoever wants it to be there to say
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such home, a NUL
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"{text[:100]!r} is no path that can be used ({reason}); give the path of a file or folder") from None
    return path


SHORTAGES = (errno.EMFILE, errno.ENFILE)
"""Errors that say nothing of the file: there is no descriptor left to open it with."""
RIGHTS = "set OFFCOMP_HOME to a folder you may write"
REMEDIES = {
    **dict.fromkeys(SHORTAGES, "close other programs, or raise the limit of open files (ulimit -n)"),
    **dict.fromkeys((errno.EAGAIN, errno.ENOMEM), "close other programs, or raise the limit of processes (ulimit -u)"),
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.ETIMEDOUT: "try again, or end that process",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or set OFFCOMP_HOME to a folder on another disk"),
    **dict.fromkeys((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS), "set OFFCOMP_HOME to a folder on a disk of this machine"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
        RIGHTS,
    ),
}
"""Error of the operating system -> what helps in the home folder; of other errors nothing is known to help."""


def storage_error(folder: Path, error: OSError, doing: str = "write to") -> StorageError:
    """One sentence for a folder of the home in which something could not be done, with what helps where that is known."""
    remedy = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
    return StorageError(f"cannot {doing} {folder}: {error.strerror or error}{remedy}")


def private_folder(folder: Path) -> None:
    """Make a folder that its owner alone may enter, and in the same way those above it that are missing. Raises OSError."""
    if not folder.is_dir():
        if folder.parent != folder:
            private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def write_bytes(path: Path, content: bytes, *, make_folder: bool = True) -> None:
    """Write a file of its owner's so that a reader sees the old or the new one, never a part. Raises StorageError.

    make_folder     whether a missing folder is made; one that somebody may remove meanwhile is not to come back
    """
    try:
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
    except OSError as error:
        raise storage_error(path.parent, error) from None


PATIENCE_SECONDS = 5.0
PART = ".part"
"""How names of unfinished files and folders end; they begin with a dot."""


def _new_part(path: Path) -> tuple[int, Path]:
    """An open file beside `path`, locked while it is open: one that is not is left over (`remove_left_over`)."""
    while True:
        file, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
        with suppress(OSError):  # a file system without locks: nothing is swept there either
            take(file, PATIENCE_SECONDS)
        if os.fstat(file).st_nlink:
            return file, Path(name)
        os.close(file)  # swept before it was locked


def remove_left_over(part: Path) -> None:
    """Remove an unfinished file, unless somebody is writing it."""
    with suppress(OSError):
        file = os.open(part, os.O_RDONLY)
        try:
            if take(file):
                part.unlink()
        finally:
            os.close(file)


def write_json(path: Path, document: Any, *, make_folder: bool = True) -> None:
    """Write a JSON document as `write_bytes` does. NaN is refused with a ValueError."""
    write_bytes(path, json.dumps(document, indent=1, allow_nan=False).encode(), make_folder=make_folder)


def changed(file: Path) -> tuple[int, int] | None:
    """Time of change and size of a file, None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def read_json(path: Path) -> Any:
    """The document in a JSON file, None where there is none or it cannot be read. Raises StorageError where no file can be."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        check_shortage(path.parent, error)
        return None
    except (ValueError, RecursionError):
        return None


def check_shortage(folder: Path, error: OSError) -> None:
    """Raise StorageError where a file could not be opened for want of descriptors: it is not known whether it is there."""
    if error.errno in SHORTAGES:
        raise storage_error(folder, error, "read") from None


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which has another name until the block ends well; after an error nothing of it is left.

    Raises InputError where there is something at its place already, or where it cannot be written.
    """
    place = path_of(str(folder)).resolve()
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise InputError(f"{folder} is there already and not empty; name a folder that is new, or empty this one")
        part.mkdir(parents=True)
        yield part
        part.replace(place)
    except OSError as error:
        elsewhere = "name a folder that you may write, on a disk with free space"
        remedy = REMEDIES[error.errno] if error.errno in SHORTAGES else elsewhere
        raise InputError(f"cannot write to {folder}: {error.strerror or error}; {remedy}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
