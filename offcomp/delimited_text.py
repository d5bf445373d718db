"""Rows of text whose cells end at a delimiter, with or without quoting as in RFC 4180. Standard library only.

A row is never lost unsaid. A quotation mark that opens a cell and is not closed as RFC 4180 has it (the closing mark stands
before a delimiter or a line end) is a character where its line alone makes a row, else it is refused by its row. So is a mark
that is closed too late: the cell then holds lines that are rows themselves. Rows without as many cells as the heading are
left out and counted; where they are many, the first is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from offcomp.errors import InputError
from offcomp.table_limits import check_cells, check_columns, line_ends

DELIMITERS = (",", ";", "\t", "|")
MARK = '"'
SAMPLE = 2**16  # characters that the delimiter is found in
MOST_RAGGED = 0.1  # of the rows
MOST_CLASSES = 50  # values of a column that is known by its values
MOST_SHAPES = 5  # of the values of a column of identifiers, digits aside
LINE_END = re.compile(r"\r\n|\n|\r")
NUMBER = re.compile(r"\s*[-+]?[\d.,]+(?:[eE][-+]?\d+)?\s*")
CLOSED_WRONGLY = (
    "has a quotation mark that opens a cell and is not closed before the next {}; double the marks within a cell, "
    "or take out those that do not quote"
)


@dataclass
class Rows:
    """Rows as they were found.

    cells       of each row, as many as the heading has
    stray       numbers of the rows, from 1, in which a quotation mark is read as a character
    ragged      numbers of the rows that are left out, for they have too few or too many cells
    """

    heading: list[str]
    delimiter: str
    cells: list[list[str]] = field(default_factory=list)
    stray: list[int] = field(default_factory=list)
    ragged: list[int] = field(default_factory=list)

    @property
    def num_read(self) -> int:
        """Rows of the text, the heading not among them."""
        return len(self.cells) + len(self.ragged)


class Record(NamedTuple):
    """What stands between two line ends outside quotes, from a line (the first is 1): quoted, closed as RFC 4180 has it."""

    cells: list[str]
    line: int
    text: str
    quoted: bool = False
    closed: bool = True

    @property
    def is_blank(self) -> bool:
        """Whether it is a line with nothing but spaces."""
        return len(self.cells) == 1 and not self.text.strip()

    @property
    def lines(self) -> list[str]:
        """Its lines, more than one where a quoted cell has line ends."""
        return LINE_END.split(self.text) if self.quoted else [self.text]


def separated(text: str) -> Rows:
    """The rows of a .csv: its delimiter is found, and cells may be quoted. Raises InputError."""
    named = re.match(r"sep=(.)(?:\r\n|\n|\r)", text)  # as Excel writes it
    if named:
        return _rows(text[named.end() :], named[1], quoting=True)
    return _rows(text, _delimiter(text), quoting=True)


def tabbed(text: str) -> tuple[Rows, bool]:
    """The rows of a .tsv, and whether cells are quoted: only where it makes no sense without. Raises InputError."""
    start = LINE_END.split(text.lstrip("\r\n"), maxsplit=1)[0].split("\t")
    if all(len(name) > 1 and name[0] == name[-1] == MARK for name in start):
        return _rows(text, "\t", quoting=True), True
    try:
        rows = _rows(text, "\t", quoting=False)
    except InputError:
        quoted = _quoted_throughout(text)
        if quoted is None:
            raise
        return quoted, True
    quoted = _quoted_throughout(text) if rows.ragged or MARK * 2 in text else None
    return (rows, False) if quoted is None else (quoted, True)


def _quoted_throughout(text: str) -> Rows | None:
    """The rows of a text with tabs if it is without fault where cells may be quoted."""
    try:
        rows = _rows(text, "\t", quoting=True)
    except InputError:
        return None
    return None if rows.ragged or rows.stray else rows


def _delimiter(text: str) -> str:
    """What gives most rows as many cells as the heading; empty where that has one cell."""
    sample = text if len(text) <= SAMPLE else text[: max(text.rfind("\n", 0, SAMPLE), text.rfind("\r", 0, SAMPLE)) + 1]
    best, found = (0.0, 0), ""
    for delimiter in DELIMITERS:
        records = list(_records(sample or text[:SAMPLE], delimiter, quoting=True))
        width = len(records[0].cells) if records else 1
        if width > 1:
            even = sum(len(_trimmed(record.cells, width)) == width for record in records) / len(records)
            best, found = max((best, found), ((even, width), delimiter), key=lambda pair: pair[0])
    return found


def _rows(text: str, delimiter: str, *, quoting: bool) -> Rows:
    check_cells(line_ends(text) + (text.count(delimiter) if delimiter else 0))
    records = _records(text, delimiter, quoting)
    first = next(records, None)
    if first is None:
        raise InputError("it is empty")
    width = len(first.cells)
    check_columns(width)
    others = list(records)
    rows = Rows([" ".join(name.split()) for name in first.cells], delimiter)
    judge = _Judge(others, width, delimiter)
    for record in others:
        if width > 1 and record.is_blank:
            continue
        for part in judge.parts(record, rows.num_read + 1):
            cells = _trimmed(part.cells, width)
            if len(cells) != width and not part.closed:
                raise InputError(_place(rows.num_read + 1, part.line) + CLOSED_WRONGLY.format(_named(delimiter)))
            if len(cells) != width:
                rows.ragged.append(rows.num_read + 1)
                continue
            rows.cells.append(cells)
            if not part.closed:
                rows.stray.append(rows.num_read)
    _check_even(rows, others)
    return rows


def _check_even(rows: Rows, records: Sequence[Record]) -> None:
    """Raises InputError where many rows are not as long as the heading."""
    width = len(rows.heading)
    if len(rows.ragged) <= MOST_RAGGED * rows.num_read:
        return
    odd = next(record for record in records if not record.is_blank and len(_trimmed(record.cells, width)) != width)
    raise InputError(
        f"{_place(rows.ragged[0], odd.line)}has {len(odd.cells)} cells but the heading has {width}, as {len(rows.ragged)} of "
        f"{rows.num_read} rows do not fit; cells are taken to end at {_named(rows.delimiter)}, so quote those that hold it"
    )


def _place(row: int, line: int) -> str:
    return f"row {row} (line {line}) "


def _named(delimiter: str) -> str:
    return {"\t": "tab", "": "line end"}.get(delimiter, repr(delimiter))


def _trimmed(cells: list[str], width: int) -> list[str]:
    """Without empty cells beyond the heading, which spreadsheets add."""
    while len(cells) > width and not cells[-1]:
        cells = cells[:-1]
    return cells


class _Judge:
    """Tells cells of several lines from rows that a quotation mark has swallowed, by what columns hold elsewhere."""

    def __init__(self, records: Sequence[Record], width: int, delimiter: str):
        self.width, self.delimiter = width, delimiter
        several = {id(record) for record in records if record.quoted and LINE_END.search(record.text)}
        self.num_quoted = sum(record.quoted for record in records)
        fitting = [record.cells for record in records if len(record.cells) == width and id(record) not in several]
        self.tests = [_test_of([cells[place] for cells in fitting]) for place in range(width)] if several else []

    def parts(self, record: Record, row: int) -> list[Record]:
        """The rows of a record, normally itself alone. Raises InputError where its lines are to be rows and are not."""
        lines = record.lines
        fits = len(_trimmed(record.cells, self.width)) == self.width
        if len(lines) == 1 or (fits and not self._swallows(lines, _place(row, record.line))):
            return [record]
        parts = []
        for number, line in enumerate(lines):
            cells = _split(line, self.delimiter)
            if len(_trimmed(cells, self.width)) != self.width:
                raise InputError(_place(row, record.line) + CLOSED_WRONGLY.format("row"))
            parts.append(Record(cells, record.line + number, line, closed=MARK not in line))
        return parts

    def _swallows(self, lines: Sequence[str], place: str) -> bool:
        """Whether lines of a record are rows of their own. Raises InputError where nothing tells."""
        inner = lines[1:-1] or lines
        split = [_split(line, self.delimiter) for line in inner]
        if any(self.tests):
            found = [self._is_row(cells) for cells in split]
            return all(found) if inner is lines else any(found)
        if all(len(cells) == self.width for cells in split) and self.num_quoted == 1:
            raise InputError(
                f"{place}opens a quotation mark that is closed {len(lines) - 1} lines later, so that its lines may be rows of "
                "their own; take out the marks, or give texts of several lines as .jsonl or .parquet"
            )
        return False

    def _is_row(self, cells: Sequence[str]) -> bool:
        """Whether cells hold what their columns hold elsewhere; the first column of free text may hold the delimiter."""
        if len(cells) < self.width or (len(cells) > self.width and all(self.tests)):
            return False
        free = next((place for place, test in enumerate(self.tests) if test is None), 0)
        return all(test(cells[place if place < free else place - self.width]) for place, test in enumerate(self.tests) if test)


def _test_of(values: Sequence[str]) -> Callable[[str], bool] | None:
    """What tells a value of a column from a piece of text; None where the column holds free text, or nothing is known."""
    distinct = {value.strip() for value in values}
    if len(values) < 2 or not distinct - {""}:
        return None
    if len(distinct) <= min(MOST_CLASSES, len(values) // 2):
        return lambda value: value.strip() in distinct
    if all(NUMBER.fullmatch(value) for value in distinct if value):
        return lambda value: NUMBER.fullmatch(value) is not None
    shapes = {_shape(value) for value in distinct}
    return (lambda value: _shape(value) in shapes) if len(shapes) <= min(MOST_SHAPES, len(values) // 2) else None


def _shape(value: str) -> str:
    return re.sub(r"\d+", "0", value.strip())


def _records(text: str, delimiter: str, quoting: bool) -> Iterator[Record]:
    """Every record; the first is one with content."""
    position, number, end, started = 0, 1, len(text), False
    while position < end:
        match = LINE_END.search(text, position)
        stop, after = match.span() if match else (end, end)
        line = text[position:stop]
        found = _record(text, position, delimiter) if quoting and MARK in line else None
        if found is None:
            record = Record(_split(line, delimiter), number, line, closed=not (quoting and MARK in line))
        else:
            cells, stop, quoted = found
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
    """Cells of the record that starts here, where it ends, and whether one is quoted; None where a mark is not closed well."""
    cells, quoted = [], False
    plain = _plain(delimiter)
    while True:
        if text.startswith(MARK, position):
            close = _closing(text, position + 1)
            if close < 0 or text[close + 1 : close + 2] not in ("", "\r", "\n", delimiter):
                return None
            cells.append(text[position + 1 : close].replace(MARK * 2, MARK))
            position, quoted = close + 1, True
        else:
            match = plain.match(text, position)
            assert match is not None  # noqa: S101  # it matches nothing as well
            cells.append(match.group())
            position = match.end()
        if not delimiter or not text.startswith(delimiter, position):
            return cells, position, quoted
        position += 1


def _closing(text: str, start: int) -> int:
    """Where the mark is that ends a quoted cell; -1 where there is none. Doubled marks are content."""
    place = text.find(MARK, start)
    while place >= 0 and text.startswith(MARK, place + 1):
        place = text.find(MARK, place + 2)
    return place


@cache
def _plain(delimiter: str) -> re.Pattern[str]:
    """A cell without quotes."""
    return re.compile(rf"[^{re.escape(delimiter)}\r\n]*")
