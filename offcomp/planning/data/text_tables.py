"""Read user-supplied tables and text files: .csv, .tsv, .jsonl, .parquet, and .txt with one text per line. No torch.

The delimiter of a .csv (comma, semicolon, tab or |) is detected, and its cells may be quoted as in RFC 4180; a .tsv normally
has no quoting. The cells of both formats are kept as text: NA, null and None are ordinary words, and only empty cells are
missing values. Text is decoded as UTF-8, or as UTF-16 or UTF-32 if it starts with a byte order mark. Any other text is decoded
as Windows-1252, and a note says so. Rows read and left out are counted, and any adjustments made while reading are noted.

    >>> parse("mine.csv", b"text;label\\nfine;1\\n").table.column_names
    ['text', 'label']
"""

from __future__ import annotations

import codecs
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offcomp.errors import InputError, first_line
from offcomp.planning.data.delimited_text import LINE_END, Rows, parse_csv, parse_tsv
from offcomp.planning.data.parquet_tables import read_parquet
from offcomp.planning.data.table_limits import check_cells, check_columns, line_ends

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger("offcomp")

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
TEXT_SUFFIXES = (".txt", *TABLE_SUFFIXES)
LARGEST_FILE = 2**30  # bytes
MAX_REASON_LENGTH = 300  # characters
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the UTF-16 mark, so it is tested first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
RAGGED = "with too few or too many cells"
DECIMAL_COMMA = r"[-+]?\d*(?:,\d+)?"
THOUSANDS = r"[-+]?[1-9]\d{0,2},\d{3}"


@dataclass(frozen=True)
class TextTable:
    """A parsed table.

    table       every column of a .csv, .tsv or .txt is large_string, with "" for empty cells
    rows_read   number of rows in the file, excluding the header
    left_out    reason -> number of rows that are not in `table`; with the rows in `table`, they add up to `rows_read`
    notes       adjustments made while reading the file, one clause each
    """

    table: pa.Table
    rows_read: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_table(path: Path, suffixes: Sequence[str] = TABLE_SUFFIXES) -> TextTable:
    """Read the table in a file with one of these suffixes. Raises InputError."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path} is not in a supported table format; supported extensions: {', '.join(suffixes)}")
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise InputError(f"{path} is {size / 2**20:.0f} MiB; use a subset of at most {LARGEST_FILE // 2**20} MiB")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason(error)}") from None
    return parse(str(path), content)


def parse(name: str, content: bytes) -> TextTable:
    """Parse the table in a file with this name and content. Raises InputError."""
    import pyarrow as pa

    suffix = Path(name).suffix.lower()
    try:
        table = _parquet(content) if suffix == ".parquet" else _text_table(content, suffix)
    except (OSError, ValueError, InputError, pa.ArrowException, OverflowError, RecursionError) as error:
        raise InputError(f"{name} cannot be read as a {suffix} table: {reason(error)}") from None
    if not table.rows_read:
        raise InputError(f"{name} has no rows; a table needs a header and at least one row")
    for note in table.notes:
        _warn(name, note)
    return table


@lru_cache(maxsize=1024)
def _warn(name: str, note: str) -> None:
    """Log a note only once, even if the file is read again."""
    log.warning("%s: %s", name, note)


def class_names(table: pa.Table) -> dict[str, list[str]]:
    """Column -> class names, if the table's metadata specifies them, as in tables saved by `datasets`."""
    try:
        metadata = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        features = metadata.get("info", {}).get("features", {})
        return {column: list(map(str, kind["names"])) for column, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, AttributeError, KeyError, TypeError):
        return {}  # not written by `datasets` after all


def column_text(table: pa.Table, column: str, name: str) -> pd.Series:
    """A column as text, with NaN for missing values. Error messages refer to the table as `name`.

    Raises InputError if several columns have this name, or if the column contains neither text nor numbers.
    """
    import pyarrow as pa

    if table.column_names.count(column) > 1:
        raise InputError(f"{name} has {table.column_names.count(column)} columns named {column!r}; column names must be unique")
    try:
        return as_text(table[column]).to_pandas().astype("str")
    except (pa.ArrowException, UnicodeError) as error:
        raise InputError(f"column {column!r} of {name} contains neither text nor numbers: {reason(error)}") from None


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cast text or numbers to large_string, with null for missing values. Raises ArrowException for other types of values."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_floating(column.type):
        column = compute.if_else(compute.is_nan(column), None, column)
    return column.cast(pa.large_string())


def text_values(column: pa.ChunkedArray) -> list[str | None]:
    """The values of a column as text, with None for missing values; empty if the column contains neither text nor numbers."""
    import pyarrow as pa

    try:
        return list(as_text(column).to_pylist())
    except (pa.ArrowException, UnicodeError):
        return []


def as_numbers(values: pd.Series) -> pd.Series:
    """Parse text as float64, with NaN for non-numeric values; 1,5 means 1.5 if the column uses decimal commas throughout.

    Raises InputError if every comma could also be a thousands separator.
    """
    import pandas as pd

    plain = values.str.strip()
    with_comma = plain[plain.str.contains(",", regex=False)]
    if len(with_comma) and plain.str.fullmatch(DECIMAL_COMMA).all():
        if with_comma.str.fullmatch(THOUSANDS).all():
            raise InputError(
                f"the comma in {with_comma.iloc[0]!r} could be a decimal or a thousands separator; "
                "use a decimal point, or remove the comma"
            )
        plain = plain.str.replace(",", ".", regex=False)
    return pd.to_numeric(plain, errors="coerce").astype("float64")


def reason(error: Exception) -> str:
    """The first line of an error message, truncated if it is long."""
    return first_line(error)[:MAX_REASON_LENGTH].rstrip(".")


def _tsv(text: str) -> TextTable:
    rows = parse_tsv(text)
    return _table_of_rows(rows, "quotation marks are interpreted as in a .csv") if rows.quoting else _table_of_rows(rows)


def _table_of_rows(rows: Rows, *notes: str) -> TextTable:
    columns = list(zip(*rows.cells, strict=True)) or [()] * len(rows.heading)
    if rows.unclosed:
        which = ("row" if len(rows.unclosed) == 1 else f"{len(rows.unclosed)} rows, starting with row") + f" {rows.unclosed[0]}"
        notes = (*notes, f"an unclosed quotation mark is treated as an ordinary character in {which}")
    left_out = {RAGGED: len(rows.ragged)} if rows.ragged else {}
    return TextTable(_table(rows.heading, columns), rows.num_read, left_out, notes)


def _lines(text: str) -> TextTable:
    check_cells(line_ends(text))
    lines = LINE_END.split(text)
    if not lines[-1]:
        lines.pop()  # the text ends with a line break
    return TextTable(_table(["text"], [lines]), len(lines))


def _lines_of_json(text: str) -> TextTable:
    import pyarrow as pa

    check_cells(sum(map(text.count, "{[\n")))
    objects = [_object(line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    columns = []
    names = list(dict.fromkeys(name for row in objects for name in row))
    check_columns(len(names))
    check_cells(len(objects) * len(names))
    for name in names:
        try:
            columns.append(pa.array([row.get(name) for row in objects], from_pandas=True))
        except (pa.ArrowException, OverflowError, UnicodeError) as error:
            raise InputError(f"column {name!r} contains values of different types: {reason(error)}") from None
    return TextTable(pa.table(columns, _names(names)), len(objects))


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"line {number} is not valid JSON: {reason(error)}") from None
    if not isinstance(value, dict):
        raise InputError(f'line {number} is not a JSON object; write one per line, such as {{"text": "fine", "label": 1}}')
    return value


def _parquet(content: bytes) -> TextTable:
    table, left_out = read_parquet(content)
    notes = (f"columns that contain lists or objects are ignored: {', '.join(_names(left_out))}",) if left_out else ()
    named = table.rename_columns(_names(table.column_names)).replace_schema_metadata(table.schema.metadata)
    return TextTable(named, table.num_rows, notes=notes)


def _table(names: Sequence[str], columns: Sequence[Sequence[str]]) -> pa.Table:
    """A table of text columns."""
    import pyarrow as pa

    return pa.table([pa.array(column, pa.large_string()) for column in columns], _names(names))


def _names(names: Sequence[str]) -> list[str]:
    """Column names without line breaks."""
    return [" ".join(name.split()) for name in names]


def _text_table(content: bytes, suffix: str) -> TextTable:
    text, notes = _decoded(content)
    table = TEXT_READERS[suffix](text)
    return replace(table, notes=(*notes, *table.notes))


def _decoded(content: bytes) -> tuple[str, tuple[str, ...]]:
    """Decode the content and return the text with any notes. Raises InputError or UnicodeError."""
    notes: tuple[str, ...] = ()
    encoding = next((encoding for mark, encoding in BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    if encoding.startswith("utf-8") and b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise InputError(f"it contains null bytes, the first on line {line}; save it as UTF-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            name = encoding.removesuffix("-sig").upper()
            raise InputError(f"it has a {name} byte order mark but contains invalid bytes; save it as UTF-8") from None
        text, notes = _decoded_as_windows_1252(content, error), ("it is not UTF-8, so it is read as Windows-1252",)
    if "\0" in text:
        raise InputError("it contains null characters; save it as UTF-8")
    return text.lstrip("\ufeff"), notes


def _decoded_as_windows_1252(content: bytes, error: UnicodeDecodeError) -> str:
    """Decode content that is not UTF-8 as Windows-1252. Raises InputError for damaged UTF-8 and for any other encoding."""
    line = content.count(b"\n", 0, error.start) + 1
    if error.end == len(content) and error.reason == "unexpected end of data":
        raise InputError("it ends in the middle of a character, so it is truncated or not UTF-8; save it again as UTF-8")
    lenient = content.decode("utf-8", errors="replace")
    damaged = lenient.count("\ufffd") - content.count("\ufffd".encode())
    if len(re.findall(r"[^\x00-\x7f]", lenient)) > 2 * damaged:
        raise InputError(f"line {line} contains a damaged character, but the rest of the file is UTF-8; fix that line")
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        raise InputError(f"line {line} is neither UTF-8 nor Windows-1252; save the file as UTF-8") from None


TEXT_READERS: dict[str, Callable[[str], TextTable]] = {
    ".txt": _lines,
    ".csv": lambda text: _table_of_rows(parse_csv(text)),
    ".tsv": _tsv,
    ".jsonl": _lines_of_json,
}
"""Suffix of a text file -> function that parses its text."""
