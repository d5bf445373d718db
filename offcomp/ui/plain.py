"""Text that a person, a file or a link wrote, where a page reads its sentences as markdown: nearly everywhere in Streamlit.

Charts have `charts.literal` instead, and the report escapes everything itself.
"""

from __future__ import annotations

import re

import pandas as pd

from offcomp.plain_text import without_unseen

MARKUP = re.compile(r"[\\`*\[\]<~$&]|(?<![^\W_])_|_(?![^\W_])")
STARTS = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=>|(?:[-+]|#{1,6})(?:\s|$)|=+\s*$))")
"""A heading, a quotation or a list, at the start of a text alone."""
SPACES = re.compile(r"[^\S\u00a0]+")
"""Not the one that does not break."""
REPLACED = re.compile(
    r"(?<=:)(?!(?<=\d:)\d)(?=[^\s:])"  # links, emoji, icons and colours, but no times of day
    r"|(?<=\bwww)(?=\.)|(?<=@)(?=\w)"  # more links
    r"|(?<=-)(?=[->])|(?<=<)(?=[-=])|(?<=[>~])(?==)",  # arrows and other signs
    re.IGNORECASE,
)
"""Between what Streamlit replaces, as http://, :smile: and ->, even where its characters are escaped."""
WORD_JOINER = "\u2060"
"""Nothing to see, and no end of a word: it stands between the characters of such a sign alone."""


def plain(text: object) -> str:
    """The text in one line, written so that markdown shows it as it is: no image is fetched, no link or formula made."""
    line = REPLACED.sub(WORD_JOINER, _one_line(text))
    return STARTS.sub(r"\1\\", MARKUP.sub(r"\\\g<0>", line))


def code(text: object) -> str:
    """The text in one line as code, for paths and commands that people copy: not a character is added to it."""
    line = _one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    room = " " * (line[:1] == "`" or line[-1:] == "`")
    return f"{fence}{room}{line}{room}{fence}"


def _one_line(text: object) -> str:
    return SPACES.sub(" ", without_unseen(str(text))).strip(" ")


def plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose cells and headings are `plain`, for `st.table`; those of `st.dataframe` are no markdown."""
    return table.map(plain).rename(columns=plain, index=plain)
