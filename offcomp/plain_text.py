"""Check and quote untrusted text from plans, runs, manifests, models and links.

A name with control characters can control a terminal, one with text-direction marks can imitate another name, and one of a
megabyte fills a page. Such texts are rejected on reading. The rest may still look like markup, so escape it for display.
"""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Iterator
from typing import Any

LONGEST = 8192
"""Maximum characters of any text, twice the length of the longest path."""
DEEPEST = 20
"""Maximum nesting depth of lists and objects."""
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: control, format (including text direction), lone surrogates, line and paragraph separators."""
JOINERS = "\u200c\u200d"
"""Format characters that are allowed, since Persian words and emoji sequences use them."""


def is_plain(text: str) -> bool:
    """Whether a text is a single line without invisible characters."""
    return text.isprintable() or not any(_is_unseen(character) for character in text)


def without_unseen(text: str) -> str:
    """The text as one line, with each invisible character replaced by a space."""
    return text if text.isprintable() else "".join(" " if _is_unseen(character) else character for character in text)


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in UNSEEN and character not in JOINERS


def text_fault(value: Any) -> str:
    """What is wrong with the texts in a JSON value, including field names, as a clause that follows its name; empty if fine.

    >>> text_fault({"name": ["fine", "two\\nlines"]})
    'holds a line break, a control character or a mark of text direction'
    """
    for text in _texts(value):
        if text is None:
            return f"has more than {DEEPEST} nested lists and objects"
        if len(text) > LONGEST:
            return f"holds a text of {len(text):,} characters; at most {LONGEST:,} are allowed"
        if not is_plain(text):
            return "holds a line break, a control character or a mark of text direction"
    return ""


def _texts(value: Any) -> Iterator[str | None]:
    """Every text in a JSON value; None if it is nested too deeply."""
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
    """A value for a message: its Python repr, which escapes invisible characters, shortened if long."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother, _SHORT.maxlevel = 120, 40, 120, 3
