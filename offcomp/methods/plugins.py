"""Methods from other installed packages. A package names its methods in its `pyproject.toml`:

    [project.entry-points."offcomp.methods"]
    rowmean = "toy_plugin.method:RowMean"

The class follows the same rules as the methods in this folder (`Method`). A method that cannot be used is left out, and one
sentence says why, so that a broken package does not affect other packages.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from offcomp.errors import first_line
from offcomp.methods.base import Look, Method
from offcomp.numerics.accounting import stored_size

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "offcomp.methods"
KEY = re.compile(r"[a-z][a-z0-9_-]{0,39}")
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
TAKEN_KEYS = frozenset({"original", "reference"})
"""Style keys that charts use for things other than methods."""
SYMBOLS = (
    *("circle", "square", "diamond", "cross", "x", "triangle-up", "triangle-down", "triangle-left", "triangle-right"),
    *("pentagon", "hexagon", "hexagon2", "octagon", "star", "hexagram", "star-square", "star-diamond", "line-ew"),
)
"""Marker symbols that charts can draw with different fills."""
SIDE = 64
"""Number of rows and columns of the matrix used to check that a plugin can state its tensor shapes."""


@dataclass(frozen=True)
class Plugin:
    """A method from another package, with the package's name and version."""

    method: type[Method]
    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version}"


@dataclass(frozen=True)
class Plugins:
    """The methods that can be used, and one sentence for each fault that was found."""

    found: tuple[Plugin, ...]
    faults: tuple[str, ...]


def find_plugins(built_in: Sequence[type[Method]]) -> Plugins:
    """Load the methods of all installed packages, sorted by package and method name. The search takes about 10 ms."""
    found: list[Plugin] = []
    faults: list[str] = []
    try:
        entries = _entries()
    except Exception as error:  # noqa: BLE001  # any installed package may have damaged metadata
        return Plugins(
            (), (f"Installed packages cannot be searched for methods: {_reason(error)}; reinstall the damaged one.",)
        )
    for entry, package, version in entries:
        what, torch_was_loaded = f"method {entry.name!r} of the package {package} {version}", "torch" in sys.modules
        remedy = f"update {package}, or remove it with 'pip uninstall {package}'"
        try:
            method = entry.load()
            fault = _fault(method, [*built_in, *(plugin.method for plugin in found)])
        except (Exception, SystemExit) as error:  # noqa: BLE001  # foreign code may raise anything
            faults.append(f"The {what} cannot be loaded: {_reason(error)}; {remedy}.")
            continue
        if fault:
            faults.append(f"The {what} cannot be used: {fault}; {remedy}.")
            continue
        found.append(Plugin(method, package, version))
        if "torch" in sys.modules and not torch_was_loaded:
            faults.append(f"The {what} loads torch when it is imported, which slows offcomp down; {remedy}.")
    return Plugins(tuple(found), tuple(faults))


def _entries() -> list[tuple[EntryPoint, str, str]]:
    """Every entry point of the group, with the name and version of its package."""
    from importlib.metadata import entry_points  # takes 20 ms to import

    named = [
        (entry, str(entry.dist.name), str(entry.dist.version)) for entry in entry_points(group=GROUP) if entry.dist is not None
    ]
    return sorted(named, key=lambda each: (each[1], each[0].name))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}".rstrip(".")


def _fault(method: Any, others: Sequence[type[Method]]) -> str:
    """A clause that says why a class cannot be used as a method; empty if it can. May raise whatever the class raises."""
    if not isinstance(method, type) or not issubclass(method, Method):
        return f"{method!r:.80} is not a class derived from offcomp.methods.base.Method"
    if "__dataclass_fields__" not in vars(method):
        return f"{method.__name__} is not decorated with @dataclass(frozen=True)"
    faults = (*_text_faults(method), *_collisions(method, others), *_option_faults(method), *_look_faults(method))
    if faults:
        return faults[0]
    made = method()
    sizes = made.sizes(SIDE, SIDE)
    if not isinstance(sizes, range):
        return f"its sizes are {sizes!r:.80}, not a range"
    if sizes:
        stored_size(made.tensor_shapes(SIDE, SIDE, sizes[0]), "float32")
        if not made.seconds(SIDE, SIDE, sizes[0]) >= 0:
            return "its estimate of seconds is negative"
    return ""


def _text_faults(method: type[Method]) -> Iterable[str]:
    for name in ("name", "style_key", "title", "paper", "size_name"):
        value = getattr(method, name, None)
        if not isinstance(value, str) or not value.strip():
            yield f"its {name} is {value!r:.80}; it must be a non-blank string"
        elif name in ("name", "style_key") and not KEY.fullmatch(value):
            yield (
                f"its {name} is {value!r:.80}; only lower-case letters, digits, - and _ are allowed, "
                "at most 40 in all, and the first must be a letter"
            )
    decoders = method.decoders
    if not isinstance(decoders, tuple) or not all(isinstance(name, str) and name.isidentifier() for name in decoders):
        yield f"its decoders are {decoders!r:.80}, not a tuple of function names"


def _collisions(method: type[Method], others: Sequence[type[Method]]) -> Iterable[str]:
    keys = {method.name, method.style_key}
    for key in sorted(keys & TAKEN_KEYS):
        yield f"the name {key!r} is reserved"
    for other in others:
        for key in sorted(keys & {other.name, other.style_key}):
            yield f"the name {key!r} is already taken by {other.title}"
        for decoder in (name for name in method.decoders if name in other.decoders or name == "dense"):
            yield f"the decoder {decoder!r} already exists"


def _option_faults(method: type[Method]) -> Iterable[str]:
    for option in fields(method):
        default, metadata = option.default, option.metadata
        if not isinstance(default, (bool, int, float, str)):
            yield f"its option {option.name!r} needs a default that is a number, a string or a boolean"
        elif not isinstance(metadata.get("help"), str):
            yield f"its option {option.name!r} has no help text"
        elif isinstance(default, str):
            choices = metadata.get("choices", ())
            if default not in choices or not all(isinstance(choice, str) for choice in choices):
                yield f"its option {option.name!r} needs choices that are strings and include the default"
        elif not isinstance(default, bool):
            low, high = metadata.get("range", (default, None))
            if not type(low) is type(high) is type(default) or not low <= default <= high:
                yield f"its option {option.name!r} needs a range of its type that includes the default"


def _look_faults(method: type[Method]) -> Iterable[str]:
    look = method.look
    if look is None:
        return
    if not isinstance(look, Look) or look.marker not in SYMBOLS:
        yield f"its look is {look!r:.80}, not a Look with one of the markers {', '.join(SYMBOLS)}"
    elif not all(isinstance(colour, str) and COLOUR.fullmatch(colour) for colour in look[1:]):
        yield f"its look is {look!r:.80}; colours are written as #rrggbb"
