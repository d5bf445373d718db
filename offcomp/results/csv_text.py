"""CSV export that is safe to open in a spreadsheet: no cell is interpreted as a formula.

Text that starts like a formula (with = + - @, a tab or a line break) is prefixed with an apostrophe, as OWASP recommends to
prevent CSV injection; numbers are left unchanged. Programs that read the file can strip the apostrophe.
"""

from __future__ import annotations

import re

import pandas as pd
from pandas.api.types import is_numeric_dtype

FORMULA = re.compile(r"\s*[=+@\-\t\r\n]|[\t\r\n]")
LINE_END = re.compile(r"\r\n?")
"""A lone carriage return would end the row, since pandas does not quote it."""
NUMBER = re.compile(r"[+-]?(\d[\d_,.]*|\.\d+|inf|nan)(e[+-]?\d+)?( ?%)?", re.IGNORECASE)


def csv_text(table: pd.DataFrame) -> str:
    """Convert a table to CSV without its index, neutralising formulas in cells and headings.

    >>> csv_text(pd.DataFrame({"text": ["=1+1", "-2.5"]})).split()
    ['text', "'=1+1", '-2.5']
    """
    safe = table.apply(lambda column: column if is_numeric_dtype(column) else column.map(neutral))
    return str(safe.rename(columns=neutral).to_csv(index=False))


def neutral(cell: object) -> object:
    """Prevent spreadsheets from interpreting a cell as a formula. Values other than strings are returned unchanged."""
    if not isinstance(cell, str):
        return cell
    is_formula = FORMULA.match(cell) and not NUMBER.fullmatch(cell)
    return "'" * bool(is_formula) + LINE_END.sub("\n", cell)
