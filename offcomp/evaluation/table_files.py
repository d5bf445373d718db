"""Tables in files of the user: .csv and .tsv (every value stays text), .jsonl and .parquet."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from datasets import ClassLabel, Features

from offcomp.errors import TaskError

log = logging.getLogger("offcomp")

BLOCK = 2**24  # bytes read at once; no row may be longer
LARGEST_FILE = 2**30  # bytes
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_table(path: Path) -> pa.Table:
    """The table in a file. Raises TaskError."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise TaskError(f"{path} is no table that can be read; give a file that ends in {', '.join(READERS)}")
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise TaskError(f"{path} has {size / 2**20:.0f} MiB, more than {LARGEST_FILE // 2**20}; give a part of it")
        table = reader(path)
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise TaskError(f"{path} cannot be read as a {path.suffix} table: {reason(error)}") from None
    if not table.num_rows:
        raise TaskError(f"{path} has no rows; give a table with at least a row of names and some examples")
    return table


def class_names(table: pa.Table) -> dict[str, list[str]]:
    """Column -> names of its classes, where the table says what the numbers in it mean, as one saved by `datasets` does."""
    if b"huggingface" not in (table.schema.metadata or {}):
        return {}
    return names_in(Features.from_arrow_schema(table.schema))


def names_in(features: Mapping[str, object]) -> dict[str, list[str]]:
    """Column -> names of its classes, of the columns that hold classes."""
    return {column: list(kind.names) for column, kind in features.items() if isinstance(kind, ClassLabel)}


def reason(error: Exception) -> str:
    """The first line of what an error says, shortened."""
    said = str(error).strip().splitlines() or [type(error).__name__]
    return said[0][:300].rstrip(".")


def _source(path: Path) -> pa.NativeFile:
    """The content of a text file, as UTF-8."""
    encoding = _encoding(path)
    if encoding == "utf-8":
        return pa.OSFile(str(path))
    if encoding == "cp1252":
        log.warning("%s is not UTF-8; it is read as Windows-1252", path)
    return pa.BufferReader(path.read_text(encoding=encoding).encode())


def _encoding(path: Path) -> str:
    """What a mark at the start says, or UTF-8 if all of it is that, or the usual one of Windows."""
    with path.open("rb") as file:
        start = file.read(2**16)
    for mark, encoding in MARKS:
        if start.startswith(mark):
            return encoding
    if b"\0" in start:
        raise TaskError(f"{path} holds bytes that no text has; give a {path.suffix} table saved as UTF-8")
    for encoding in ("utf-8", "cp1252"):
        try:
            with path.open(encoding=encoding) as lines:
                while lines.read(2**20):
                    pass
        except UnicodeDecodeError:
            continue
        return encoding
    raise TaskError(f"{path} is neither UTF-8 nor Windows-1252; save it as UTF-8")


def _separated(separator: str) -> Callable[[Path], pa.Table]:
    def read(path: Path) -> pa.Table:
        from_csv = pyarrow.csv
        reading = from_csv.ReadOptions(block_size=BLOCK)
        parsing = from_csv.ParseOptions(delimiter=separator, newlines_in_values=True)
        content = _source(path)
        names = from_csv.open_csv(content, reading, parsing).schema.names
        content.seek(0)
        text = from_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string()))
        return from_csv.read_csv(content, reading, parsing, text)

    return read


def _lines_of_json(path: Path) -> pa.Table:
    return pyarrow.json.read_json(_source(path), pyarrow.json.ReadOptions(block_size=BLOCK))


def _parquet(path: Path) -> pa.Table:
    return pyarrow.parquet.read_table(path)


READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".jsonl": _lines_of_json,
    ".parquet": _parquet,
}
"""End of the name -> how it is read."""
