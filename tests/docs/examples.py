"""Extract the fenced blocks of a Markdown page, and run those in Python.

The Python blocks of a page share a namespace. A block of plain text directly after a Python block shows its output: numbers
must agree to a few per cent, `...` stands for any word, and a line of `...` for any number of lines.
"""

from __future__ import annotations

import io
import math
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(file for file in DOCS.rglob("*.md") if "_build" not in file.parts)
FENCE = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
RELATIVE, ABSOLUTE = 0.05, 0.005
"""Tolerances for non-integers: their last digits depend on the machine, and a single prediction may change."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its content, the line of the page before its content, and the text up to the next block."""

    language: str
    content: str
    line: int
    after: str

    @property
    def code(self) -> str:
        """The content after as many empty lines as precede it on the page, so that tracebacks show the lines of the page."""
        return "\n" * self.line + self.content


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = list(FENCE.finditer(text))
    ends = [following.start() for following in found[1:]] + [len(text)]
    return [
        Block(block[2].strip(), block[3], text[: block.start()].count("\n") + 1, text[block.end() : end])
        for block, end in zip(found, ends, strict=True)
    ]


def run_page(page: Path) -> None:
    """Run the Python blocks of a page in order, and compare their output with the text blocks that follow them, if any."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language != "python":
            continue
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(block.code, str(page), "exec"), namespace)  # noqa: S102  # our own pages
        shown = following is not None and following.language == "text" and not block.after.strip()
        if shown and following is not None:
            fault = difference(printed.getvalue(), following.content)
            assert not fault, f"{page}, line {following.line}: {fault}; it prints\n{printed.getvalue()}"


def difference(printed: str, shown: str) -> str:
    """Describe how the printed text differs from the one on the page. Returns an empty string if they agree."""
    actual, expected = ([line for line in text.splitlines() if line.strip()] for text in (printed, shown))
    if "..." in (line.strip() for line in expected):
        start = [line.strip() for line in expected].index("...")
        end = len(expected) - start - 1
        actual = [*actual[:start], "...", *actual[len(actual) - end :]]
    if len(actual) != len(expected):
        return f"{len(actual)} lines are printed, {len(expected)} are shown"
    for one, other in zip(actual, expected, strict=True):
        words = one.split(), other.split()
        if len(words[0]) != len(words[1]) or not all(map(alike, *words)):
            return f"{one.strip()!r} is printed, {other.strip()!r} is shown"
    return ""


def alike(actual: str, expected: str) -> bool:
    """Return whether two words agree, except for the last digits of their numbers."""
    if expected == "...":
        return True
    numbers = [[float(number.replace(",", "")) for number in NUMBER.findall(word)] for word in (actual, expected)]
    same_rest = NUMBER.sub("#", actual) == NUMBER.sub("#", expected)
    return same_rest and all(close(*pair) for pair in zip(*numbers, strict=True))


def close(actual: float, expected: float) -> bool:
    """Return whether two numbers agree: whole numbers exactly, others within the tolerances."""
    if actual.is_integer() and expected.is_integer():
        return actual == expected
    return math.isclose(actual, expected, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
