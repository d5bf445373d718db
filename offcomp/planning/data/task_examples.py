"""Extract a task's examples from tables: pick columns, drop rows without content or answer, parse answers. No torch."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from offcomp.errors import TaskError
from offcomp.planning.data.row_counts import EMPTY, NOT_PUBLISHED
from offcomp.planning.data.task_columns import LOOKED_AT, WHOLE, LazyContents, chosen_columns, in_order
from offcomp.planning.data.task_files import Source
from offcomp.planning.data.tasks import Task
from offcomp.planning.data.text_tables import as_numbers, column_text, loose_text

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger("offcomp")

NO_ANSWER = "-1"  # used by data hubs where answers are withheld


def contents(table: pa.Table) -> LazyContents:
    """What the columns of a table hold, from evenly sampled rows; a column without text or numbers holds nothing."""
    rows = table.take(list(range(0, table.num_rows, max(1, table.num_rows // LOOKED_AT))))
    return LazyContents(table.column_names, lambda name: loose_text(rows[rows.column_names.index(name)]))


def examples_of(
    task: Task, source: Source, table: pa.Table, columns: Mapping[str, str], left_out: Counter[str]
) -> pd.DataFrame:
    """The task's columns of a table; rows without content or answer are left out and counted. Raises InputError."""
    if not {*columns.values()} <= {*table.column_names}:
        columns = chosen_columns(task, contents(table), source.place)  # a split whose columns have other names
    examples = as_examples(table, columns, source.place)
    target = task.about.target
    if target == "label" and columns[target] in source.names:
        examples = named_classes(examples, source.names[columns[target]])
    filled = with_content(examples, source.place)
    left_out[EMPTY] += len(examples) - len(filled)
    examples = published(filled, target)
    left_out[NOT_PUBLISHED] += len(filled) - len(examples)
    if target == "label":
        return examples.assign(label=plain_labels(examples["label"], source.place))
    return examples.assign(score=as_scores(examples["score"], source.place)) if target else examples


def class_names_of(published: Sequence[str], present: Collection[str], *, trains: bool) -> list[str]:
    """Class names in order: as published by the source (only those present if the task trains), else sorted."""
    return [name for name in published if name in present or not trains] or in_order(present)


def as_examples(table: pa.Table, columns: Mapping[str, str], place: str) -> pd.DataFrame:
    """The chosen columns as text, under the task's names. Raises InputError."""
    import pandas as pd

    return pd.DataFrame({column: column_text(table, named, place) for column, named in columns.items()})


def with_content(examples: pd.DataFrame, place: str) -> pd.DataFrame:
    """The rows in which no column is empty."""
    import pandas as pd

    blank = pd.Series(False, index=examples.index)
    for column in examples:
        blank |= examples[column].isna() | (examples[column].str.strip() == "")
    kept = examples[~blank].reset_index(drop=True)
    if blank.any():
        log.info("%s: %d of %d rows are left out because a column is empty", place, int(blank.sum()), len(blank))
    return kept


def published(examples: pd.DataFrame, target: str) -> pd.DataFrame:
    """The examples; none if every answer is -1, which stands for "not published"."""
    if target and len(examples) and (_plain_numbers(examples[target]) == NO_ANSWER).all():
        return examples.iloc[:0]
    return examples


def named_classes(examples: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Replace class numbers by class names."""
    by_number = {str(number): name for number, name in enumerate(names)} | {NO_ANSWER: NO_ANSWER}
    return examples.assign(label=examples["label"].map(by_number).astype("str"))


def plain_labels(labels: pd.Series, place: str) -> pd.Series:
    """Labels as names: 1, 1.0 and "1" are the same. Raises TaskError if they are continuous values."""
    import pandas as pd

    plain = _plain_numbers(labels)
    values = plain.drop_duplicates()
    numbers = pd.to_numeric(values, errors="coerce")
    fractions = values[numbers % 1 != 0]
    if numbers.notna().all() and len(fractions):
        raise TaskError(
            f"column label of {place} holds {fractions.iloc[0]}, but a class is a name or a whole number; "
            "for continuous values choose the family regression or similarity"
        )
    return plain


def as_scores(scores: pd.Series, place: str) -> pd.Series:
    """Scores as numbers, with decimal points or commas. Raises InputError if one is not a number."""
    numbers = as_numbers(scores)
    wrong = scores[~numbers.abs().lt(float("inf"))]
    if len(wrong):
        raise TaskError(f"column score of {place} holds {wrong.iloc[0]!r}, which is not a finite number, in {len(wrong)} rows")
    return numbers


def _plain_numbers(values: pd.Series) -> pd.Series:
    """Text without surrounding spaces and, for whole numbers, without decimals."""
    return values.str.strip().str.replace(WHOLE, r"\1", regex=True)
