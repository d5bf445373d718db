"""What a text may hold that somebody else wrote, in a plan, a run, a manifest, a model or a link; and how it is quoted.

A name with control characters commands a terminal, one with marks of text direction reads as another, and one of a megabyte
fills a page. Such texts are refused where they are read. What is left may look like markup, so whoever shows it escapes it.
"""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Iterator
from typing import Any

LONGEST = 8192
"""Characters of any text, twice those of the longest path."""
DEEPEST = 20
"""Lists and objects within each other."""
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of Unicode: control, format (text direction among them), lone surrogates, separators of lines and paragraphs."""
JOINERS = "\u200c\u200d"
"""Of format, and part of words in Persian and of pictures of people."""


def is_plain(text: str) -> bool:
    """Whether a text is one line of characters that can be seen."""
    return text.isprintable() or not any(_is_unseen(character) for character in text)


def without_unseen(text: str) -> str:
    """The text in one line, each character that cannot be seen as a space."""
    return text if text.isprintable() else "".join(" " if _is_unseen(character) else character for character in text)


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in UNSEEN and character not in JOINERS


def text_fault(value: Any) -> str:
    """What is wrong with the texts in a JSON value, names of fields among them, in words that follow it; empty for nothing.

    >>> text_fault({"name": ["fine", "two\\nlines"]})
    'holds a line break, a control character or a mark of text direction'
    """
    for text in _texts(value):
        if text is None:
            return f"has more than {DEEPEST} lists and objects within each other"
        if len(text) > LONGEST:
            return f"holds a text of {len(text):,} characters; {LONGEST:,} are the most"
        if not is_plain(text):
            return "holds a line break, a control character or a mark of text direction"
    return ""


def _texts(value: Any) -> Iterator[str | None]:
    """Every text in a JSON value; None where it nests too deep."""
    waiting = [(value, 0)]
    while waiting:
        found, depth = waiting.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, (dict, list, tuple)):
            if depth == DEEPEST:
                yield None
                return
            parts = [*found.keys(), *found.values()] if isinstance(found, dict) else found
            waiting += [(part, depth + 1) for part in parts]


def quoted(value: Any) -> str:
    """A value in a message: as Python writes it, which escapes what cannot be seen, and shortened where it is long."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother, _SHORT.maxlevel = 120, 40, 120, 3
