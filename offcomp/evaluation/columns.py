"""From the columns of a table to those of a task: which is which, rows without content, labels and scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import pandas as pd
import pyarrow as pa

from offcomp.errors import TaskError
from offcomp.tasks import Task
from offcomp.text_tables import as_numbers, column_text

log = logging.getLogger("offcomp")

ALIASES = {"text": ("sentence",), "label": ("labels",), "score": ("similarity",)}
NO_ANSWER = "-1"  # what data hubs put where the answers are kept secret


def chosen_columns(task: Task, available: Sequence[str], place: str) -> dict[str, str]:
    """Column of the task -> column of the table: as the task says, or by obvious names. Raises TaskError.

    place    where the table is from, for the error
    """
    family = task.about
    target = [family.target] if family.target else []
    known = [*dict.fromkeys(column for inputs in family.inputs for column in inputs), *target]
    for column, meant in task.columns.items():
        if column not in known:
            raise TaskError(f"task {task.name!r} names a column {column!r}, but a {family.name} task has {', '.join(known)}")
        if meant not in available:
            raise TaskError(f"task {task.name!r} takes {column!r} from {meant!r}, but {place} has {', '.join(available)}")
    found = {column: task.columns.get(column) or _obvious(column, available) for column in known}
    mapped = {column for column in task.columns if column != family.target}
    fitting = [inputs for inputs in family.inputs if mapped <= {*inputs} and all(found[column] for column in inputs)]
    if len(fitting) == 1 and all(found[column] for column in target):
        return {column: named for column in (*fitting[0], *target) if (named := found[column])}
    wanted = " or ".join(" and ".join((*inputs, *target)) for inputs in family.inputs)
    raise TaskError(
        f"task {task.name!r} needs the columns {wanted}, but {place} has {', '.join(available)}; "
        f'say in "columns" which to take, such as {{"{known[0]}": "{available[0]}"}}'
    )


def _obvious(column: str, available: Sequence[str]) -> str | None:
    """The column of this name, or the only one of a name that can mean nothing else."""
    if column in available:
        return column
    names = (column, *ALIASES.get(column, ()))
    alike = [name for name in available if name.strip().lower() in names]
    return alike[0] if len(alike) == 1 else None


def as_examples(table: pa.Table, columns: Mapping[str, str], place: str) -> pd.DataFrame:
    """The chosen columns as text, under the task's names. Raises InputError."""
    return pd.DataFrame({column: column_text(table, named, place) for column, named in columns.items()})


def with_content(examples: pd.DataFrame, place: str) -> pd.DataFrame:
    """The rows in which no column is empty."""
    blank = pd.Series(False, index=examples.index)
    for column in examples:
        blank |= examples[column].isna() | (examples[column].str.strip() == "")
    kept = examples[~blank].reset_index(drop=True)
    if blank.any():
        log.info("%s: %d of %d rows are left out, for a column is empty", place, int(blank.sum()), len(blank))
    return kept


def published(examples: pd.DataFrame, target: str) -> pd.DataFrame:
    """The examples; none where every answer is -1, which stands for "not published"."""
    if target and len(examples) and (_plain_numbers(examples[target]) == NO_ANSWER).all():
        return examples.iloc[:0]
    return examples


def named_classes(examples: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """With the names of classes instead of their numbers."""
    by_number = {str(number): name for number, name in enumerate(names)} | {NO_ANSWER: NO_ANSWER}
    return examples.assign(label=examples["label"].map(by_number).astype("str"))


def plain_labels(labels: pd.Series, place: str) -> pd.Series:
    """Labels as names: 1, 1.0 and "1" are the same. Raises TaskError where they are measured values."""
    plain = _plain_numbers(labels)
    values = plain.drop_duplicates()
    numbers = pd.to_numeric(values, errors="coerce")
    fractions = values[numbers % 1 != 0]
    if numbers.notna().all() and len(fractions):
        raise TaskError(
            f"column label of {place} holds {fractions.iloc[0]}, but a class is a name or a whole number; "
            "for measured values choose the family regression or similarity"
        )
    return plain


def in_order(names: Sequence[str]) -> list[str]:
    """Names of classes: by number where all are numbers, else by the alphabet."""
    try:
        return sorted(names, key=int)
    except ValueError:
        return sorted(names)


def as_scores(scores: pd.Series, place: str) -> pd.Series:
    """Scores as numbers, with points or commas. Raises InputError where one is none."""
    numbers = as_numbers(scores)
    wrong = scores[~numbers.abs().lt(float("inf"))]
    if len(wrong):
        raise TaskError(f"column score of {place} holds {wrong.iloc[0]!r}, which is no finite number, in {len(wrong)} rows")
    return numbers


def _plain_numbers(values: pd.Series) -> pd.Series:
    """Text without spaces around it and, for a whole number, without decimals."""
    return values.str.strip().str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)
