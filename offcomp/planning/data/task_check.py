"""Check a task before a run starts: its columns, and whether its classes match the model's own head. No torch.

Files are re-read only when they change. Data from a hub, and files too large for a quick check, are checked during the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from offcomp.errors import InputError, ModelError, TaskError
from offcomp.models.catalogue import ModelInfo
from offcomp.models.identity import file_digest
from offcomp.models.safetensors_files import read_json
from offcomp.models.sources import CONFIG, resolve
from offcomp.planning.data.head_labels import ModelHead, adapted_to, check_kind, label_order
from offcomp.planning.data.task_columns import Content, chosen_columns, class_counts
from offcomp.planning.data.task_examples import class_names_of, contents, examples_of
from offcomp.planning.data.task_files import TESTED, WHOLE, Source, files_by_split, location_of, read_source
from offcomp.planning.data.tasks import FAMILIES, Task
from offcomp.planning.data.text_tables import read_table, text_values

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST_CHECKED = 50 * 2**20  # bytes, over all files of a task
FIRST_ROWS = 3


@dataclass(frozen=True)
class TableView:
    """A summary of a table: the number of rows, the first few rows, and what each column contains."""

    rows: int
    first: tuple[Mapping[str, str], ...]
    contents: Mapping[str, Content]


@dataclass(frozen=True)
class _Files:
    """The files of a task and their hashes; two instances are equal only if all files have the same content.

    name     how error messages refer to the files
    files    split, path and SHA-256 of each file
    """

    name: str
    files: tuple[tuple[str, Path, str], ...]

    @staticmethod
    def of(location: Path, files: Mapping[str, Path]) -> _Files:
        """Hash the files. Raises InputError if a file cannot be read."""
        try:
            return _Files(location.name, tuple((split, file, file_digest(file)) for split, file in files.items()))
        except OSError as error:
            raise InputError(f"{location} cannot be read: {error.strerror}") from None


def view_of(path: Path) -> TableView:
    """Summarise the table in a file. Raises InputError."""
    return _view(_Files.of(path, {WHOLE: path}))


def classes_of(path: Path, columns: Mapping[str, str]) -> dict[str, int]:
    """Count the test rows per class; `columns` maps task columns to table columns. Raises InputError."""
    return dict(_classes(_Files.of(path, {WHOLE: path}), path.stem, "head", tuple(columns.items()))[0])


def head_of_model(info: ModelInfo) -> ModelHead | None:
    """The model's own head according to its config.json; None if it has no such head or is not available locally."""
    if not info.architecture.endswith(FAMILIES["head"].needs):
        return None
    try:
        folder = resolve(info.model).folder
        return ModelHead.from_config(info.model, read_json(folder / CONFIG)) if folder else None
    except (ModelError, OSError):
        return None  # errors in the model are reported when it is loaded


def task_fault(task: Task, info: ModelInfo) -> str | None:
    """Why a task cannot be run on this model, determined without loading the model; None if no reason is found."""
    head = head_of_model(info) if task.family.startswith("head") else None
    try:
        adapted = adapted_to(task, head)
        if head is not None:
            check_kind(head, regression=adapted.family == "head-regression")
        files = _files_of(adapted)
        if files is None or (task.bundled and head is None):
            return None
        chosen_columns(adapted, _contents(files), files.name)
        if head is not None and adapted.family == "head":
            counts, published = _classes(files, adapted.name, adapted.family, tuple(adapted.columns.items()))
            label_order(head, class_names_of(published, counts, trains=False), adapted.settings["labels"])
    except InputError as error:
        return str(error) if str(error).endswith((".", "?")) else f"{error}."
    return None


def _files_of(task: Task) -> _Files | None:
    """The files of a task; None if they are not local or are too large for a quick check. Raises InputError."""
    location = location_of(task)
    if location is None or not (location.is_dir() or location.is_file()):
        return None
    files = files_by_split(location)
    if sum(file.stat().st_size for file in files.values()) > LARGEST_CHECKED:
        return None
    return _Files.of(location, files)


def _shown(column: pa.ChunkedArray) -> list[str]:
    """The values of a column as text, with "" for missing values and for columns that contain neither text nor numbers."""
    return [text or "" for text in text_values(column) or [None] * len(column)]


@lru_cache(maxsize=2)
def _source(files: _Files) -> Source:
    return read_source(files.name, {split: file for split, file, _ in files.files})


@lru_cache(maxsize=32)
def _view(files: _Files) -> TableView:
    table = read_table(files.files[0][1]).table
    top = table.slice(0, FIRST_ROWS)
    shown = {name: _shown(column) for name, column in reversed([*zip(top.column_names, top.columns, strict=True)])}
    first = tuple({name: shown[name][i] for name in table.column_names} for i in range(top.num_rows))
    return TableView(table.num_rows, first, contents(table))


@lru_cache(maxsize=32)
def _contents(files: _Files) -> Mapping[str, Content]:
    """What each column of the task's largest table contains."""
    return contents(_source(files).largest)


@lru_cache(maxsize=64)
def _classes(
    files: _Files, name: str, family: str, renamed: tuple[tuple[str, str], ...]
) -> tuple[Mapping[str, int], tuple[str, ...]]:
    """The number of test rows per class, and the class names specified by the source. Raises InputError."""
    task, source = Task(name=name, family=family, data=name, columns=dict(renamed)), _source(files)
    columns = chosen_columns(task, _contents(files), files.name)
    for split in TESTED:
        if split in source.tables:
            labels = examples_of(task, source, source.tables[split], columns, Counter())["label"]
            if len(labels):
                return class_counts(labels), tuple(source.class_names.get(columns["label"], ()))
    raise TaskError(f"task {name!r} needs rows with a value in every column that it uses, but {files.name} has no such rows")
