"""Escape text from users, files and links wherever Streamlit would render it as Markdown, which is nearly everywhere.

Charts use `charts.literal` instead, and the report does its own escaping.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from offcomp.plain_text import without_unseen

MARKUP = re.compile(r"[\\`*\[\]<~$&]|(?<![^\W_])_|_(?![^\W_])")
STARTS = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=>|(?:[-+]|#{1,6})(?:\s|$)|=+\s*$))")
"""Heading, blockquote and list markers, which are special only at the start of a line."""
SPACES = re.compile(r"[^\S\u00a0]+")
"""Any whitespace except the no-break space."""
REPLACED = re.compile(
    r"(?<=:)(?!(?<=\d:)\d)(?=[^\s:])"  # links, emoji, icons and colours, but not times of day
    r"|(?<=\bwww)(?=\.)|(?<=@)(?=\w)"  # more links
    r"|(?<=-)(?=[->])|(?<=<)(?=[-=])|(?<=[>~])(?==)",  # arrows and other signs
    re.IGNORECASE,
)
"""Positions inside sequences that Streamlit replaces even when escaped, such as http://, :smile: and ->."""
WORD_JOINER = "\u2060"
"""An invisible character that creates no word boundary, inserted only to break up the sequences that Streamlit replaces."""


def plain(text: object) -> str:
    """Return the text on one line, escaped to render literally in Markdown, without images, links or formulas."""
    line = REPLACED.sub(WORD_JOINER, _one_line(text))
    return STARTS.sub(r"\1\\", MARKUP.sub(r"\\\g<0>", line))


def code(text: object) -> str:
    """Return the text on one line as inline code. No invisible characters are inserted, since users copy paths and commands."""
    line = _one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    padding = " " * (line[:1] == "`" or line[-1:] == "`")
    return f"{fence}{padding}{line}{padding}{fence}"


def _one_line(text: object) -> str:
    return SPACES.sub(" ", without_unseen(str(text))).strip(" ")


def noted_table(cells: Sequence[Sequence[tuple[str, str]]], headings: Sequence[str]) -> pd.DataFrame:
    """Return a table for `st.table`. Each cell shows its value, if any, in bold and then its note; all texts are escaped."""
    lines = [[" ".join(filter(None, [value and f"**{plain(value)}**", plain(note)])) for value, note in row] for row in cells]
    return pd.DataFrame(lines, columns=[plain(heading) for heading in headings])


def plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Escape a table's cells and headings with `plain` for `st.table`; `st.dataframe` does not render Markdown."""
    return table.map(plain).rename(columns=plain, index=plain)
