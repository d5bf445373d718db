"""Match the columns of a table to those of a task: as specified by the task, or else by name, or else by content.

A text column contains words and rarely repeats a value, a label column repeats a few values, and a score column contains
numbers that vary. Row numbers and unique codes do not qualify. If several columns qualify, one with a common name ("body",
"stars") is chosen, or else a text column whose values are much longer than the others; otherwise, the user has to choose.

A column is a sequence of strings, with None for missing values. This module imports neither torch nor pyarrow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, permutations
from math import isfinite
from operator import attrgetter
from statistics import median

from offcomp.errors import TaskError, shortly
from offcomp.planning.data.tasks import ONE, PAIR, Task

SPLIT = "split"
SAMPLED_ROWS = 2000  # rows, sampled evenly from the table
ALIASES = {"text": ("sentence",), "label": ("labels",), "score": ("similarity",)}
COMMON_NAMES = {
    "text": ("body", "review", "comment", "content", "message", "tweet", "post", "document", "utterance", "description"),
    "label": ("class", "category", "sentiment", "target", "stars", "rating", "verdict", "topic", "intent", "emotion", "gold"),
    "score": ("label", "labels", "rating", "stars", "target", "gold", "relevance", "similarity_score", "value"),
}
"""Column of a task -> column names that are preferred if several columns have the same kind of content."""
PAIRS = (
    ("premise", "hypothesis"),
    ("question", "answer"),
    ("question", "sentence"),
    ("query", "passage"),
    ("query", "document"),
)
FEW_WORDS = 5  # per value; a column with at least this many words is text, even if its values repeat
LONGER = 3  # a column with this many times the words of any other is the text; the others may be titles
ROWS_A_CLASS = 8
NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff]")  # scripts without spaces
PLAIN_WORD = re.compile(r"\W*[^\W\d_]+(?:['’.-][^\W\d_]+)*\W*")
DECIMAL_COMMA = re.compile(r"^(-?\d+),(\d+)$")
MAX_RATINGS = 100  # with more rows than this, whole numbers that never repeat are codes
WHOLE = re.compile(r"^(-?\d+)\.0+$")


@dataclass(frozen=True)
class Content:
    """What a column contains.

    filled, distinct    number of non-empty values, and number of distinct values
    words               median number of tokens per value, counting only tokens that contain a letter
    plain               fraction of values that are a single word without digits or symbols, or several words
    numbers             whether every value is a finite number; `whole`: whether every value is a whole number
    row_numbers         whether the values are whole numbers that never repeat and only identify rows
    """

    filled: int
    distinct: int
    words: float
    plain: float
    numbers: bool
    whole: bool
    row_numbers: bool

    @property
    def repeats(self) -> bool:
        """Whether the column consists of a few distinct values that repeat."""
        few = self.distinct <= max(3, self.filled // ROWS_A_CLASS)
        return few and self.distinct >= 2 and self.filled >= 2 * self.distinct

    @property
    def is_text(self) -> bool:
        """Whether the column contains sentences, or at least several words per value."""
        return self.distinct >= 2 and (self.words >= FEW_WORDS or (self.words >= 2 and not self.repeats))

    @property
    def is_word(self) -> bool:
        """Whether the column contains single words that rarely repeat, which can serve as text if no other column does."""
        return self.distinct >= 2 and self.words >= 1 and self.plain >= 0.5 and not self.repeats

    @property
    def is_label(self) -> bool:
        """Whether the column contains class names or class numbers."""
        return self.repeats and self.words < FEW_WORDS and (self.whole or not self.numbers)

    @property
    def is_score(self) -> bool:
        """Whether the column contains numbers that vary and are not row numbers."""
        return self.numbers and self.distinct >= 2 and not self.row_numbers


class LazyContents(Mapping[str, Content]):
    """The contents of a table's columns, each examined on first access."""

    def __init__(self, names: Sequence[str], values: Callable[[str], Sequence[str | None]]):
        self._names = dict.fromkeys(names)
        self._content = cache(lambda name: content_of(values(name)))

    def __getitem__(self, name: str) -> Content:
        if name not in self._names:
            raise KeyError(name)
        return self._content(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def content_of(values: Sequence[str | None]) -> Content:
    """Determine what a column contains from evenly spaced rows."""
    step = max(1, len(values) // SAMPLED_ROWS)
    shown = [text for value in values[::step] if value is not None and (text := value.strip())]
    numbers = [_number(text) for text in shown]
    given = [number for number in numbers if number is not None]
    all_numbers = bool(shown) and len(given) == len(shown)
    whole = all_numbers and all(number % 1 == 0 for number in given)
    distinct = len(set(shown))
    return Content(
        filled=len(shown),
        distinct=distinct,
        words=median([_words(text) for text in shown]) if shown else 0,
        plain=sum(bool(PLAIN_WORD.fullmatch(text)) or " " in text for text in shown) / max(1, len(shown)),
        numbers=all_numbers,
        whole=whole,
        row_numbers=whole and distinct == len(shown) and _are_row_numbers(given),
    )


def _number(text: str) -> float | None:
    """Parse a finite number with a decimal point or comma; return None if the text is not such a number."""
    try:
        number = float(DECIMAL_COMMA.sub(r"\1.\2", text))
    except ValueError:
        return None
    return number if isfinite(number) else None


def _words(text: str) -> int:
    """Count the tokens that contain a letter; in scripts without spaces, every two characters count as one word."""
    unspaced = len(NO_SPACES.findall(text))
    return unspaced // 2 if unspaced > 1 else sum(any(sign.isalpha() for sign in token) for token in text.split())


def _are_row_numbers(numbers: Sequence[float]) -> bool:
    """Whether distinct whole numbers are sorted, consecutive, or too numerous to be ratings."""
    steps = [after > before for before, after in pairwise(numbers)]
    return len(set(steps)) < 2 or max(numbers) - min(numbers) < len(numbers) or len(numbers) > MAX_RATINGS


def chosen_columns(task: Task, contents: Mapping[str, Content], table: str) -> dict[str, str]:
    """Map each column of the task to a column of the table. Raises TaskError if a column is missing or ambiguous.

    contents    what each column of the table contains; examined only if the column names are not enough to decide
    table       the table's name in error messages
    """
    family, available = task.kind, list(contents)
    known = family.columns
    for column, meant in task.columns.items():
        if column not in known:
            raise TaskError(
                f"task {task.name!r} maps {column!r}, but the columns of a {family.name} task are {', '.join(known)}"
            )
        if meant not in contents:
            raise TaskError(f"task {task.name!r} reads {column!r} from {meant!r}, but {table} has {shortly(available)}")
    assigned = {column: named for column in known if (named := task.columns.get(column) or _column_named(column, available))}
    mapped = {column for column in task.columns if column != family.target}
    possible = [inputs for inputs in family.inputs if mapped <= {*inputs}]
    complete = [inputs for inputs in possible if all(column in assigned for column in inputs)]
    missing_message = _missing_message(task, available, table)
    if len(complete) > 1 or not possible:
        raise TaskError(missing_message)
    chooser = _ColumnChooser(task, contents, table, missing_message)
    inputs = {column: assigned[column] for column in complete[0]} if complete else chooser.inputs(possible, assigned)
    targets = {column: assigned.get(column) or chooser.target(column, [*inputs.values()]) for column in family.targets}
    return inputs | targets


def _column_named(column: str, available: Sequence[str]) -> str | None:
    """The column with this name, or else the only column that matches the name or one of its aliases, ignoring case."""
    if column in available:
        return column
    names = (column, *ALIASES.get(column, ()))
    alike = [name for name in available if name.strip().lower() in names]
    return alike[0] if len(alike) == 1 else None


def _missing_message(task: Task, available: Sequence[str], table: str) -> str:
    """The error message for columns that cannot be assigned."""
    family = task.kind
    if len(available) == 1 and re.search(r"\w[^\w\s'’.,()-]\w", available[0]):
        return f"{table} has only one column, {available[0]!r}; separate its cells with a comma, a semicolon, a tab or |"
    wanted = " or ".join(" and ".join((*inputs, *family.targets)) for inputs in family.inputs)
    return (
        f"task {task.name!r} needs the columns {wanted}, but {table} has {shortly(available)}; specify which ones to use: "
        f'--column {family.inputs[0][0]}={available[0]}, or in a plan "columns": {{"{family.inputs[0][0]}": "{available[0]}"}}'
    )


@dataclass(frozen=True)
class _ColumnChooser:
    """Choose columns by their contents.

    contents            what each column contains
    missing_message     the error message if no column qualifies
    """

    task: Task
    contents: Mapping[str, Content]
    table: str
    missing_message: str

    def inputs(self, possible: Sequence[tuple[str, ...]], assigned: Mapping[str, str]) -> dict[str, str]:
        """The text column, or the pair of text columns. Raises TaskError."""
        free = self._free(assigned.values())
        texts = [name for name in free if free[name].is_text] or [name for name in free if free[name].is_word]
        begun = next((inputs for inputs in possible if len(inputs) > 1 and any(column in assigned for column in inputs)), None)
        if begun:
            return {column: assigned.get(column) or self._best("text", texts, column) for column in begun}
        pair = _named_pair(texts) if PAIR in possible else None
        if pair is None and ONE not in possible and len(texts) == 2:
            pair = (texts[0], texts[1])
        if pair:
            return dict(zip(PAIR, pair, strict=True))
        if ONE in possible:
            return {"text": self._best("text", texts)}
        raise TaskError(self._ambiguous_message(PAIR[0], texts) if len(texts) > 2 else self.missing_message)

    def target(self, column: str, taken: Collection[str]) -> str:
        """The label or score column. Raises TaskError."""
        fits = attrgetter("is_label" if column == "label" else "is_score")
        return self._best(column, [name for name, content in self._free(taken).items() if fits(content)])

    def _free(self, taken: Collection[str]) -> dict[str, Content]:
        """The columns that are still available, excluding `split`, which assigns rows to splits."""
        return {name: self.contents[name] for name in self.contents if name not in taken and name.strip().lower() != SPLIT}

    def _best(self, kind: str, names: Sequence[str], column: str = "") -> str:
        """Choose the column that best fits this kind of content. Raises TaskError if the choice is ambiguous."""
        if not names:
            raise TaskError(self.missing_message)
        for known in ((kind, *ALIASES[kind]), COMMON_NAMES[kind]):
            usual = [name for name in names if name.strip().lower() in known]
            if len(usual) == 1:
                return usual[0]
        longest, *others = sorted(names, key=lambda name: -self.contents[name].words)
        words = self.contents[longest].words
        if not others or FEW_WORDS <= words >= LONGER * self.contents[others[0]].words:
            return longest
        raise TaskError(self._ambiguous_message(column or kind, names))

    def _ambiguous_message(self, column: str, names: Sequence[str]) -> str:
        """The error message if several columns of the table qualify."""
        return (
            f"task {self.task.name!r} could read {column} from several columns of {self.table} ({shortly(names)}); "
            f'specify which one to use: --column {column}={names[0]}, or in a plan "columns": {{"{column}": "{names[0]}"}}'
        )


def _named_pair(texts: Sequence[str]) -> tuple[str, str] | None:
    """The only two columns whose names form a pair; None unless there is exactly one such pair."""
    pairs = [pair for pair in permutations(texts, 2) if _are_pair(*(name.strip().lower() for name in pair))]
    return pairs[0] if len(pairs) == 1 else None


def _are_pair(first: str, second: str) -> bool:
    """Whether two names are a known pair, or differ only in their last character: 1 and 2, or a and b."""
    return (first, second) in PAIRS or (first[:-1] == second[:-1] and first[-1:] + second[-1:] in ("12", "ab"))


def class_counts(labels: Iterable[str | None]) -> dict[str, int]:
    """Count the occurrences of each class, in class order; 1, 1.0 and "1" are the same class."""
    counts = Counter(plain for label in labels if label is not None and (plain := WHOLE.sub(r"\1", label.strip())))
    return {name: counts[name] for name in sorted_classes(counts)}


def sorted_classes(names: Iterable[str]) -> list[str]:
    """Sort class names: numerically if all of them are whole numbers, otherwise alphabetically."""
    try:
        return sorted(names, key=int)
    except ValueError:
        return sorted(names)
