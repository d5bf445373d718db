"""Kinds that a user has corrected: a file in the model's folder that says what its matrices are.

    offcomp_kinds.json     {"encoder.0.mix.a": {"kind": "query", "layer": 0}, "encoder.0.mix.b": {"kind": "other"}}

A key is the name or the path of a module, as `offcomp modules` lists it; `layer` and `part` are optional. The file is part of
the model's identity, so that nothing cached under the old names is used.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from offcomp.errors import InputError, ModelError
from offcomp.files import write_bytes
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.families import KINDS, OTHER_KINDS, PARTS
from offcomp.models.identity import KINDS_FILE
from offcomp.models.safetensors_files import read_json

FIELDS = ("kind", "layer", "part")
MAX_LAYERS = 1000


def corrected(modules: Sequence[ModuleSpec], folder: Path) -> tuple[ModuleSpec, ...]:
    """The modules with the kinds, layers and parts in the folder's file, if there is one. Raises ModelError if it is wrong."""
    file = folder / KINDS_FILE
    if not file.is_file():
        return tuple(modules)
    by_key: dict[str, ModuleSpec] = {}
    for spec in modules:
        by_key |= {spec.path.removesuffix(".weight"): spec, spec.name: spec}
    changes: dict[ModuleSpec, ModuleSpec] = {}
    for key, answer in read_json(file).items():
        if key not in by_key:
            close = difflib.get_close_matches(key, by_key, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "use a name or a path listed by `offcomp modules`."
            raise ModelError(f"'{file}' names '{key}', which is no module of the model; {hint}")
        changes[by_key[key]] = _changed(file, by_key[key], key, answer)
    found = tuple(changes.get(spec, spec) for spec in modules)
    if twice := [name for name, count in Counter(spec.name for spec in found).items() if count > 1]:
        raise ModelError(f"'{file}' makes two modules '{twice[0]}'; give one of them another kind, layer or part.")
    return found


def _changed(file: Path, spec: ModuleSpec, key: str, answer: Any) -> ModuleSpec:
    """A module with its new kind. Raises ModelError."""
    if not isinstance(answer, Mapping) or "kind" not in answer or set(answer) - set(FIELDS):
        raise ModelError(
            f"'{file}' says {json.dumps(answer)} of '{key}'; write an object with 'kind' and, optionally, 'layer' and 'part'."
        )
    kind, layer, part = answer["kind"], answer.get("layer"), answer.get("part", "")
    if kind not in (*KINDS, *OTHER_KINDS):
        raise ModelError(
            f"'{file}' gives '{key}' the kind {json.dumps(kind)}; choose one of {', '.join((*KINDS, *OTHER_KINDS))}."
        )
    is_number = isinstance(layer, int) and not isinstance(layer, bool) and 0 <= layer < MAX_LAYERS
    if layer is not None and not is_number:
        raise ModelError(f"'{file}' puts '{key}' in layer {json.dumps(layer)}; layers are numbers from 0 to {MAX_LAYERS - 1}.")
    if part not in ("", *PARTS):
        raise ModelError(
            f"'{file}' puts '{key}' in the part {json.dumps(part)}; choose one of {', '.join(PARTS)}, or leave it out."
        )
    if kind in ("head", "other"):
        return replace(
            spec, name=spec.path.removesuffix(".weight") if not spec.fused else spec.name, kind=kind, layer=None, part=""
        )
    number = "" if spec.expert is None else f"e{spec.expert}"
    name = ".".join(str(piece) for piece in (part, kind, layer, number) if piece not in ("", None))
    return replace(spec, name=name, kind=kind, layer=layer, part=part)


def save_kinds(file: str, folder: Path, modules: Sequence[ModuleSpec]) -> None:
    """Copy a file of kinds into a model's folder, unless it is wrong.

    Raises InputError if the file cannot be read, ModelError if it does not fit the model, and StorageError.
    """
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the kinds in {file}: {error.strerror}") from None
    target = folder / KINDS_FILE
    before = target.read_bytes() if target.is_file() else None
    write_bytes(target, content)
    try:
        corrected(modules, folder)
    except ModelError:
        if before is None:
            target.unlink()
        else:
            write_bytes(target, before)
        raise
