"""Corrected kinds of matrices: a file in the model's folder, which the command line and the app write and everything reads.

    offcomp_kinds.json     {"encoder.*.mix.a": {"kind": "query"}, "encoder.0.mix.b": {"kind": "other"}}

A key is the name or the path of a module, as `offcomp modules` lists it without this file; the path of a tensor of experts
stands for all of them. In a key, `*` stands for a number, of which the first is the layer. `layer` and `part` may be given as
well. The file is part of the model's identity, so nothing cached under the old names is used.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from offcomp.errors import ModelError
from offcomp.files import write_bytes
from offcomp.models.catalogue import MATRICES, ModelInfo, ModuleSpec
from offcomp.models.families import KINDS, OTHER_KINDS, PARTS
from offcomp.models.identity import KINDS_FILE
from offcomp.models.places import EXPERT_LIST
from offcomp.models.safetensors_files import read_json

FIELDS = ("kind", "layer", "part")
MAX_LAYERS = 1000
NUMBER = r"(?<![^.])\d+(?![^.])"
"""A number between dots."""


def corrected(modules: Sequence[ModuleSpec], folder: Path) -> tuple[ModuleSpec, ...]:
    """The modules with the kinds, layers and parts in the folder's file, if there is one. Raises ModelError if it is wrong."""
    answers = read_kinds(folder)
    return with_kinds(modules, answers, f"'{folder / KINDS_FILE}'") if answers else tuple(modules)


def read_kinds(folder: Path) -> dict[str, Any]:
    """The content of the file of kinds in a folder; empty if there is none. Raises ModelError if it is not a JSON object."""
    file = folder / KINDS_FILE
    return read_json(file) if file.is_file() else {}


def with_kinds(modules: Sequence[ModuleSpec], answers: Mapping[str, Any], source: str) -> tuple[ModuleSpec, ...]:
    """The modules with the kinds, layers and parts in the answers. A key without `*` overrides those with one.

    `source` names the origin of the answers in errors. Raises ModelError if an answer is wrong, or two names become equal.
    """
    changes: dict[ModuleSpec, ModuleSpec] = {}
    for key in sorted(answers, key=lambda key: "*" not in key):
        _check(source, key, answers[key])
        for spec, layer in _named(modules, key, source):
            changes[spec] = _changed(spec, layer, answers[key])
    found = tuple(changes.get(spec, spec) for spec in modules)
    if twice := [name for name, count in Counter(spec.name for spec in found).items() if count > 1]:
        raise ModelError(f"{source} makes two modules '{twice[0]}'; give one of them another kind, layer or part.")
    return found


def _named(modules: Sequence[ModuleSpec], key: str, source: str) -> list[tuple[ModuleSpec, int | None]]:
    """The modules that a key names, each with the number that the first `*` stands for. Raises ModelError if there are none."""
    if "*" in key:
        expression = re.compile(r"(\d+)".join(map(re.escape, key.split("*"))))
        matches = ((spec, name) for spec in modules for name in _names_of(spec))
        found: list[tuple[ModuleSpec, int | None]] = [
            (spec, int(match[1])) for spec, name in matches if (match := expression.fullmatch(name))
        ]
    else:
        by_name = [spec for spec in modules if spec.name == key]
        by_path = [spec for spec in modules if key in _names_of(spec)]
        is_of_experts = all(spec.expert is not None for spec in by_path)
        found = [(spec, None) for spec in by_name or (by_path if is_of_experts else by_path[-1:])]
    if found:
        return list(dict(found).items())
    names = [name for spec in modules for name in _names_of(spec)]
    close = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else "use a name or a path listed by `offcomp modules`."
    raise ModelError(f"{source} names '{key}', which is no module of the model; {hint}")


def _names_of(spec: ModuleSpec) -> tuple[str, str]:
    return spec.name, spec.path.removesuffix(".weight")


def _check(source: str, key: str, answer: Any) -> None:
    """Raise ModelError if an answer is not a valid kind, layer and part."""
    if not isinstance(answer, Mapping) or "kind" not in answer or set(answer) - set(FIELDS):
        raise ModelError(
            f"{source} says {json.dumps(answer)} of '{key}'; write an object with 'kind' and, optionally, 'layer' and 'part'."
        )
    kind, layer, part = answer["kind"], answer.get("layer"), answer.get("part", "")
    if kind not in (*KINDS, *OTHER_KINDS):
        raise ModelError(
            f"{source} gives '{key}' the kind {json.dumps(kind)}; choose one of {', '.join((*KINDS, *OTHER_KINDS))}."
        )
    is_number = isinstance(layer, int) and not isinstance(layer, bool) and 0 <= layer < MAX_LAYERS
    if layer is not None and not is_number:
        raise ModelError(f"{source} puts '{key}' in layer {json.dumps(layer)}; layers are numbers from 0 to {MAX_LAYERS - 1}.")
    if part not in ("", *PARTS):
        raise ModelError(
            f"{source} puts '{key}' in the part {json.dumps(part)}; choose one of {', '.join(PARTS)}, or leave it out."
        )


def _changed(spec: ModuleSpec, number: int | None, answer: Mapping[str, Any]) -> ModuleSpec:
    """A module with its new kind. With a `*` in its key, its layer is what it was, or else the number there; so is its part."""
    kind, part = answer["kind"], answer.get("part", "" if number is None else spec.part)
    layer = answer.get("layer", number if spec.layer is None or number is None else spec.layer)
    if kind in ("head", "other"):
        whole = not spec.fused and spec.expert is None
        return replace(spec, name=_names_of(spec)[1] if whole else spec.name, kind=kind, layer=None, part="")
    listed = EXPERT_LIST.search(spec.path)
    expert = f"e{spec.expert}" if spec.expert is not None else f"e{listed[1]}" if listed else ""
    name = ".".join(str(piece) for piece in (part, kind, layer, expert) if piece not in ("", None))
    return replace(spec, name=name, kind=kind, layer=layer, part=part)


def pattern_of(spec: ModuleSpec) -> str:
    """The key that names a module in every layer, and all experts: its path, or its name if its weight is fused."""
    key = re.sub(NUMBER, "*", _names_of(spec)[0 if spec.fused else 1], count=1)
    if spec.fused:
        return re.sub(r"(?<=\.e)\d+$", "*", key)
    return EXPERT_LIST.sub(lambda match: match[0].removesuffix(match[1]) + "*", key)


def changed_kinds(answers: Mapping[str, Any], changes: Mapping[str, str], modules: Sequence[ModuleSpec]) -> dict[str, Any]:
    """The answers after changing the kinds of all modules with these patterns (`pattern_of`), as recognised without answers."""
    patterns = {name: pattern_of(spec) for spec in modules for name in (*_names_of(spec), pattern_of(spec))}
    recognised: dict[str, set[str]] = {}
    for spec in modules:
        recognised.setdefault(pattern_of(spec), set()).add(spec.kind)
    kept = {key: answer for key, answer in answers.items() if patterns.get(key) not in changes}
    return kept | {key: {"kind": kind} for key, kind in changes.items() if {kind} != recognised[key]}


def named_by_structure(info: ModelInfo, recognised: ModelInfo) -> tuple[ModuleSpec, ...]:
    """The modules whose kind only the structure of the model tells: no family, and no file of kinds. None for bare matrices.

    `recognised` is the same model without its file of kinds.
    """
    if info.family or info.model_type == MATRICES:
        return ()
    unchanged = set(recognised.modules)
    return tuple(spec for spec in info.modules if spec.kind != "other" and spec in unchanged)


def save_kinds(content: bytes | None, folder: Path, check: Callable[[], object]) -> None:
    """Write a model's file of kinds, or remove it if the content is None. If `check` then raises ModelError, undo that.

    Raises ModelError as `check` does, and StorageError.
    """
    target = folder / KINDS_FILE
    before = target.read_bytes() if target.is_file() else None
    _put(target, content)
    try:
        check()
    except ModelError:
        _put(target, before)
        raise


def _put(target: Path, content: bytes | None) -> None:
    if content is None:
        target.unlink(missing_ok=True)
    else:
        write_bytes(target, content)
