"""Parse delimiter-separated rows, with or without quoting as in RFC 4180. Standard library only.

No row is dropped silently. RFC 4180 requires a closing quotation mark to be followed by a delimiter or a line break. An opening
quotation mark that is not closed in this way is treated as an ordinary character if its line is a complete row; otherwise, an
error that names the row is raised. The same applies to a mark that is closed so late that its cell would swallow complete rows.
Rows with more or fewer cells than the header are left out and counted; too many of them raise an error that names the first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from offcomp.errors import InputError
from offcomp.planning.data.table_limits import check_cells, check_columns, line_ends

DELIMITERS = (",", ";", "\t", "|")
MARK = '"'
SAMPLE = 2**16  # characters used to detect the delimiter
MAX_RAGGED = 0.1  # fraction of the rows
MAX_CLASSES = 50  # a column with more distinct values than this is not treated as categorical
MAX_SHAPES = 5  # maximum number of distinct patterns in a column of identifiers, ignoring digits
LINE_END = re.compile(r"\r\n|\n|\r")
NUMBER = re.compile(r"\s*[-+]?[\d.,]+(?:[eE][-+]?\d+)?\s*")
CLOSED_WRONGLY = (
    "has an opening quotation mark that is not closed before the next {}; double the quotation marks within a cell, "
    "or remove any that do not enclose a cell"
)


@dataclass
class Rows:
    """The parsed rows.

    quoting     whether cells may be quoted
    cells       the cells of each row, one per column of the header
    unclosed    1-based numbers of the rows in which a quotation mark is treated as an ordinary character
    ragged      1-based numbers of the rows that are left out because they have too few or too many cells
    """

    heading: list[str]
    delimiter: str
    quoting: bool
    cells: list[list[str]] = field(default_factory=list)
    unclosed: list[int] = field(default_factory=list)
    ragged: list[int] = field(default_factory=list)

    @property
    def num_read(self) -> int:
        """Number of rows in the text, excluding the header."""
        return len(self.cells) + len(self.ragged)


class Record(NamedTuple):
    """The text between two unquoted line breaks; `line` is the 1-based number of its first line.

    quoted      whether any cell is quoted
    closed      whether quotes are closed as RFC 4180 requires
    """

    cells: list[str]
    line: int
    text: str
    quoted: bool = False
    closed: bool = True

    @property
    def is_blank(self) -> bool:
        """Whether the record is a single line that is empty or contains only whitespace."""
        return len(self.cells) == 1 and not self.text.strip()

    @property
    def lines(self) -> list[str]:
        """The lines of the record; more than one if a quoted cell contains line breaks."""
        return LINE_END.split(self.text) if self.quoted else [self.text]


def parse_csv(text: str) -> Rows:
    """Parse a .csv file: the delimiter is detected, and cells may be quoted. Raises InputError."""
    named = re.match(r"sep=(.)(?:\r\n|\n|\r)", text)  # written by Excel
    if named:
        return _rows(text[named.end() :], named[1], quoting=True)
    return _rows(text, _delimiter(text), quoting=True)


def parse_tsv(text: str) -> Rows:
    """Parse a .tsv file. Quotation marks are ordinary characters unless the file is clearly quoted. Raises InputError."""
    start = LINE_END.split(text.lstrip("\r\n"), maxsplit=1)[0].split("\t")
    if all(len(name) > 1 and name[0] == name[-1] == MARK for name in start):
        return _rows(text, "\t", quoting=True)
    try:
        rows = _rows(text, "\t", quoting=False)
    except InputError:
        if quoted := _quoted_throughout(text):
            return quoted
        raise
    may_be_quoted = rows.ragged or MARK * 2 in text
    return (_quoted_throughout(text) if may_be_quoted else None) or rows


def _quoted_throughout(text: str) -> Rows | None:
    """Parse tab-separated text with quoting; return None if any row is malformed."""
    try:
        rows = _rows(text, "\t", quoting=True)
    except InputError:
        return None
    return None if rows.ragged or rows.unclosed else rows


def _delimiter(text: str) -> str:
    """The delimiter for which the largest number of rows match the header's width; empty if no delimiter splits the header."""
    sample = text if len(text) <= SAMPLE else text[: max(text.rfind("\n", 0, SAMPLE), text.rfind("\r", 0, SAMPLE)) + 1]
    fits: dict[str, tuple[float, int]] = {}
    for delimiter in DELIMITERS:
        records = list(_records(sample or text[:SAMPLE], delimiter, quoting=True))
        width = len(records[0].cells) if records else 1
        if width > 1:
            even = sum(len(_trimmed(record.cells, width)) == width for record in records) / len(records)
            fits[delimiter] = even, width
    return max(fits, key=fits.__getitem__, default="")


def _rows(text: str, delimiter: str, *, quoting: bool) -> Rows:
    check_cells(line_ends(text) + (text.count(delimiter) if delimiter else 0))
    records = _records(text, delimiter, quoting)
    first = next(records, None)
    if first is None:
        raise InputError("it is empty")
    width = len(first.cells)
    check_columns(width)
    body = list(records)
    rows = Rows(first.cells, delimiter, quoting)
    splitter = _Splitter(body, width, delimiter)
    for record in body:
        if width > 1 and record.is_blank:
            continue
        for part in splitter.parts(record, rows.num_read + 1):
            cells = _trimmed(part.cells, width)
            if len(cells) != width and not part.closed:
                raise InputError(_location(rows.num_read + 1, part.line) + CLOSED_WRONGLY.format(_named(delimiter)))
            if len(cells) != width:
                rows.ragged.append(rows.num_read + 1)
                continue
            rows.cells.append(cells)
            if not part.closed:
                rows.unclosed.append(rows.num_read)
    _check_even(rows, body)
    return rows


def _check_even(rows: Rows, records: Sequence[Record]) -> None:
    """Raise InputError if too many rows have more or fewer cells than the header."""
    width = len(rows.heading)
    if len(rows.ragged) <= MAX_RAGGED * rows.num_read:
        return
    odd = next(record for record in records if not record.is_blank and len(_trimmed(record.cells, width)) != width)
    raise InputError(
        f"{_location(rows.ragged[0], odd.line)}has {len(odd.cells)} cells but the header has {width}; {len(rows.ragged)} of "
        f"{rows.num_read} rows do not match. The assumed delimiter is {_named(rows.delimiter)}; quote cells that contain it"
    )


def _location(row: int, line: int) -> str:
    return f"row {row} (line {line}) "


def _named(delimiter: str) -> str:
    return {"\t": "tab", "": "line end"}.get(delimiter, repr(delimiter))


def _trimmed(cells: list[str], width: int) -> list[str]:
    """Drop the empty cells that spreadsheets add after the last column."""
    while len(cells) > width and not cells[-1]:
        cells = cells[:-1]
    return cells


class _Splitter:
    """Tells multi-line cells from rows swallowed by a stray quotation mark, by comparing their lines with other rows."""

    def __init__(self, records: Sequence[Record], width: int, delimiter: str):
        self.width, self.delimiter = width, delimiter
        single = [record for record in records if len(record.lines) == 1]
        fitting = [record.cells for record in single if len(record.cells) == width]
        has_multiline = len(single) < len(records)
        self.num_quoted = sum(record.quoted for record in records)
        self.tests = [_value_test([cells[index] for cells in fitting]) for index in range(width)] if has_multiline else []

    def parts(self, record: Record, row: int) -> list[Record]:
        """The rows in a record, normally just one. Raises InputError if it spans several rows and one is malformed."""
        lines = record.lines
        fits = len(_trimmed(record.cells, self.width)) == self.width
        if len(lines) == 1 or (fits and not self._swallows(lines, _location(row, record.line))):
            return [record]
        parts = []
        for number, line in enumerate(lines):
            cells = _split(line, self.delimiter)
            if len(_trimmed(cells, self.width)) != self.width:
                raise InputError(_location(row, record.line) + CLOSED_WRONGLY.format("row"))
            parts.append(Record(cells, record.line + number, line, closed=MARK not in line))
        return parts

    def _swallows(self, lines: Sequence[str], location: str) -> bool:
        """Whether the lines of a record are separate rows. Raises InputError if this cannot be determined."""
        inner = lines[1:-1] or lines
        split = [_split(line, self.delimiter) for line in inner]
        if any(self.tests):
            are_rows = [self._is_row(cells) for cells in split]
            return all(are_rows) if inner is lines else any(are_rows)
        if all(len(cells) == self.width for cells in split) and self.num_quoted == 1:
            raise InputError(
                f"{location}has an opening quotation mark that is closed {len(lines) - 1} lines later, so these lines may be "
                "separate rows; remove the marks, or use .jsonl or .parquet for multi-line text"
            )
        return False

    def _is_row(self, cells: Sequence[str]) -> bool:
        """Whether the cells resemble other values in their columns; the first free-text column may contain the delimiter."""
        if len(cells) < self.width or (len(cells) > self.width and all(self.tests)):
            return False
        free = next((index for index, test in enumerate(self.tests) if test is None), 0)
        return all(test(cells[index if index < free else index - self.width]) for index, test in enumerate(self.tests) if test)


def _value_test(values: Sequence[str]) -> Callable[[str], bool] | None:
    """A predicate that recognises the values of a column; None if the column is free text or has too few values."""
    distinct = {value.strip() for value in values}
    if len(values) < 2 or not distinct - {""}:
        return None
    if len(distinct) <= min(MAX_CLASSES, len(values) // 2):
        return lambda value: value.strip() in distinct
    if all(NUMBER.fullmatch(value) for value in distinct if value):
        return lambda value: NUMBER.fullmatch(value) is not None
    shapes = {_digit_pattern(value) for value in distinct}
    return (lambda value: _digit_pattern(value) in shapes) if len(shapes) <= min(MAX_SHAPES, len(values) // 2) else None


def _digit_pattern(value: str) -> str:
    return re.sub(r"\d+", "0", value.strip())


def _records(text: str, delimiter: str, quoting: bool) -> Iterator[Record]:
    """Yield all records, except for blank ones at the start."""
    position, number, end, started = 0, 1, len(text), False
    while position < end:
        match = LINE_END.search(text, position)
        stop, after = match.span() if match else (end, end)
        line = text[position:stop]
        parsed = _record(text, position, delimiter) if quoting and MARK in line else None
        if parsed is None:
            record = Record(_split(line, delimiter), number, line, closed=not (quoting and MARK in line))
        else:
            cells, stop, quoted = parsed
            record = Record(cells, number, text[position:stop], quoted)
            after = stop + (2 if text.startswith("\r\n", stop) else 1)
        number += len(record.lines)
        position = after
        started = started or not record.is_blank
        if started:
            yield record


def _split(line: str, delimiter: str) -> list[str]:
    return line.split(delimiter) if delimiter else [line]


def _record(text: str, position: int, delimiter: str) -> tuple[list[str], int, bool] | None:
    """The cells of the record at `position`, its end, and whether any cell is quoted; None if a quotation mark is unclosed."""
    cells, quoted = [], False
    plain = re.compile(rf"[^{re.escape(delimiter)}\r\n]*")  # an unquoted cell
    while True:
        if text.startswith(MARK, position):
            close = _closing(text, position + 1)
            if close < 0 or text[close + 1 : close + 2] not in ("", "\r", "\n", delimiter):
                return None
            cells.append(text[position + 1 : close].replace(MARK * 2, MARK))
            position, quoted = close + 1, True
        else:
            match = plain.match(text, position)
            assert match is not None  # noqa: S101  # it also matches the empty string
            cells.append(match.group())
            position = match.end()
        if not delimiter or not text.startswith(delimiter, position):
            return cells, position, quoted
        position += 1


def _closing(text: str, start: int) -> int:
    """Index of the quotation mark that closes a cell, or -1 if the cell is unclosed. Doubled marks are part of the content."""
    index = text.find(MARK, start)
    while index >= 0 and text.startswith(MARK, index + 1):
        index = text.find(MARK, index + 2)
    return index
