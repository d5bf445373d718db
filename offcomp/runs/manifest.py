"""The JSON manifest of an export, which describes the contents and origin of its folder. Does not import torch.

DIR/offcomp.json               the manifest: run, plan, original, the ledger of every group, checksums
DIR/groups/NAME.safetensors    the stored tensors of a group, exactly those in its ledger
DIR/config.json and so on      dense exports only: every file of the original, with the reconstructions written into its weights
                               in their dtypes; an ordinary transformers folder
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from offcomp.errors import InputError, ModelError, PlanError
from offcomp.files import read_json
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.safetensors_files import FLOATS, stored_tensors
from offcomp.planning.json_checks import Check, Malformed, by_name, count, each, fields, flag, text
from offcomp.planning.json_fields import is_number, is_text, is_text_list, read_fields
from offcomp.planning.plan import Group, Plan, members

MANIFEST = "offcomp.json"
MANIFEST_SCHEMA = 1
DTYPES = FLOATS | {"I8": "int8", "U8": "uint8"}
NAMED_FAULTS = 3


@dataclass(frozen=True)
class StoredGroup:
    """The stored tensors of one group of the plan.

    form        the decoder that turns the tensors into one matrix (rows, cols) of vertically stacked members
    ledger      every tensor: name, shape, dtype, bytes
    """

    name: str
    file: str
    form: str
    rows: int
    cols: int
    num_parameters: int
    num_bytes: int
    original_parameters: int
    original_bytes: int
    relative_error: float
    ledger: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Manifest:
    """The contents and origin of an export.

    offcomp     the version that wrote the export
    run         the id of the run
    original    the model that was compressed, listing only the modules of the plan
    sizes       parameters, bytes and ratios before and after: chosen modules, all linear and embedding weights, whole model
    dense       whether the folder also contains the whole model with the reconstructions
    files       path in the folder -> bytes and sha256
    left_out    files of the original that a dense export omits, as paths relative to the original's folder
    """

    offcomp: str
    run: str
    plan: Plan
    original: ModelInfo
    groups: tuple[StoredGroup, ...]
    num_parameters: int
    num_bytes: int
    sizes: Mapping[str, Any]
    dense: bool
    files: Mapping[str, Mapping[str, Any]]
    left_out: tuple[str, ...] = ()

    def planned(self, group: StoredGroup) -> Group:
        """The group as it is defined in the plan."""
        return next(planned for planned in self.plan.groups if planned.name == group.name)

    def members(self, group: StoredGroup) -> tuple[ModuleSpec, ...]:
        """The modules of a group, in stacking order."""
        return tuple(members(self.planned(group), self.original))

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        groups = [vars(group) | {"ledger": list(group.ledger)} for group in self.groups]
        parts = {"plan": self.plan.to_dict(), "original": self.original.to_dict(), "groups": groups}
        return {"schema": MANIFEST_SCHEMA} | vars(self) | parts | {"left_out": list(self.left_out)}

    @staticmethod
    def from_dict(document: Any) -> Manifest:
        """Read a manifest. Raises InputError with one clause per invalid field."""
        if not isinstance(document, dict):
            raise InputError("it is not a JSON object")
        if document.get("schema") != MANIFEST_SCHEMA:
            raise InputError(f"its schema is {document.get('schema')!r}, but this version reads only schema {MANIFEST_SCHEMA}")
        faults: list[str] = []
        own_fields = {name: value for name, value in document.items() if name != "schema"}
        values = read_fields(Manifest, own_fields, "it", MANIFEST_TYPES, faults, parts=PARTS)
        entries = [read_fields(StoredGroup, entry, "a group", GROUP_TYPES, faults) for entry in values.get("groups", ())]
        if faults:
            raise InputError(" ".join(faults[:NAMED_FAULTS]).rstrip("."))
        try:
            parts = {"plan": Plan.from_dict(values["plan"]), "original": ModelInfo.from_dict(values["original"])}
        except (PlanError, ModelError) as error:
            raise InputError(str(error).rstrip(".")) from None
        manifest = Manifest(**values | parts | {"groups": tuple(StoredGroup(**entry) for entry in entries)})
        manifest.check_names()
        return manifest

    def check_names(self) -> None:
        """Check that the groups match the plan and that all files are inside the folder. Raises InputError."""
        if [group.name for group in self.groups] != [group.name for group in self.plan.groups]:
            raise InputError("its groups do not match those of its plan")
        for name in [*self.files, *(group.file for group in self.groups)]:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name:
                raise InputError(f"it lists the file {name!r}, which is outside the folder")
        for group in self.groups:
            self.members(group)


def _passes(check: Check) -> Callable[[Any], bool]:
    """Return a function that tests whether a JSON value passes a check."""

    def accepts(value: Any) -> bool:
        try:
            check(value)
        except Malformed:
            return False
        return True

    return accepts


COUNT = (_passes(count()), "a whole number, 0 or greater")
TEXT = (is_text, "a string")
OBJECT = (_passes(fields({})), "a JSON object")
MODULE = fields({"rows": count(), "cols": count(), "name": text, "path": text})
"""The module fields from which shapes are computed; `ModelInfo.from_dict` checks all other fields."""
LEDGER_ENTRY = fields({"name": text, "shape": each(count()), "dtype": text, "bytes": count()})
FILE = fields({"bytes": count(), "sha256": text})
MANIFEST_TYPES = {
    "offcomp": TEXT,
    "run": TEXT,
    "plan": OBJECT,
    "original": (_passes(fields({}, {"modules": each(MODULE)})), "a model listing"),
    "groups": (_passes(each(fields({}))), "a list of groups"),
    "num_parameters": COUNT,
    "num_bytes": COUNT,
    "sizes": OBJECT,
    "dense": (_passes(flag), "true or false"),
    "files": (_passes(by_name(FILE)), "an object with the bytes and sha256 of each file"),
    "left_out": (is_text_list, "a list of file names"),
}
PARTS = ("plan", "original", "groups")
GROUP_TYPES = {
    **dict.fromkeys(("name", "file", "form"), TEXT),
    **dict.fromkeys(("rows", "cols", "num_parameters", "num_bytes", "original_parameters", "original_bytes"), COUNT),
    "relative_error": (is_number, "a number"),
    "ledger": (_passes(each(LEDGER_ENTRY)), "a list of tensors, each with name, shape, dtype and bytes"),
}


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an export. Raises InputError if the manifest is missing or cannot be read."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; specify a folder written by 'offcomp export'")
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder} has no {MANIFEST}; specify a folder written by 'offcomp export'")
    try:
        return Manifest.from_dict(read_json(path))
    except (InputError, RecursionError) as error:
        raise InputError(f"{path} is not a valid export manifest: {error}; export the run again") from None


def file_entry(file: Path) -> dict[str, Any]:
    """The size in bytes and the SHA-256 of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


Tensors = Mapping[str, tuple[tuple[int, ...], str, int]]
"""Tensor name -> shape, dtype and size in bytes."""


def ledger_faults(folder: Path, group: StoredGroup) -> list[str]:
    """List the differences between a group's file and its ledger (tensors, total and payload size), one clause each."""
    file, where = folder / group.file, f"group {group.name!r}"
    try:
        tensors = stored_tensors([file])
    except (ModelError, OSError) as error:
        return [f"{where} cannot be read: {str(error).rstrip('.')}"]
    stored = {
        name: (tensor.shape, DTYPES.get(tensor.dtype, tensor.dtype), tensor.num_bytes) for name, tensor in tensors.items()
    }
    listed = {entry["name"]: (tuple(entry["shape"]), entry["dtype"], entry["bytes"]) for entry in group.ledger}
    faults = _tensor_faults(where, stored, listed)
    total = sum(entry["bytes"] for entry in group.ledger)
    if total != group.num_bytes:
        faults.append(f"{where} claims {group.num_bytes:,} bytes, but the tensors in its ledger add up to {total:,}")
    payload = sum(size for _, _, size in stored.values())  # all bytes after the header, which `stored_tensors` checks
    if payload != group.num_bytes:
        faults.append(f"{where} claims {group.num_bytes:,} bytes, but {group.file} contains {payload:,} bytes of tensors")
    return faults


def _tensor_faults(where: str, stored: Tensors, listed: Tensors) -> list[str]:
    """List tensors that are missing from the file or the ledger, or whose shape, dtype or size differs between the two."""
    missing = [f"{where} lacks the tensor {name!r}, which its ledger lists" for name in listed if name not in stored]
    unlisted = [f"{where} stores the tensor {name!r}, which its ledger does not list" for name in stored if name not in listed]
    different = [
        f"{where} stores {name!r} as {_words(stored[name])}, but its ledger says {_words(listed[name])}"
        for name in listed
        if name in stored and listed[name] != stored[name]
    ]
    return [*missing, *unlisted, *different]


def _words(tensor: tuple[tuple[int, ...], str, int]) -> str:
    shape, dtype, size = tensor
    return f"{' x '.join(map(str, shape))} {dtype} in {size:,} bytes"
