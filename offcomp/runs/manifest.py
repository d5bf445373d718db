"""The JSON manifest of an export, which describes the contents and origin of its folder. Does not import torch.

DIR/offcomp.json               the manifest: run, plan, original, the ledger of every group, checksums
DIR/groups/NAME.safetensors    the stored tensors of a group, exactly those in its ledger
DIR/corrections.safetensors    corrected biases and gains, if there are any: whole parameters by their path in the model
DIR/config.json and so on      dense exports only: the original's files except `left_out`, with compressed weights and
                               corrections written into them in the original dtypes; an ordinary transformers folder
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError

from offcomp.errors import InputError, ModelError, PlanError
from offcomp.files import read_json
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.safetensors_files import FLOATS, stored_tensors
from offcomp.planning.document import Count, Flag, Line, MustBe
from offcomp.planning.json_fields import Fault, JsonModel, Name, Number, Text, Texts, parts_of
from offcomp.planning.model_sizes import ModelSizes
from offcomp.planning.plan import Group, Plan, members
from offcomp.runs.result import LedgerEntry

MANIFEST = "offcomp.json"
MANIFEST_SCHEMA: Final = 1
DTYPES = FLOATS | {"I8": "int8", "U8": "uint8"}
NAMED_FAULTS = 3
AnyText = Annotated[Text, MustBe("a string")]


class StoredGroup(JsonModel):
    """The stored tensors of one group of the plan."""

    noun = "group"

    name: Name
    """Name of the group in the plan."""
    file: AnyText
    """Path of the safetensors file in the folder."""
    form: AnyText
    """The decoder that turns the tensors into one matrix of vertically stacked members."""
    rows: Count
    """Number of rows of this matrix."""
    cols: Count
    """Number of columns of this matrix."""
    num_parameters: Count
    """Number of stored values."""
    num_bytes: Count
    """Size of the stored tensors, in bytes."""
    original_parameters: Count
    """Number of values in the modules of the original."""
    original_bytes: Count
    """Size of the modules in the original's checkpoint, in bytes."""
    relative_error: Number
    """‖original - reconstruction‖ / ‖original‖, Frobenius norm."""
    ledger: Annotated[
        tuple[LedgerEntry, ...], Field(strict=False), MustBe("a list of tensors, each with name, shape, dtype and bytes")
    ]
    """Every stored tensor; sizes in bytes."""


class StoredFile(JsonModel):
    """A file of an export."""

    model_config = ConfigDict(extra="allow")

    bytes: Count
    sha256: str


class _Module(JsonModel):
    """The fields of a module from which shapes are computed; `ModelInfo.from_dict` checks all others."""

    model_config = ConfigDict(extra="allow")

    name: Line
    path: str
    rows: Count
    cols: Count


class Listing(JsonModel):
    """A model and its modules, as `offcomp modules --json` prints them."""

    model_config = ConfigDict(extra="allow")

    modules: Annotated[tuple[_Module, ...], Field(strict=False)]


def _model_info(value: Any) -> ModelInfo:
    if isinstance(value, ModelInfo):
        return value
    try:
        Listing.model_validate(value)
        return ModelInfo.from_dict(value)
    except ValidationError:
        raise Fault("must_be", "a model listing") from None
    except ModelError as error:
        raise Fault("sentence", str(error)) from None


class Manifest(JsonModel):
    """The contents and origin of an export."""

    parts = {"plan": Plan, "groups": StoredGroup}  # noqa: RUF012

    document_schema: Annotated[Literal[1], MustBe("1")] = Field(default=MANIFEST_SCHEMA, alias="schema")
    """Version of this format."""
    offcomp: AnyText
    """The version of offcomp that wrote the export."""
    run: AnyText
    """The id of the run."""
    plan: Plan
    """The plan of the run."""
    original: Annotated[
        ModelInfo, PlainValidator(_model_info, json_schema_input_type=Listing), PlainSerializer(ModelInfo.to_dict)
    ]
    """The model that was compressed, listing only the modules of the plan."""
    groups: Annotated[tuple[StoredGroup, ...], parts_of("a list of groups")]
    """The groups of the plan, in order."""
    corrections: Annotated[
        tuple[LedgerEntry, ...], Field(strict=False), MustBe("a list of tensors, each with name, shape, dtype and bytes")
    ] = Field(default=(), exclude_if=lambda corrections: not corrections)
    """Corrected biases and gains, by parameter path. They replace parameters of the same size and are not counted below."""
    num_parameters: Count
    """Number of stored values."""
    num_bytes: Count
    """Size of all stored tensors, in bytes."""
    sizes: Annotated[ModelSizes, MustBe("a JSON object with the sizes of the model")]
    """Parameters, bytes and ratios before and after."""
    dense: Flag
    """Whether the folder also contains the whole model with the reconstructions."""
    files: Annotated[dict[str, StoredFile], MustBe("an object with the bytes and sha256 of each file")]
    """Path in the folder -> size and checksum."""
    left_out: Annotated[Texts, MustBe("a list of file names")] = ()
    """Files of the original that a dense export omits, as paths relative to the original's folder."""

    def planned(self, group: StoredGroup) -> Group:
        """The group as it is defined in the plan."""
        return next(planned for planned in self.plan.groups if planned.name == group.name)

    def members(self, group: StoredGroup) -> tuple[ModuleSpec, ...]:
        """The modules of a group, in stacking order."""
        return tuple(members(self.planned(group), self.original))

    @staticmethod
    def from_dict(document: Any) -> Manifest:
        """Read a manifest. Raises InputError with one clause per invalid field."""
        if not isinstance(document, dict):
            raise InputError("it is not a JSON object")
        if document.get("schema") != MANIFEST_SCHEMA:
            raise InputError(f"its schema is {document.get('schema')!r}, but this version reads only schema {MANIFEST_SCHEMA}")
        try:
            manifest = Manifest(**document)
        except PlanError as error:
            raise InputError(" ".join(error.faults[:NAMED_FAULTS]).rstrip(".")) from None
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


def file_entry(file: Path) -> StoredFile:
    """The size in bytes and the SHA-256 of a file."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return StoredFile(bytes=file.stat().st_size, sha256=digest)


Tensors = Mapping[str, tuple[tuple[int, ...], str, int]]
"""Tensor name -> shape, dtype and size in bytes."""


def ledger_faults(folder: Path, group: StoredGroup) -> list[str]:
    """List the differences between a group's file and its ledger (tensors, total and payload size), one clause each."""
    file, where = folder / group.file, f"group {group.name!r}"
    try:
        stored = _stored(file)
    except (ModelError, OSError) as error:
        return [_unreadable(where, error)]
    faults = _tensor_faults(where, stored, _listed(group.ledger))
    total = sum(entry.bytes for entry in group.ledger)
    if total != group.num_bytes:
        faults.append(f"{where} claims {group.num_bytes:,} bytes, but the tensors in its ledger add up to {total:,}")
    payload = sum(size for _, _, size in stored.values())  # all bytes after the header, which `stored_tensors` checks
    if payload != group.num_bytes:
        faults.append(f"{where} claims {group.num_bytes:,} bytes, but {group.file} contains {payload:,} bytes of tensors")
    return faults


def correction_faults(file: Path, ledger: Iterable[LedgerEntry]) -> list[str]:
    """List the differences between a file of corrections and its ledger, one clause each."""
    where = "the file of corrections"
    try:
        return _tensor_faults(where, _stored(file), _listed(ledger))
    except (ModelError, OSError) as error:
        return [_unreadable(where, error)]


def _stored(file: Path) -> Tensors:
    """The tensors in a file. Raises ModelError and OSError."""
    return {
        name: (tensor.shape, DTYPES.get(tensor.dtype, tensor.dtype), tensor.num_bytes)
        for name, tensor in stored_tensors([file]).items()
    }


def _listed(ledger: Iterable[LedgerEntry]) -> Tensors:
    return {entry.name: (entry.shape, entry.dtype, entry.bytes) for entry in ledger}


def _unreadable(where: str, error: Exception) -> str:
    return f"{where} cannot be read: {str(error).rstrip('.')}"


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
