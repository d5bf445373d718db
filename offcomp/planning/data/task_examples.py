"""Extract a task's examples from tables: select columns, drop incomplete rows and parse the answers. No torch."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from offcomp.errors import TaskError
from offcomp.planning.data.row_counts import EMPTY, NOT_PUBLISHED
from offcomp.planning.data.task_columns import SAMPLED_ROWS, WHOLE, LazyContents, chosen_columns, sorted_classes
from offcomp.planning.data.task_files import Source
from offcomp.planning.data.tasks import Task
from offcomp.planning.data.text_tables import as_numbers, column_text, text_values

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger("offcomp")

NO_ANSWER = "-1"  # marks withheld answers in hub datasets


def contents(table: pa.Table) -> LazyContents:
    """Determine from evenly spaced rows what a table's columns contain; columns without text or numbers count as empty."""
    rows = table.take(list(range(0, table.num_rows, max(1, table.num_rows // SAMPLED_ROWS))))
    return LazyContents(table.column_names, lambda name: text_values(rows[rows.column_names.index(name)]))


def examples_of(
    task: Task, source: Source, table: pa.Table, columns: Mapping[str, str], left_out: Counter[str]
) -> pd.DataFrame:
    """Read the task's columns as text; rows without content or an answer are dropped and counted. Raises InputError."""
    import pandas as pd

    if not {*columns.values()} <= {*table.column_names}:
        columns = chosen_columns(task, contents(table), source.name)  # this split uses different column names
    examples = pd.DataFrame({column: column_text(table, named, source.name) for column, named in columns.items()})
    target = task.kind.target
    if target == "label" and columns[target] in source.class_names:
        numbers = {str(number): name for number, name in enumerate(source.class_names[columns[target]])}
        examples = examples.assign(label=examples["label"].map(numbers | {NO_ANSWER: NO_ANSWER}).astype("str"))
    filled = with_content(examples, source.name)
    left_out[EMPTY] += len(examples) - len(filled)
    examples = published(filled, target)
    left_out[NOT_PUBLISHED] += len(filled) - len(examples)
    if target == "label":
        return examples.assign(label=plain_labels(examples["label"], source.name))
    return examples.assign(score=as_scores(examples["score"], source.name)) if target else examples


def class_names_of(published: Sequence[str], present: Collection[str], *, trains: bool) -> list[str]:
    """Class names published by the source (only those in the data if the task trains), or else those in the data, sorted."""
    return [name for name in published if name in present or not trains] or sorted_classes(present)


def with_content(examples: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows that have a value in every column."""
    blank = examples.apply(lambda column: column.isna() | (column.str.strip() == "")).any(axis=1)
    kept = examples[~blank].reset_index(drop=True)
    if blank.any():
        log.info("%s: %d of %d rows were left out because of empty cells", name, int(blank.sum()), len(blank))
    return kept


def published(examples: pd.DataFrame, target: str) -> pd.DataFrame:
    """The examples, or none of them if every answer is -1, the placeholder for unpublished answers."""
    if target and len(examples) and (_plain_numbers(examples[target]) == NO_ANSWER).all():
        return examples.iloc[:0]
    return examples


def plain_labels(labels: pd.Series, name: str) -> pd.Series:
    """Convert labels to class names: 1, 1.0 and "1" become the same name. Raises TaskError if the values are continuous."""
    import pandas as pd

    plain = _plain_numbers(labels)
    values = plain.drop_duplicates()
    numbers = pd.to_numeric(values, errors="coerce")
    fractions = values[numbers % 1 != 0]
    if numbers.notna().all() and len(fractions):
        raise TaskError(
            f"the column label of {name} contains {fractions.iloc[0]}, but a class must be a name or a whole number; "
            "for continuous values, set the family to regression or similarity"
        )
    return plain


def as_scores(scores: pd.Series, name: str) -> pd.Series:
    """Parse scores with decimal points or decimal commas. Raises InputError if a score is not a finite number."""
    numbers = as_numbers(scores)
    wrong = scores[~numbers.abs().lt(float("inf"))]
    if len(wrong):
        example = f"such as {wrong.iloc[0]!r} (rows affected: {len(wrong)})"
        raise TaskError(f"the 'score' column of {name} has values that are not finite numbers, {example}")
    return numbers


def _plain_numbers(values: pd.Series) -> pd.Series:
    """Strip surrounding whitespace, and the decimals of whole numbers: "1.0" becomes "1"."""
    return values.str.strip().str.replace(WHOLE, r"\1", regex=True)
