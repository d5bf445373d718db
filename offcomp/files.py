"""Files and folders that others read while one writes: whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from offcomp.errors import InputError, StorageError


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


def storage_error(folder: Path, error: OSError) -> StorageError:
    """One sentence for a folder that cannot be written."""
    return StorageError(
        f"cannot write to {folder}: {error.strerror or error}; free some space, or set OFFCOMP_HOME to a folder you may write"
    )


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new one, never a part. Raises StorageError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise storage_error(path.parent, error) from None


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document as `write_bytes` does. NaN is refused with a ValueError."""
    write_bytes(path, json.dumps(document, indent=1, allow_nan=False).encode())


def changed(file: Path) -> tuple[int, int] | None:
    """Time of change and size of a file, None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def read_json(path: Path) -> Any:
    """The document in a JSON file, None where there is none or it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


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
        raise InputError(
            f"cannot write to {folder}: {error.strerror or error}; name a folder that you may write, on a disk with free space"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
