"""Write each part of the draft to the URL and read it back.

Links are untrusted. `fault_of` rejects text that is too long or not displayable; the readers raise ValueError for invalid
values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import quote, unquote

from offcomp.errors import InputError
from offcomp.methods import all_methods
from offcomp.models.bundled_models import MODELS
from offcomp.numerics.accounting import DTYPE_CHOICES, UNITS
from offcomp.plain_text import is_plain, text_fault
from offcomp.planning.data.tasks import TASKS
from offcomp.planning.grouping import GROUPINGS, STACKS
from offcomp.planning.plan import CORRECTIONS, NOTHING
from offcomp.results.groups import ranges
from offcomp.results.targets import SCORE, WEIGHTINGS, parse_target

RATIOS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 100.0)
OWN = "own"
"""The grouping made up of custom groups from the Groups page."""
NONE = "none"
MAX_LAYERS = 1000
MAX_NAMES = 10_000
LONGEST = 20_000
"""Maximum number of characters in one link parameter."""
NUMBER = "(0|[1-9][0-9]{0,8})"  # a layer number has no leading zeros; 01 is part of a name
ONE_LAYER = re.compile(rf"(.+)\.{NUMBER}", re.DOTALL)
LAYERS = re.compile(rf"(.+)\.{NUMBER}-{NUMBER}", re.DOTALL)
OwnGroup = tuple[tuple[str, ...], str]
"""Module names and their stacking."""


@dataclass(frozen=True)
class Field:
    """One part of the draft, with its URL parameter, session state key, default, reader and writer.

    `read` raises ValueError for invalid text.
    """

    parameter: str
    key: str
    default: Any
    read: Callable[[str], Any]
    write: Callable[[Any], str] = str


def fault_of(text: str) -> str:
    """Return why a link parameter is unreadable, worded to follow its name; empty if it is readable."""
    if len(text) > LONGEST:
        return f"it has {len(text):,} characters; at most {LONGEST:,} are allowed"
    return "" if is_plain(text) else "it contains characters that cannot be displayed"


def read_options(text: str) -> dict[str, dict[str, Any]]:
    """Parse options keyed by style key from JSON. Raises ValueError if they are invalid."""
    try:
        options = json.loads(text, parse_constant=_reject_constant, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise ValueError("its lists or objects are nested too deeply") from None
    if not isinstance(options, dict) or not all(isinstance(values, dict) for values in options.values()):
        raise ValueError('it is not a JSON object such as {"svd": {"preset": "fwsvd"}}')
    if fault := text_fault(options):
        raise ValueError(f"it {fault}")
    return options


def _reject_constant(text: str) -> float:
    raise ValueError(f"{text} is not a valid number")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("it has duplicate keys")
    return unique


def _one_of(choices: Iterable[str]) -> Callable[[str], str]:
    allowed = tuple(choices)

    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"the choices are {', '.join(allowed)}")
        return text

    return read


def _list_of(choices: Iterable[str]) -> Callable[[str], list[str]]:
    read_one = _one_of(choices)
    return lambda text: list(dict.fromkeys(map(read_one, text.split(",")))) if text != NONE else []


def _ratio(text: str) -> float:
    with suppress(ValueError):
        if float(text) in RATIOS:
            return float(text)
    raise ValueError(f"the choices are {', '.join(f'{ratio:g}' for ratio in RATIOS)}")


def _integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        with suppress(ValueError):
            if low <= int(text) <= high:
                return int(text)
        raise ValueError(f"it must be an integer from {low} to {high}")

    return read


def _target(text: str) -> str:
    """A target other than a ratio, such as "12 MB", in its canonical form. Raises ValueError if it is invalid."""
    try:
        target = parse_target(text)
    except InputError as error:
        raise ValueError(str(error)) from None
    if target.kind == "ratio":
        raise ValueError("a ratio has a parameter of its own, such as ratio=4")
    return str(target)


def _flag(text: str) -> bool:
    return _one_of(("1",))(text) == "1"


def _listed(names: Sequence[str]) -> str:
    return ",".join(names) if names else NONE


def short(names: Iterable[str]) -> str:
    """Shorten module names: layer ranges become `query.0-5`, and separators within names are percent-encoded (`%2C`)."""
    parts: list[str] = []
    for (stem, layered), members in groupby(map(_stem_and_layer, names), key=lambda pair: (pair[0], pair[1] is not None)):
        runs = ranges(layer for _, layer in members if layer is not None)
        parts += [f"{_quoted(stem)}.{run}" for run in runs] if layered else [_alone(stem)]
    return ",".join(parts) or NONE


def _stem_and_layer(name: str) -> tuple[str, int | None]:
    match = ONE_LAYER.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, None)


def _alone(name: str) -> str:
    """Encode a name without a layer number. If it looks like a layer range or NONE, percent-encode its last character."""
    if name == NONE or LAYERS.fullmatch(name):
        return f"{_quoted(name[:-1])}%{ord(name[-1]):02X}"
    return _quoted(name)


def _quoted(text: str) -> str:
    return quote(text, safe="/+")


def full(text: str) -> tuple[str, ...]:
    """Expand the names written by `short`. Raises ValueError if a layer range is invalid or there are too many names."""
    names: list[str] = []
    for part in [] if text == NONE else text.split(","):
        match = LAYERS.fullmatch(part)
        if not match:
            names.append(unquote(part))
            continue
        first, last = int(match[2]), int(match[3])
        if not first <= last < first + MAX_LAYERS:
            raise ValueError(f"{part} is not a valid layer range")
        names += [f"{unquote(match[1])}.{layer}" for layer in range(first, last + 1)]
        if len(names) > MAX_NAMES:
            raise ValueError(f"it names more than {MAX_NAMES:,} modules")
    if fault := text_fault(names):
        raise ValueError(f"it {fault}")
    return tuple(dict.fromkeys(names))


def _read_groups(text: str) -> tuple[OwnGroup, ...]:
    groups = []
    for part in text.split(";"):
        names, _, stack = part.rpartition("~")
        groups.append((full(names), _one_of(STACKS)(stack)))
    return tuple(groups)


def _write_groups(groups: Sequence[OwnGroup]) -> str:
    return ";".join(f"{short(names)}~{stack}" for names, stack in groups)


FIELDS = (
    Field("model", "model", MODELS[0].name, str),
    Field("modules", "draft_modules", None, full, short),
    Field("groups", "draft_groups", (), _read_groups, _write_groups),
    Field("together", "grouping", "kind", _one_of((*GROUPINGS, OWN))),
    Field("stack", "stack", "best", _one_of(("best", *STACKS))),
    Field("block", "block", 2, _integer(1, 48)),
    Field("methods", "methods", ["svd", "autoencoder"], _list_of(method.style_key for method in all_methods()), _listed),
    Field("ratio", "ratio", 3.0, _ratio, "{:g}".format),
    Field("target", "target", "", _target),
    Field("allocate", "allocate", False, _flag, lambda _: "1"),
    Field("weighting", "weighting", SCORE, _one_of(WEIGHTINGS)),
    Field("equal", "equal_bytes", False, _flag, lambda _: "1"),
    Field("unit", "unit", UNITS[0], _one_of(UNITS)),
    Field("dtype", "dtype", DTYPE_CHOICES[0], _one_of(DTYPE_CHOICES)),
    Field("correct", "correct", NOTHING, _one_of(CORRECTIONS)),
    Field("seed", "seed", 0, _integer(0, 2**31 - 1)),
    Field("tasks", "tasks", None, _list_of(task.name for task in TASKS), _listed),
    Field("module", "inspected", None, str),
)
