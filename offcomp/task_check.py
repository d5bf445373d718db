"""What stands against a task before a run starts: its columns, and its classes against the model's own head. No torch.

Files are read again only when they change; those too large to be read in passing, and data of a hub, are left to the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from offcomp.errors import InputError, ModelError, TaskError
from offcomp.head_labels import ModelHead, asked_of, check_kind, label_order
from offcomp.models.catalogue import ModelInfo
from offcomp.models.safetensors_files import read_json
from offcomp.models.sources import CONFIG, resolve
from offcomp.task_columns import SPLIT, Columns, Content, chosen_columns, class_counts, content_of
from offcomp.tasks import BUNDLED, FAMILIES, HUB, Task
from offcomp.text_tables import read_columns

BUNDLED_TASKS = Path(__file__).parents[1] / "assets" / "tasks"
LARGEST_CHECKED = 50 * 2**20  # bytes
FIRST_ROWS = 3
TESTED = ("test", "testing", "validation", "valid", "val", "dev")
"""Values of a column split that are tested on, the first that is there."""


@dataclass(frozen=True)
class TableView:
    """A table as far as it is shown and judged: how many rows, the first ones, and what each column holds."""

    rows: int
    first: tuple[Mapping[str, str], ...]
    contents: Mapping[str, Content]

    @staticmethod
    def of(table: Columns) -> TableView:
        """The view of a table whose columns are of one length."""
        rows = len(next(iter(table.values()), ()))
        first = tuple({name: values[i] or "" for name, values in table.items()} for i in range(min(FIRST_ROWS, rows)))
        return TableView(rows, first, {name: content_of(values) for name, values in table.items()})


def view_of(path: Path) -> TableView:
    """The view of a table in a file. Raises InputError."""
    return _view(path, _stamp(path))


def classes_of(path: Path, columns: Mapping[str, str]) -> dict[str, int]:
    """How often each class occurs among the rows that are tested on, by a task's columns of the table. Raises InputError."""
    return _classes(path, _stamp(path), tuple(columns.values()), columns["label"])


def head_of_model(info: ModelInfo) -> ModelHead | None:
    """The model's own head by its config.json; None where there is none, or it is not here."""
    if not info.architecture.endswith(FAMILIES["head"].needs):
        return None
    try:
        folder = resolve(info.model).folder
        return ModelHead.from_config(info.model, read_json(folder / CONFIG)) if folder else None
    except (ModelError, OSError):
        return None  # what is wrong with the model is told where it is loaded


def task_checks(tasks: Sequence[Task], info: ModelInfo) -> list[str]:
    """What stands against each task on this model, a sentence each."""
    return [fault for task in tasks if (fault := task_fault(task, info))]


def task_fault(task: Task, info: ModelInfo) -> str | None:
    """What stands against a task on this model, as far as shows without loading it; None where nothing does."""
    head = head_of_model(info) if task.family.startswith("head") else None
    try:
        asked = asked_of(task, head)
        if head is not None:
            check_kind(head, regression=asked.family == "head-regression")
        path = _tested_file(asked)
        if path is None or (task.bundled and head is None):
            return None
        view = view_of(path)
        columns = chosen_columns(asked, view.contents, path.name)
        if head is not None and asked.family == "head" and not _is_published(path):
            label_order(head, list(classes_of(path, columns)), asked.settings["labels"])
    except (TaskError, InputError) as error:
        said = str(error)
        return said if said.endswith((".", "?")) else f"{said}."
    return None


def _tested_file(task: Task) -> Path | None:
    """The file that a task is tested on, where it can be read in passing."""
    if task.data.startswith(HUB):
        return None
    path = BUNDLED_TASKS / f"{task.data.removeprefix(BUNDLED)}.csv" if task.bundled else Path(task.data).expanduser()
    if path.is_dir():
        path = next((file for file in sorted(path.glob("test.*")) if file.is_file()), path)
    return path if path.is_file() and path.stat().st_size <= LARGEST_CHECKED else None


def _is_published(path: Path) -> bool:
    """Whether the file may itself say the names of its classes, so that the values are not all there is to know."""
    return path.suffix.lower() == ".parquet"


def _stamp(path: Path) -> tuple[int, int]:
    """Stands for the content of a file."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=32)
def _view(path: Path, stamp: tuple[int, int]) -> TableView:  # noqa: ARG001  # another stamp, another content
    return TableView.of(read_columns(path))


@lru_cache(maxsize=64)
def _classes(
    path: Path,
    stamp: tuple[int, int],  # noqa: ARG001
    needed: tuple[str, ...],
    label: str,
) -> dict[str, int]:
    """Classes of the rows that are tested on and lack nothing that is needed."""
    table = read_columns(path)
    splits = [(value or "").strip().lower() for value in table[SPLIT]] if SPLIT in table else []
    tested = next((name for name in TESTED if name in splits), None)
    filled = zip(*(table[name] for name in needed), strict=True)
    rows = [i for i, values in enumerate(filled) if all(values) and (tested is None or splits[i] == tested)]
    return class_counts(table[label][i] for i in rows)
