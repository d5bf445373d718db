"""The files of a task, and the tables in them by split. No torch.

A folder has a file a split, named after it; a file has a column `split`, or none and is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from offcomp.errors import TaskError
from offcomp.files import path_of
from offcomp.resources import assets_folder
from offcomp.task_columns import SPLIT
from offcomp.tasks import BUNDLED, HUB, Task
from offcomp.text_tables import TABLE_SUFFIXES, TextTable, class_names, column_text, read_table

if TYPE_CHECKING:
    import pyarrow as pa

TASK_FOLDER = assets_folder() / "tasks"
TRAIN, VALIDATION, TEST, WHOLE = "train", "validation", "test", "whole"
SPLITS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "val", "dev"),
    TEST: ("test", "testing"),
}
"""Split -> its names in a folder, a column `split` or a data hub, the usual one first."""
TESTED = (TEST, VALIDATION, TRAIN, WHOLE)
"""The first of these that has examples is tested on."""


@dataclass(frozen=True)
class Source:
    """Tables as they were found, by split, or one under WHOLE.

    place    what it is called in errors
    names    column -> names of its classes, where the source says them
    files    the files as they were read, where it is files
    """

    place: str
    tables: Mapping[str, pa.Table]
    names: Mapping[str, list[str]] = field(default_factory=dict)
    files: tuple[TextTable, ...] = ()

    @property
    def largest(self) -> pa.Table:
        """The table with the most rows."""
        return max(self.tables.values(), key=lambda table: table.num_rows)


def place_of(task: Task) -> Path | None:
    """The file or folder that a task is on, there or not; None where its data are of a hub. Raises InputError."""
    if task.data.startswith(HUB):
        return None
    return TASK_FOLDER / f"{task.data.removeprefix(BUNDLED)}.csv" if task.bundled else path_of(task.data)


def all_files(place: Path) -> list[Path]:
    """Every file that the examples at this place may come from: in a folder all that are named after a split."""
    if not place.is_dir():
        return [place]
    return [file for split in SPLITS for file in _files_of_split(place, split)]


def files_by_split(place: Path) -> dict[str, Path]:
    """Split -> its file; where the place is a file itself, that under WHOLE.

    Raises TaskError where a split has two files, or no split has one.
    """
    if not place.is_dir():
        return {WHOLE: place}
    found = {split: files for split in SPLITS if (files := _files_of_split(place, split))}
    for files in found.values():
        if len(files) > 1:
            raise TaskError(f"{place} has both {files[0].name} and {files[1].name}; keep one file for each split")
    if not found:
        raise TaskError(f"{place} has no file train, validation or test that ends in {', '.join(TABLE_SUFFIXES)}; name them so")
    return {split: files[0] for split, files in found.items()}


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """The files that are named after a split, in the order of its names."""
    named = [folder / f"{alias}{suffix}" for alias in SPLITS[split] for suffix in TABLE_SUFFIXES]
    return [file for file in named if file.is_file()]


def read_source(place: str, files: Mapping[str, Path]) -> Source:
    """The tables in the files of a task, by split. Raises InputError."""
    read = {split: read_table(file) for split, file in files.items()}
    names: dict[str, list[str]] = {}
    for table in read.values():
        names |= class_names(table.table)
    tables = {split: found.table for split, found in read.items()}
    if WHOLE in tables:
        tables = _by_column(tables[WHOLE], place)
    return Source(place, tables, names, tuple(read.values()))


def _by_column(table: pa.Table, place: str) -> dict[str, pa.Table]:
    """The parts of a table by its column `split`, or the whole. Raises InputError."""
    import pyarrow as pa

    if table.column_names.count(SPLIT) != 1:
        return {WHOLE: table}
    values = column_text(table, SPLIT, place).fillna("").str.strip().str.lower()
    known = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
    unknown = sorted(set(values.unique()) - known.keys())
    if unknown:
        raise TaskError(f"column split of {place} holds {unknown[0]!r}; each must be one of {', '.join(SPLITS)}")
    parts = values.map(known)
    return {split: table.filter(pa.array(parts == split)) for split in SPLITS if (parts == split).any()}
