"""Composable checks of JSON values: they verify the structure of a document and report where it is invalid.

check = fields({"name": text, "sizes": each(count())})
check({"name": "a", "sizes": [1, -2]})      # Malformed: sizes[1] is -2; it must be a whole number, 0 or greater
"""

from __future__ import annotations

import json
import reprlib
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from offcomp.plain_text import is_plain

LARGEST = 1e140
"""Largest number accepted: larger than any perplexity, and its square still fits in a float."""
MAX_COUNTED = 2**53
DEEPEST = 20
MAX_NAME_LENGTH = 1_000
MAX_BYTES = 50_000_000
"""Maximum file size, far larger than any file written by a run."""

T = TypeVar("T")
Check = Callable[[Any], None]
"""A function that raises Malformed if the value is invalid."""


class Malformed(ValueError):
    """An invalid JSON value. The message states the value, its location in the document, and what was expected."""

    def __init__(self, what: str, where: str = ""):
        super().__init__((where.removeprefix(".") or "it") + what)
        self.what, self.where = what, where

    def within(self, where: str) -> Malformed:
        """The same error, with the location of the enclosing value prepended."""
        return Malformed(self.what, where + self.where)


def read_checked(file: Path, parse: Callable[[Any], T]) -> T:
    """Read and parse a JSON file. Raises OSError, or Malformed if the file is too large, invalid, or not a regular file."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe could block, and reading a device might never end
        raise Malformed(" is a folder, a pipe or a device, not a regular file", file.name)
    if status.st_size > MAX_BYTES:
        raise Malformed(f" is {status.st_size / 1e6:,.0f} MB; the limit is {MAX_BYTES / 1e6:.0f} MB", file.name)
    with file.open("rb", buffering=0) as opened:
        content = opened.read()
    try:
        value = json.loads(content.decode(), parse_constant=_reject_constant)
        if b"\\u" in content and b"\\ud" in content.lower():
            json.dumps(value, ensure_ascii=False).encode()  # fails for lone surrogates
    except RecursionError:
        raise Malformed(" nests lists or objects too deeply", file.name) from None
    except ValueError as error:
        raise Malformed(f" is not valid JSON ({error})", file.name) from None
    try:
        return parse(value)
    except Malformed as fault:
        raise Malformed(f": {fault}", file.name) from None


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a finite number")


def anything(value: Any, depth: int = DEEPEST) -> None:
    """Accept any value that is not nested too deeply and whose numbers are within range."""
    if isinstance(value, (dict, list)):
        if not depth:
            raise Malformed(" nests lists or objects too deeply")
        for item in value.values() if isinstance(value, dict) else value:
            anything(item, depth - 1)
    elif isinstance(value, (int, float)) and not -LARGEST <= value <= LARGEST:
        raise _must_be(value, "a number within range")


def satisfies(accepts: Callable[[Any], bool], words: str) -> Check:
    """Accept values for which `accepts` returns true; `words` describes such values in error messages."""

    def check(value: Any) -> None:
        if not accepts(value):
            raise _must_be(value, words)

    return check


def count(least: int = 0, most: int = MAX_COUNTED) -> Check:
    """Accept whole numbers in a range."""
    return satisfies(lambda value: type(value) is int and least <= value <= most, f"a whole number, {least} or greater")


text = satisfies(lambda value: isinstance(value, str), "a string")
flag = satisfies(lambda value: isinstance(value, bool), "true or false")


def each(check: Check, length: int | None = None) -> Check:
    """Accept a list whose items all pass `check`, with exactly `length` items if `length` is set."""

    def check_each(value: Any) -> None:
        if not isinstance(value, list) or length not in (None, len(value)):
            raise _must_be(value, "a list" if length is None else f"a list of length {length}")
        index = 0
        try:
            for index, item in enumerate(value):  # noqa: B007  # reported if an item fails
                check(item)
        except Malformed as fault:
            raise fault.within(f"[{index}]") from None

    return check_each


def by_name(check: Check) -> Check:
    """Accept an object whose values all pass `check` and whose names are single lines of visible characters."""
    check_values = fields({}, others=check)

    def check_named(value: Any) -> None:
        for name in value if isinstance(value, dict) else ():
            if not name.strip() or len(name) > MAX_NAME_LENGTH or not is_plain(name):
                words = f"one line of at most {MAX_NAME_LENGTH} visible characters"
                raise Malformed(f" contains the name {reprlib.repr(name)}; a name must be {words}")
        check_values(value)

    return check_named


def fields(needed: Mapping[str, Check], known: Mapping[str, Check] | None = None, others: Check = anything) -> Check:
    """Accept an object with all `needed` fields; `known` fields are optional, and any other field must pass `others`."""
    checks = {**(known or {}), **needed}

    def check_fields(value: Any) -> None:
        if not isinstance(value, dict):
            raise _must_be(value, "a JSON object")
        if not needed.keys() <= value.keys():
            missing = next(name for name in needed if name not in value)
            raise Malformed(" is missing", f".{missing}")
        name = ""
        try:
            for name, item in value.items():
                checks.get(name, others)(item)
        except Malformed as fault:
            raise fault.within(f".{name[:40]}") from None

    return check_fields


def _must_be(value: Any, words: str) -> Malformed:
    return Malformed(f" is {reprlib.repr(value)}; it must be {words}")
