"""A model's identity: the sha256 of every byte that is read from it, independent of its location. No torch.

    fingerprint   of the weights and config.json: determines spectra, views, surveys and listings
    reads         of those, of all other files in the folder except those that no model or tokenizer reads (`_may_be_read`), and
                  of everything in the folders that modules.json names: determines scores

A file larger than SMALL bytes is hashed only once. Its sha256 is cached in the home folder with its path, size, inode,
modification time and change time, so that the next check costs one stat; hashing a smaller file is faster than a cache lookup.
Identities begin with "2-". Earlier versions hashed a sample of the weights; those fingerprints are plain hexadecimal digits and
never equal one of these.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from offcomp.errors import InputError, ModelError, StorageError
from offcomp.files import home_folder, read_json, write_json
from offcomp.models.folder_faults import CONFIG
from offcomp.models.safetensors_files import INDEX, OTHER_FORMATS, PICKLES, WEIGHTS, weight_files
from offcomp.models.sentence_modules import MODULES

IDENTITY = 2
"""Version of the identity scheme: a hash of all bytes."""

CONTENT = re.compile(rf"{IDENTITY}-[0-9a-f]{{64}}")
NOT_READ = ("trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "requirements.txt")
"""Files that training leaves in a model folder."""
PAPERS = ("license", "licence", "notice", "readme", "use_policy", "copying")
"""Stems of human-readable documents, whatever their suffix."""
OTHER_SUFFIXES = (
    *(".safetensors", *PICKLES, *OTHER_FORMATS, ".npz", ".npy", ".ot", ".pdparams"),  # weights
    *(".md", ".rst", ".pdf", ".html", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ipynb"),  # for people
    *(".py", ".log", ".csv", ".zip", ".gz", ".tar"),  # programs, which are never run, and their output
)
"""Suffixes of files that no tokenizer reads. All others count: tokenizers read too many file names to list."""
SMALL = 1 << 20
MOST_REMEMBERED = 1000
MOST_IN_MEMORY = 256
SECOND = 10**9  # nanoseconds
SETTLED = SECOND // 10
SETTLED_WITHOUT_FRACTIONS = 2 * SECOND
"""Nanoseconds after which a further change shows in a file's timestamps; file systems resolve milliseconds or just seconds."""


@dataclass(frozen=True)
class Identity:
    """Two digests of a model's files; see the module docstring."""

    fingerprint: str
    reads: str


@dataclass(frozen=True)
class _Stamp:
    """File metadata that changes whenever the file does; times in nanoseconds."""

    size: int
    inode: int
    modified: int
    changed: int

    @property
    def settled(self) -> bool:
        """Return whether any later change would alter the timestamps."""
        latest = max(self.modified, self.changed)
        return time.time_ns() - latest > (SETTLED if latest % SECOND else SETTLED_WITHOUT_FRACTIONS)


_memory: dict[tuple[Path, _Stamp], str] = {}
"""Digests computed by this process; the only cache if the home folder is not writable."""


def is_content(mark: str) -> bool:
    """Return whether an identity covers all bytes; those from earlier versions cover a sample of the weights."""
    return CONTENT.fullmatch(mark) is not None


def identify(folder: Path) -> Identity:
    """The identity of the model in a folder.

    Raises:
        ModelError: the config or the weights are missing or cannot be read.
    """
    try:
        index = [] if (folder / WEIGHTS).is_file() else [folder / INDEX]
        fingerprint = _digest_of(folder, [folder / CONFIG, *index, *weight_files(folder)])
        return Identity(fingerprint, _digest_of(folder, _beside(folder), fingerprint))
    except OSError as error:
        raise ModelError(f"The model in '{folder}' cannot be read ({error}).") from error


def _digest_of(folder: Path, files: list[Path], start: str = "") -> str:
    entries = [[file.relative_to(folder).as_posix(), file_digest(file)] for file in files]
    return f"{IDENTITY}-{hashlib.sha256(json.dumps([start, *entries]).encode()).hexdigest()}"


def _beside(folder: Path) -> list[Path]:
    """The files that may be read in addition to config and weights, and all files in the folders that modules.json names."""
    found = {file for file in folder.iterdir() if file.name != CONFIG and _may_be_read(file)}
    found |= {file for part in _module_folders(folder) for file in part.rglob("*")}
    return sorted(file for file in found if file.is_file())


def _may_be_read(file: Path) -> bool:
    """Return whether a file in the model folder may be read with the model: any file not known to be irrelevant."""
    name, suffix = file.name.lower(), file.suffix.lower()
    return not (name.startswith(".") or name in NOT_READ or name.partition(".")[0] in PAPERS or suffix in OTHER_SUFFIXES)


def _module_folders(folder: Path) -> Iterator[Path]:
    """The module folders of a sentence encoder, limited to those inside the model's own folder."""
    modules = read_json(folder / MODULES)
    for module in modules if isinstance(modules, list) else ():
        path = PurePosixPath(str(module.get("path", "")) if isinstance(module, dict) else "")
        if path.parts and ".." not in path.parts and not path.is_absolute():
            yield folder / path


def file_digest(file: Path) -> str:
    """The sha256 of a file as hexadecimal digits; cached for large files that have not changed.

    Raises OSError if the file cannot be read, InputError if it changes while being read.
    """
    seen = _stamp(file)
    if seen.size <= SMALL:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    place, settled = file.absolute(), seen.settled
    known = _memory.get((place, seen)) or _recalled(place, seen)
    if known is None:
        with file.open("rb") as stream:
            known = hashlib.file_digest(stream, "sha256").hexdigest()
        if _stamp(file) != seen:
            raise InputError(f"'{file}' changed while it was read; try again when it is complete")
        if settled:
            _remember(place, seen, known)
    return known


def _stamp(file: Path) -> _Stamp:
    found = file.stat()
    return _Stamp(found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


def _entry(place: Path) -> Path:
    return home_folder() / "digests" / f"{hashlib.sha256(str(place).encode(errors='surrogateescape')).hexdigest()[:32]}.json"


def _document(place: Path, seen: _Stamp) -> dict[str, object]:
    """A file and its state, as JSON values."""
    return {"path": ascii(str(place)), **vars(seen)}


def _recalled(place: Path, seen: _Stamp) -> str | None:
    """The digest cached in the home folder for a file in this state."""
    kept = read_json(_entry(place))
    if not isinstance(kept, dict) or kept | _document(place, seen) != kept:
        return None
    digest = kept.get("sha256")
    return digest if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) else None


def _remember(place: Path, seen: _Stamp, digest: str) -> None:
    """Cache a digest in its own file, so that processes need no locking, and evict the oldest beyond MOST_REMEMBERED."""
    if len(_memory) >= MOST_IN_MEMORY:
        _memory.clear()
    _memory[place, seen] = digest
    entry = _entry(place)
    with suppress(StorageError, OSError):
        write_json(entry, _document(place, seen) | {"sha256": digest})
        kept = sorted(entry.parent.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        for old in kept[:-MOST_REMEMBERED]:
            old.unlink(missing_ok=True)
