"""The columns of a table in a file, as text: what a task's columns are guessed from. No torch, and nothing is kept."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from offcomp.errors import InputError


def read_columns(path: Path) -> dict[str, list[str | None]]:
    """Column -> its values as text, None where one is missing. Raises InputError."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            table = pd.read_parquet(path)
        elif suffix == ".jsonl":
            table = pd.read_json(path, lines=True, dtype=False)
        else:
            separator = "\t" if suffix == ".tsv" else ","
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding_errors="replace")
    except (OSError, ValueError, pa.ArrowException) as error:  # what pandas raises descends from the second
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path.name!r} cannot be read as {suffix} ({said}); check the file") from None
    if table.empty:
        raise InputError(f"{path.name!r} has no row; give a table with a heading and one example a row")
    return {str(name): [None if _missing(value) else str(value) for value in table[name]] for name in table.columns}


def _missing(value: object) -> bool:
    return value is None or value is pd.NA or value == "" or (isinstance(value, float) and value != value)  # noqa: PLR0124  # NaN
