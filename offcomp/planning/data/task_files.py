"""Find the files of a task and read their tables, by split. No torch.

A folder contains one file per split, named after the split. A single file is divided into splits by its column `split`, if any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from offcomp.errors import TaskError
from offcomp.files import assets_folder, path_of
from offcomp.planning.data.task_columns import SPLIT
from offcomp.planning.data.tasks import BUNDLED, HARNESSES, HUB, Task
from offcomp.planning.data.text_tables import TABLE_SUFFIXES, TextTable, class_names, column_text, read_table

if TYPE_CHECKING:
    import pyarrow as pa

TASK_FOLDER = assets_folder() / "tasks"
TRAIN, VALIDATION, TEST, WHOLE = "train", "validation", "test", "whole"
SPLITS = {TRAIN: ("train", "training"), VALIDATION: ("validation", "valid", "val", "dev"), TEST: ("test", "testing")}
"""Split -> the names that it may have in a folder, in a column `split` or on a data hub, most common first."""
TESTED = (TEST, VALIDATION, TRAIN, WHOLE)
"""Splits to test on, in order of preference; the first that has examples is used."""


@dataclass(frozen=True)
class Source:
    """The tables of a task by split, or a single table under the key WHOLE.

    name          how error messages refer to the source
    class_names   column -> class names, if the source specifies them
    files         the parsed files, if the source consists of files
    """

    name: str
    tables: Mapping[str, pa.Table]
    class_names: Mapping[str, list[str]] = field(default_factory=dict)
    files: tuple[TextTable, ...] = ()

    @property
    def largest(self) -> pa.Table:
        """The table with the most rows."""
        return max(self.tables.values(), key=lambda table: table.num_rows)


def location_of(task: Task) -> Path | None:
    """The path of a task's table, whether or not it exists; None if the data come from elsewhere. Raises InputError."""
    if task.data.startswith((HUB, *HARNESSES)):
        return None
    return TASK_FOLDER / f"{task.data.removeprefix(BUNDLED)}.csv" if task.bundled else path_of(task.data)


def all_files(path: Path) -> list[Path]:
    """All files that examples may be read from: the path itself or, if it is a folder, its files named after splits."""
    if not path.is_dir():
        return [path]
    return [file for split in SPLITS for file in _files_of_split(path, split)]


def files_by_split(path: Path) -> dict[str, Path]:
    """Map each split to its file; if the path is a single file, its key is WHOLE.

    Raises TaskError if a split has several files, or if no split has a file.
    """
    if not path.is_dir():
        return {WHOLE: path}
    by_split = {split: files for split in SPLITS if (files := _files_of_split(path, split))}
    for files in by_split.values():
        if len(files) > 1:
            raise TaskError(f"{path} has both {files[0].name} and {files[1].name}; keep only one file per split")
    if not by_split:
        raise TaskError(
            f"{path} has no file named train, validation or test with one of the extensions {', '.join(TABLE_SUFFIXES)}; "
            "rename your files"
        )
    return {split: files[0] for split, files in by_split.items()}


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """The files named after a split, in the order of its aliases."""
    named = [folder / f"{alias}{suffix}" for alias in SPLITS[split] for suffix in TABLE_SUFFIXES]
    return [file for file in named if file.is_file()]


def local_source(task: Task) -> Source | None:
    """The tables of a task with local data; None if the data come from a hub. Raises InputError."""
    location = location_of(task)
    if location is None:
        return None
    if not (location.is_dir() or location.is_file()):
        raise TaskError(f"data {task.data!r} of task {task.name!r} does not exist; specify the path of a file or a folder")
    return read_source(location.name, files_by_split(location))


def read_source(name: str, files: Mapping[str, Path]) -> Source:
    """Read the tables in the files of a task, by split. Raises InputError."""
    read = {split: read_table(file) for split, file in files.items()}
    tables = {split: file.table for split, file in read.items()}
    names = {column: classes for table in tables.values() for column, classes in class_names(table).items()}
    if WHOLE in tables:
        tables = _by_column(tables[WHOLE], name)
    return Source(name, tables, names, tuple(read.values()))


def _by_column(table: pa.Table, name: str) -> dict[str, pa.Table]:
    """Split a table by its column `split`, or return it whole if there is no such column. Raises InputError."""
    import pyarrow as pa

    if table.column_names.count(SPLIT) != 1:
        return {WHOLE: table}
    values = column_text(table, SPLIT, name).fillna("").str.strip().str.lower()
    known = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
    unknown = sorted(set(values.unique()) - known.keys())
    if unknown:
        raise TaskError(f"the column 'split' of {name} contains {unknown[0]!r}; each value must be one of {', '.join(SPLITS)}")
    parts = values.map(known)
    return {split: table.filter(pa.array(parts == split)) for split in SPLITS if (parts == split).any()}
