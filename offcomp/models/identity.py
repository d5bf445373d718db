"""Identify a model by SHA-256 digests of all files it is loaded from, regardless of their location. Does not require torch.

    fingerprint   covers the weights, config.json and corrected kinds; used for spectra, views, surveys and listings
    reads         also covers all other files in the folder, except those that no model or tokenizer reads (`_may_be_read`),
                  and everything in the folders listed in modules.json; used for scores

A file larger than SMALL bytes is hashed only once. The digest is cached in the home folder with the file's path, size, inode,
and modification and change times, so the next check needs only a stat call. Smaller files are faster to hash than to look up.
Identities begin with "2-". Fingerprints from earlier versions, which hashed only a sample of the weights, lack the "2-" prefix
and therefore never equal a current fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from offcomp.errors import InputError, ModelError, StorageError
from offcomp.files import home_folder, read_json, write_json
from offcomp.models.folder_faults import CONFIG
from offcomp.models.safetensors_files import INDEX, OTHER_FORMATS, PICKLES, WEIGHTS, weight_files
from offcomp.models.sentence_modules import MODULES

IDENTITY = 2
"""Version of the identity scheme; version 2 hashes all bytes."""

KINDS_FILE = "offcomp_kinds.json"
"""Name of the file in a model's folder with corrected kinds (`kinds_file.py`). It changes names, hence the identity."""

CONTENT = re.compile(rf"{IDENTITY}-[0-9a-f]{{64}}")
NOT_READ = ("trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "requirements.txt")
"""Files that are often left in a model folder after training."""
DOCUMENTS = ("license", "licence", "notice", "readme", "use_policy", "copying")
"""Names of documentation files, which may have any suffix."""
OTHER_SUFFIXES = (
    *(".safetensors", *PICKLES, *OTHER_FORMATS, ".npz", ".npy", ".ot", ".pdparams"),  # weights
    *(".md", ".rst", ".pdf", ".html", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ipynb"),  # documents
    *(".py", ".log", ".csv", ".zip", ".gz", ".tar"),  # programs, which are never run, and their output
)
"""Suffixes of files that no tokenizer reads. Other files are hashed, since tokenizers read too many kinds of file to list."""
SMALL = 1 << 20
MAX_CACHED = 1000
MAX_IN_MEMORY = 256
SECOND = 10**9  # nanoseconds
RESOLUTION = SECOND // 10
RESOLUTION_WITHOUT_FRACTIONS = 2 * SECOND
"""Nanoseconds until another change is sure to alter a file's timestamps, which have a resolution of milliseconds or seconds."""


@dataclass(frozen=True)
class Identity:
    """The two digests of a model's files; see the module docstring."""

    fingerprint: str
    reads: str


@dataclass(frozen=True)
class _Stamp:
    """File metadata that changes whenever the file does. Times are in nanoseconds."""

    size: int
    inode: int
    modified: int
    changed: int

    @property
    def shows_changes(self) -> bool:
        """Return whether any later change would alter the timestamps."""
        latest = max(self.modified, self.changed)
        return time.time_ns() - latest > (RESOLUTION if latest % SECOND else RESOLUTION_WITHOUT_FRACTIONS)


_memory: dict[tuple[Path, _Stamp], str] = {}
"""Digests computed by this process; the only cache if the home folder is not writable."""


def is_content(fingerprint: str) -> bool:
    """Return whether a fingerprint covers all bytes; fingerprints from earlier versions cover only a sample of the weights."""
    return CONTENT.fullmatch(fingerprint) is not None


def identify(folder: Path, *, as_recognised: bool = False) -> Identity:
    """The identity of the model in a folder, or what it would be without a file of corrected kinds (`as_recognised`).

    Raises:
        ModelError: the config or the weights are missing or cannot be read.
    """
    with readable(folder):
        index = [] if (folder / WEIGHTS).is_file() else [folder / INDEX]
        kinds = [folder / KINDS_FILE] if (folder / KINDS_FILE).is_file() and not as_recognised else []
        fingerprint = _digest_of(folder, [folder / CONFIG, *index, *weight_files(folder), *kinds])
        others = [file for file in _other_files(folder) if not (as_recognised and file.name == KINDS_FILE)]
        return Identity(fingerprint, _digest_of(folder, others, fingerprint))


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Convert an OSError raised while reading a model folder to a ModelError."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"The model in '{folder}' cannot be read ({error}).") from error


def _digest_of(folder: Path, files: list[Path], start: str = "") -> str:
    entries = [[file.relative_to(folder).as_posix(), file_digest(file)] for file in files]
    return f"{IDENTITY}-{hashlib.sha256(json.dumps([start, *entries]).encode()).hexdigest()}"


def _other_files(folder: Path) -> list[Path]:
    """All files that may be read besides the config and weights, including those in the folders listed in modules.json."""
    entries = {entry for entry in folder.iterdir() if entry.name != CONFIG and _may_be_read(entry)}
    entries |= {entry for module in _module_folders(folder) for entry in module.rglob("*")}
    return sorted(entry for entry in entries if entry.is_file())


def _may_be_read(file: Path) -> bool:
    """Return whether loading the model might read this file; False only for files known to be irrelevant."""
    name, suffix = file.name.lower(), file.suffix.lower()
    return not (name.startswith(".") or name in NOT_READ or name.partition(".")[0] in DOCUMENTS or suffix in OTHER_SUFFIXES)


def _module_folders(folder: Path) -> Iterator[Path]:
    """The module folders of a sentence encoder, ignoring any outside the model folder."""
    modules = read_json(folder / MODULES)
    for module in modules if isinstance(modules, list) else ():
        path = PurePosixPath(str(module.get("path", "")) if isinstance(module, dict) else "")
        if path.parts and ".." not in path.parts and not path.is_absolute():
            yield folder / path


def file_digest(file: Path) -> str:
    """The SHA-256 digest of a file in hexadecimal; cached for large files until they change.

    Raises OSError if the file cannot be read, and InputError if it changes while being read.
    """
    stamp = _stamp(file)
    if stamp.size <= SMALL:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    path, shows_changes = file.absolute(), stamp.shows_changes
    digest = _memory.get((path, stamp)) or _read_digest(path, stamp)
    if digest is None:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if _stamp(file) != stamp:
            raise InputError(f"'{file}' changed while it was being read; try again once it is complete")
        if shows_changes:
            _cache_digest(path, stamp, digest)
    return digest


def _stamp(file: Path) -> _Stamp:
    stat = file.stat()
    return _Stamp(stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)


def _cache_file(path: Path) -> Path:
    return home_folder() / "digests" / f"{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:32]}.json"


def _cache_key(path: Path, stamp: _Stamp) -> dict[str, object]:
    """The path and metadata of a file, as JSON types."""
    return {"path": ascii(str(path)), **vars(stamp)}


def _read_digest(path: Path, stamp: _Stamp) -> str | None:
    """The digest cached in the home folder for this file and metadata, or None."""
    cached = read_json(_cache_file(path))
    if not isinstance(cached, dict) or cached | _cache_key(path, stamp) != cached:
        return None
    digest = cached.get("sha256")
    return digest if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) else None


def _cache_digest(path: Path, stamp: _Stamp, digest: str) -> None:
    """Cache a digest in its own file, which avoids locking, and keep only the MAX_CACHED most recent files."""
    if len(_memory) >= MAX_IN_MEMORY:
        _memory.clear()
    _memory[path, stamp] = digest
    cache_file = _cache_file(path)
    with suppress(StorageError, OSError):
        write_json(cache_file, _cache_key(path, stamp) | {"sha256": digest})
        by_age = sorted(cache_file.parent.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        for oldest in by_age[:-MAX_CACHED]:
            oldest.unlink(missing_ok=True)
