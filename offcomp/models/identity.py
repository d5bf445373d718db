"""What a model is: the sha256 of every byte that is read of it, wherever its folder lies. No torch.

    fingerprint   of the weights and config.json: what spectra, views, surveys and listings depend on
    reads         of these and of every file beside them but those that no model and no tokenizer reads (`_may_be_read`), and of
                  everything in the folders that modules.json names: what scores depend on

A file of more than SMALL bytes is hashed once. Its sha256 is kept in the home folder beside path, size, inode and both times of
change, so that the next look takes a stat; a smaller one is hashed faster than that could be looked up. Identities begin with
"2-". Before, a model went by a sample of its weights; such fingerprints are plain hexadecimal digits and equal none of these.
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
"""The kind of identity that this version gives: of all bytes."""

CONTENT = re.compile(rf"{IDENTITY}-[0-9a-f]{{64}}")
NOT_READ = ("trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "requirements.txt")
"""What training leaves beside a model."""
PAPERS = ("license", "licence", "notice", "readme", "use_policy", "copying")
"""Names of files for people, with whatever suffix."""
OTHER_SUFFIXES = (
    *(".safetensors", *PICKLES, *OTHER_FORMATS, ".npz", ".npy", ".ot", ".pdparams"),  # weights
    *(".md", ".rst", ".pdf", ".html", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ipynb"),  # for people
    *(".py", ".log", ".csv", ".zip", ".gz", ".tar"),  # programs, which never run, and what they left
)
"""Of the files that no tokenizer reads. All others count: what tokenizers read has too many names to list."""
SMALL = 1 << 20
MOST_REMEMBERED = 1000
MOST_IN_MEMORY = 256
SECOND = 10**9  # nanoseconds
SETTLED = SECOND // 10
SETTLED_WITHOUT_FRACTIONS = 2 * SECOND
"""Nanoseconds after which another change shows in a file's times: file systems tell milliseconds, some of them seconds."""


@dataclass(frozen=True)
class Identity:
    """Two digests of a model's files: see the top of this file."""

    fingerprint: str
    reads: str


@dataclass(frozen=True)
class _Stamp:
    """What changes with a file; times in nanoseconds."""

    size: int
    inode: int
    modified: int
    changed: int

    @property
    def settled(self) -> bool:
        """Whether a change from now on would show."""
        latest = max(self.modified, self.changed)
        return time.time_ns() - latest > (SETTLED if latest % SECOND else SETTLED_WITHOUT_FRACTIONS)


_memory: dict[tuple[Path, _Stamp], str] = {}
"""What this process hashed: all there is where the home folder cannot be written."""


def is_content(mark: str) -> bool:
    """Whether an identity is of all bytes; those of former versions are of a sample of the weights."""
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
    """The files beside config and weights that may be read, and all files of the folders that modules.json names."""
    found = {file for file in folder.iterdir() if file.name != CONFIG and _may_be_read(file)}
    found |= {file for part in _module_folders(folder) for file in part.rglob("*")}
    return sorted(file for file in found if file.is_file())


def _may_be_read(file: Path) -> bool:
    """Whether a file that lies beside the weights may be read with the model: all that is not known to be something else."""
    name, suffix = file.name.lower(), file.suffix.lower()
    return not (name.startswith(".") or name in NOT_READ or name.partition(".")[0] in PAPERS or suffix in OTHER_SUFFIXES)


def _module_folders(folder: Path) -> Iterator[Path]:
    """The folders of a sentence encoder's modules that lie in the model's own folder."""
    modules = read_json(folder / MODULES)
    for module in modules if isinstance(modules, list) else ():
        path = PurePosixPath(str(module.get("path", "")) if isinstance(module, dict) else "")
        if path.parts and ".." not in path.parts and not path.is_absolute():
            yield folder / path


def file_digest(file: Path) -> str:
    """The sha256 of a file's bytes, as hexadecimal digits; of a large one that has not changed since, from memory.

    Raises OSError where it cannot be read, InputError where it changes meanwhile.
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
            raise InputError(f"'{file}' changed while it was read; try again once it is whole")
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
    """The digest that the home folder has for a file in this state."""
    kept = read_json(_entry(place))
    if not isinstance(kept, dict) or kept | _document(place, seen) != kept:
        return None
    digest = kept.get("sha256")
    return digest if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) else None


def _remember(place: Path, seen: _Stamp, digest: str) -> None:
    """Keep a digest, one file for each so that processes need not wait for each other; the oldest go where there are many."""
    if len(_memory) >= MOST_IN_MEMORY:
        _memory.clear()
    _memory[place, seen] = digest
    entry = _entry(place)
    with suppress(StorageError, OSError):
        write_json(entry, _document(place, seen) | {"sha256": digest})
        kept = sorted(entry.parent.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        for old in kept[:-MOST_REMEMBERED]:
            old.unlink(missing_ok=True)
