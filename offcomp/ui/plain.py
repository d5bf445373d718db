"""Text that a person, a file or a link wrote, on a page that reads its sentences as markdown."""

from __future__ import annotations

import re

MARKUP = re.compile(r"[\\`*\[\]<~$&]|(?<!\w)_|_(?!\w)")


def plain(text: str) -> str:
    """The text in one line, written so that markdown shows it as it is: no image is fetched, no link or formula made."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
