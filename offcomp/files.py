"""Files that several processes read while one writes: JSON, whole or not at all."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from offcomp.errors import StorageError


def home_folder() -> Path:
    """The user data folder: OFFCOMP_HOME, else `offcomp` in XDG_DATA_HOME or ~/.local/share."""
    if chosen := os.environ.get("OFFCOMP_HOME"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "offcomp"


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


def read_json(path: Path) -> Any:
    """The document in a JSON file, None where there is none or it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
