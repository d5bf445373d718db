"""Escape text from users, files and links wherever Streamlit would render it as markdown, which is nearly everywhere.

Charts use `charts.literal` instead, and the report does its own escaping.
"""

from __future__ import annotations

import re

import pandas as pd

from offcomp.plain_text import without_unseen

MARKUP = re.compile(r"[\\`*\[\]<~$&]|(?<![^\W_])_|_(?![^\W_])")
STARTS = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=>|(?:[-+]|#{1,6})(?:\s|$)|=+\s*$))")
"""A heading, quotation or list marker, which is special only at the start of a line."""
SPACES = re.compile(r"[^\S\u00a0]+")
"""Any white space except the no-break space."""
REPLACED = re.compile(
    r"(?<=:)(?!(?<=\d:)\d)(?=[^\s:])"  # links, emoji, icons and colours, but not times of day
    r"|(?<=\bwww)(?=\.)|(?<=@)(?=\w)"  # more links
    r"|(?<=-)(?=[->])|(?<=<)(?=[-=])|(?<=[>~])(?==)",  # arrows and other signs
    re.IGNORECASE,
)
"""Positions inside sequences that Streamlit replaces even when escaped, such as http://, :smile: and ->."""
WORD_JOINER = "\u2060"
"""Invisible and not a word boundary. Inserted only inside such sequences."""


def plain(text: object) -> str:
    """The text on one line, escaped so that markdown renders it literally: without images, links or formulas."""
    line = REPLACED.sub(WORD_JOINER, _one_line(text))
    return STARTS.sub(r"\1\\", MARKUP.sub(r"\\\g<0>", line))


def code(text: object) -> str:
    """The text on one line as inline code, for paths and commands that users copy: no characters are inserted."""
    line = _one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    padding = " " * (line[:1] == "`" or line[-1:] == "`")
    return f"{fence}{padding}{line}{padding}{fence}"


def _one_line(text: object) -> str:
    return SPACES.sub(" ", without_unseen(str(text))).strip(" ")


def plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its cells and headings escaped by `plain`, for `st.table`; `st.dataframe` does not render markdown."""
    return table.map(plain).rename(columns=plain, index=plain)
