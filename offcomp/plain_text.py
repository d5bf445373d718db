"""Check and quote untrusted text from plans, runs, manifests, models and links.

Names with control characters can take over a terminal, names with text-direction marks can imitate other names, and extremely
long names can fill a page. Such strings are rejected when they are read. Strings that are accepted may still look like markup,
so escape them for display.
"""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Iterator
from typing import Any

LONGEST = 8192
"""Maximum number of characters in any string: twice the length of the longest possible path."""
DEEPEST = 20
"""Maximum nesting depth of lists and objects."""
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: control, format (including text direction), lone surrogate, line separator, paragraph separator."""
JOINERS = "\u200c\u200d"
"""Format characters that are allowed because Persian words and emoji sequences use them."""


def is_plain(text: str) -> bool:
    """Whether text is a single line without invisible characters."""
    return text.isprintable() or not any(_is_unseen(character) for character in text)


def without_unseen(text: str) -> str:
    """The text as a single line, with each invisible character replaced by a space."""
    return text if text.isprintable() else "".join(" " if _is_unseen(character) else character for character in text)


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in UNSEEN and character not in JOINERS


def text_fault(value: Any) -> str:
    """Describe any problem with the strings in a JSON value in words that can follow the value's name; empty if there is none.

    >>> text_fault({"name": ["fine", "two\\nlines"]})
    'contains a line break, a control character or a text-direction mark'
    """
    for text in _texts(value):
        if text is None:
            return f"nests lists and objects more than {DEEPEST} levels deep"
        if len(text) > LONGEST:
            return f"contains a string of {len(text):,} characters; at most {LONGEST:,} are allowed"
        if not is_plain(text):
            return "contains a line break, a control character or a text-direction mark"
    return ""


def _texts(value: Any) -> Iterator[str | None]:
    """Yield every string in a JSON value, and None if the value is nested too deeply."""
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
    """Format a value for a message: its Python repr, which escapes invisible characters, shortened if it is long."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother, _SHORT.maxlevel = 120, 40, 120, 3
