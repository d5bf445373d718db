"""Select modules of a model by patterns, layers and exclusions. Does not import torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from offcomp.errors import InputError
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.families import KINDS

LAYERS = re.compile(r"(\d+)(?:-(\d+))?")
DEFAULT_KINDS = tuple(kind for kind in KINDS if kind != "word_embeddings")


def select_modules(
    info: ModelInfo,
    patterns: str | Iterable[str] | None = None,
    *,
    exclude: str | Iterable[str] = (),
    layers: str | Iterable[int] | None = None,
) -> tuple[ModuleSpec, ...]:
    """The modules that match the patterns, in the order of the patterns, without those that match an exclusion.

    Args:
        patterns: a pattern is a kind ("query"), a module name ("query.3"), a range of layers ("query.0-5"), or a shell-style
            pattern that matches names or parameter paths (`"*.mlp.*"`). Patterns may be separated by commas. If None, every
            module of a known kind except the word embeddings is selected.
        exclude: patterns of modules to leave out.
        layers: layer numbers, starting at 0, or text such as "0-2,5".

    Raises:
        InputError: a pattern or an exclusion matches no module, or no module is left.
    """
    if patterns is None:
        specs = [spec for spec in info.modules if spec.kind in DEFAULT_KINDS]
    else:
        specs = _matching_any(info, _split(patterns))
    if layers is not None:
        numbers = layer_numbers(layers) if isinstance(layers, str) else set(layers)
        specs = [spec for spec in specs if spec.layer in numbers]
    excluded = set(_matching_any(info, _split(exclude)))
    chosen = tuple(spec for spec in specs if spec not in excluded)
    if not chosen:
        unknown = f"its family is unknown (model type {info.model_type!r}), so select modules by path (--modules), as listed by"
        hint = "list all modules with" if info.has_kinds else unknown
        raise InputError(f"no module of {info.model} matches; {hint} 'offcomp modules {info.model}'")
    return chosen


def layer_numbers(text: str) -> set[int]:
    """The numbers in a list of layers and ranges of layers, such as "0-2,5". Raises InputError."""
    numbers: set[int] = set()
    for part in text.split(","):
        match = LAYERS.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise InputError(f"layers must be numbers or ranges separated by commas, such as 0-2,5, not {text!r}")
        numbers |= set(range(first, last + 1))
    return numbers


def _split(patterns: str | Iterable[str]) -> list[str]:
    texts = [patterns] if isinstance(patterns, str) else list(patterns)
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _matching_any(info: ModelInfo, patterns: Sequence[str]) -> list[ModuleSpec]:
    """The modules that match any pattern, each once. Raises InputError for a pattern that matches no module."""
    matched: dict[ModuleSpec, None] = {}
    for pattern in patterns:
        found = [spec for spec in info.modules if _matches(spec, pattern)]
        if not found:
            names = dict.fromkeys(name for spec in info.modules for name in (spec.kind, spec.name))
            close = difflib.get_close_matches(pattern, names, n=1)
            first = next((f", such as {spec.name!r} (path {spec.path!r})" for spec in info.modules if spec.default), "")
            unknown = "" if info.has_kinds else " (family unknown, so modules are named by their paths)"
            hint = f"did you mean {close[0]!r}?" if close else f"patterns are compared with names and paths{first}"
            raise InputError(f"{pattern!r} matches no module of {info.model}{unknown}; {hint}")
        matched |= dict.fromkeys(found)
    return list(matched)


def _matches(spec: ModuleSpec, pattern: str) -> bool:
    stem, _, ending = pattern.rpartition(".")
    if stem and spec.layer is not None and LAYERS.fullmatch(ending) and "-" in ending:
        return spec.layer in layer_numbers(ending) and _matches(spec, f"{stem}.{spec.layer}")
    names = {spec.kind, spec.name, spec.name.removesuffix(f".e{spec.expert}"), spec.path, spec.path.removesuffix(".weight")}
    return any(fnmatchcase(name, pattern) for name in names)
