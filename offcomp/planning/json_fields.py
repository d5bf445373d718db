"""Read the fields of a dataclass from JSON values, and describe each fault in one sentence."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from math import inf
from typing import Any

from offcomp.plain_text import quoted, text_fault

Accepts = Callable[[Any], bool]
FieldTypes = Mapping[str, tuple[Accepts, str]]
"""Field name -> (predicate that accepts valid JSON values, description of a valid value)."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
NAME_WORDS = "1 to 100 letters, digits, dots, dashes, plus signs or underscores, starting with a letter or digit"


def is_name(value: Any) -> bool:
    """Whether the value is a name that is safe in file names, links and command lines."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def is_string(value: Any) -> bool:
    """Whether the value is a string."""
    return isinstance(value, str)


def is_text(value: Any) -> bool:
    """Whether the value is a non-empty string."""
    return isinstance(value, str) and value != ""


def is_flag(value: Any) -> bool:
    """Whether the value is true or false."""
    return isinstance(value, bool)


def is_list(value: Any) -> bool:
    """Whether the value is a list."""
    return isinstance(value, (list, tuple))


def is_object(value: Any) -> bool:
    """Whether the value is a JSON object."""
    return isinstance(value, dict)


def is_text_list(value: Any) -> bool:
    """Whether the value is a list of non-empty strings."""
    return is_list(value) and all(is_text(item) for item in value)


def is_number(value: Any) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def whole(low: int, high: float = inf) -> Accepts:
    """A predicate that accepts whole numbers in a range."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def one_of(choices: Collection[str]) -> tuple[Accepts, str]:
    """The `FieldTypes` entry for a field that must be one of these strings."""
    return lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}"


def read_fields(
    kind: type, document: Mapping[str, Any], where: str, types: FieldTypes, faults: list[str], *, parts: Collection[str] = ()
) -> dict[str, Any]:
    """Return the valid fields of a dataclass, with lists converted to tuples; append a sentence to `faults` for each fault.

    Strings must not contain invisible characters, at any nesting depth. The objects in the fields
    listed in `parts` are read separately by the caller.
    """
    values: dict[str, Any] = {}
    for key in document:
        if key not in types:
            faults.append(f"{where} has an unknown field {quoted(key)}; the known fields are {', '.join(types)}.")
    for option in fields(kind):
        if option.name not in document:
            if option.default is MISSING and option.default_factory is MISSING:
                faults.append(f"{where} lacks the field {option.name!r}.")
            continue
        value = document[option.name]
        accepts, wanted = types[option.name]
        if option.name not in parts and (fault := text_fault(value)):
            faults.append(f"{where} has {option.name} {quoted(value)}, which {fault}.")
        elif not accepts(value):
            faults.append(f"{where} has {option.name} {quoted(value)}; it must be {wanted}.")
        elif isinstance(value, list):
            values[option.name] = tuple(value)
        else:
            values[option.name] = float(value) if isinstance(option.default, float) else value
    return values
