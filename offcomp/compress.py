"""Compress the groups of a plan: stack the members, fit the method, measure, and save what is stored.

The saved file of a group is a safetensors file of exactly the tensors in its ledger, so that its payload is the claimed size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel

from offcomp.calibration import GroupHints
from offcomp.errors import RunError, StorageError
from offcomp.files import write_bytes
from offcomp.grouping import group_shape, is_turned
from offcomp.methods import FORMS, CompressedMatrix, make_method
from offcomp.methods.base import Method, Report, ignore_progress
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.parking import StoredMatrices, read_matrix
from offcomp.numerics.allocator import give_back_free_memory
from offcomp.numerics.measures import reconstruction_error
from offcomp.numerics.side_weights import squared_norm
from offcomp.numerics.storage import num_not_finite
from offcomp.plan import Group, members
from offcomp.prediction import bytes_in_own_dtype, group_budget, original_dtypes, original_size, ratio_of

HEADER_LENGTH_BYTES = 8  # a safetensors file: length of the header, header, payload


@dataclass(frozen=True)
class CompressedGroup:
    """A compressed group: what is stored of which members, and the figures of `run.json`."""

    compressed: CompressedMatrix
    members: tuple[ModuleSpec, ...]
    stacking: str
    figures: dict[str, Any]

    @property
    def reconstructions(self) -> dict[ModuleSpec, Tensor]:
        """See `written_back`. Decoded anew each time, so that memory holds what is stored alone."""
        return written_back(self.compressed, self.members, self.stacking)


@dataclass(frozen=True)
class SavedGroup:
    """A compressed group that is on disk alone, so that a run holds the group in hand and no other."""

    path: Path
    members: tuple[ModuleSpec, ...]
    stacking: str

    @property
    def reconstructions(self) -> dict[ModuleSpec, Tensor]:
        """See `written_back`. Read and decoded anew each time."""
        return written_back(load_group(self.path)[1], self.members, self.stacking)


def stack(matrices: Mapping[ModuleSpec, Tensor], how: str) -> Tensor:
    """The members (rows, cols) one above the other, turned as `how` says: (sum of rows, cols)."""
    return torch.cat([matrix.T if is_turned(spec, how) else matrix for spec, matrix in matrices.items()])


def read_stacked(model: PreTrainedModel | StoredMatrices, specs: Sequence[ModuleSpec], how: str) -> Tensor:
    """`stack` of a model's weights, one member in memory beside the stacked matrix at a time."""
    rows, cols = group_shape(specs, how)
    stacked, start = torch.empty(rows, cols, device=model.device), 0
    for spec in specs:
        part = read_matrix(model, spec)
        part = part.T if is_turned(spec, how) else part
        stacked[start : start + len(part)] = part
        start += len(part)
    return stacked


def unstack(stacked: Tensor, specs: Sequence[ModuleSpec], how: str) -> dict[ModuleSpec, Tensor]:
    """The inverse of `stack`: a view of each member in its canonical (rows, cols)."""
    turned = [is_turned(spec, how) for spec in specs]
    heights = [spec.cols if turn else spec.rows for spec, turn in zip(specs, turned, strict=True)]
    parts = stacked.split(heights)
    return {spec: part.T if turn else part for spec, part, turn in zip(specs, parts, turned, strict=True)}


def written_back(compressed: CompressedMatrix, specs: Sequence[ModuleSpec], how: str) -> dict[ModuleSpec, Tensor]:
    """The approximate matrices (rows, cols) of the members as the compressed model holds them: see `in_own_dtype`."""
    return in_own_dtype(unstack(compressed.reconstruct(), specs, how))


def in_own_dtype(matrices: Mapping[ModuleSpec, Tensor]) -> dict[ModuleSpec, Tensor]:
    """Matrices rounded to the dtype that the checkpoint stores each in, as float32.

    So a run measures exactly the model that `export --dense` writes, in which every tensor keeps its dtype.
    """
    return {spec: matrix.to(getattr(torch, spec.dtype)).float() for spec, matrix in matrices.items()}


def compress_group(
    model: PreTrainedModel | StoredMatrices,
    info: ModelInfo,
    group: Group,
    *,
    hints: GroupHints | None = None,
    seed: int = 0,
    report: Report = ignore_progress,
) -> CompressedGroup:
    """Compress one group of a model, which is left as it is.

    `hints` reach the method where it is calibrated; with any method they give the output error on held-out text.

    Raises BudgetTooSmall, and InputError where the group does not fit its model, or lacks the hints that it needs.
    """
    started = perf_counter()
    specs = tuple(members(group, info))
    matrix = read_stacked(model, specs, group.stack)
    rows, cols = matrix.shape
    budget = group_budget(group, info)
    method = make_method(group.method, group.options)
    compressed = method.fit(matrix, budget, hints=hints if method.calibrated else None, seed=seed, report=report)
    energy = squared_norm(matrix)
    del matrix
    give_back_free_memory()
    if hints is not None:
        hints.restore()  # a method may have settled members, and errors are against the original weights
    reconstructions = written_back(compressed, specs, group.stack)
    errors = reconstruction_error((read_matrix(model, spec), found) for spec, found in reconstructions.items())
    module_errors = {
        spec.name: asdict(reconstruction_error([(read_matrix(model, spec), found)])) for spec, found in reconstructions.items()
    }
    original, stored = original_size(specs), compressed.stored
    figures = {
        "name": group.name,
        "modules": list(group.modules),
        "stack": group.stack,
        "method": group.method,
        "options": asdict(method),  # type: ignore[call-overload]  # every method is a dataclass
        "unit": group.unit,
        "dtype": budget.dtype,
        "original_dtypes": original_dtypes(specs),
        "rows": rows,
        "cols": cols,
        "form": compressed.form,
        "size_name": method.size_name,
        "size": compressed.size,
        "budget": budget.limit,
        "requested_ratio": group.ratio,
        "compression_ratio": ratio_of(original, stored, group.unit),
        "parameter_ratio": ratio_of(original, stored, "parameters"),
        "byte_ratio": ratio_of(original, stored, "bytes"),
        "num_parameters": stored.num_parameters,
        "num_bytes": stored.num_bytes,
        "bytes_in_own_dtype": bytes_in_own_dtype(method, specs, rows, cols, compressed.size),
        "original_parameters": original.num_parameters,
        "original_bytes": original.num_bytes,
        **asdict(errors),
        "num_rows": sum(spec.rows for spec in specs),
        "squared_norm": energy,
        "module_errors": module_errors,
        **_on_text(hints, method, compressed, reconstructions),
        "history": list(compressed.history),
        "ledger": compressed.ledger(),
        "seconds": perf_counter() - started,
    }
    return CompressedGroup(compressed, specs, group.stack, figures)


def check_finite(group: CompressedGroup) -> None:
    """Raise RunError where values of a group are not finite: as they came out, or once they are in the checkpoint's dtype."""
    figures = group.figures
    if all(isfinite(figures[name]) for name in ("relative_error", "rmse", "mae", "cosine_distance")):
        return
    if not num_not_finite(group.compressed.reconstruct()):
        dtypes = " and ".join(dict.fromkeys(spec.dtype for spec in group.members))
        raise RunError(
            f"group {figures['name']!r} came out with values beyond the largest of {dtypes}, in which the model stores it; "
            "choose another method or a smaller ratio, or save the model in float32 first"
        )
    raise RunError(
        f"group {figures['name']!r} came out with values that are not finite; lower the learning rate, or use float32"
    )


def _on_text(
    hints: GroupHints | None, method: Method, compressed: CompressedMatrix, reconstructions: Mapping[ModuleSpec, Tensor]
) -> dict[str, Any]:
    """Figures that need text: the output error, and for a calibrated method what its metrics rest on."""
    if hints is None:
        return {}
    with hints.calibration.awake():
        held_out = hints.output_error(reconstructions, held_out=True)
        if not method.calibrated:
            return {"output_error": held_out}
        fitted = {"output_error_fitted": hints.output_error(reconstructions, held_out=False)}
    return {"output_error": held_out, "calibration": hints.summary() | fitted | dict(compressed.notes)}


def save_group(group: CompressedGroup, folder: Path, *, make_folder: bool = True) -> Path:
    """Write the stored tensors to FOLDER/NAME.safetensors and check its payload against the ledger, byte for byte.

    Raises StorageError where the file cannot be written or does not hold what the ledger says.
    """
    figures = group.figures
    path = folder / f"{figures['name']}.safetensors"
    manifest = {key: figures[key] for key in ("name", "modules", "stack", "method", "form", "rows", "cols")}
    manifest["codes"] = dict(group.compressed.codes)
    write_bytes(path, save(dict(group.compressed.tensors), metadata={"offcomp": json.dumps(manifest)}), make_folder=make_folder)
    payload = payload_bytes(path)
    if payload != figures["num_bytes"]:
        raise StorageError(f"{path} holds {payload} bytes of tensors but its ledger says {figures['num_bytes']}")
    return path


def payload_bytes(path: Path) -> int:
    """Bytes of tensor data in a safetensors file: all but the header."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
    return path.stat().st_size - HEADER_LENGTH_BYTES - header


def load_group(path: Path) -> tuple[dict[str, Any], CompressedMatrix]:
    """Manifest and compressed matrix of a saved group. Raises StorageError where its form is not known."""
    with safe_open(path, framework="pt") as file:
        manifest = json.loads(file.metadata()["offcomp"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # not a dict
    decode = next((form for form in FORMS if form.__name__ == manifest["form"]), None)
    if decode is None:
        raise StorageError(f"{path} has the form {manifest['form']!r}, which this version does not know; use a newer offcomp")
    return manifest, CompressedMatrix(tensors, decode, codes=manifest.get("codes", {}))
