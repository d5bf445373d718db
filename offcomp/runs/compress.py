"""Compress the groups of a plan: stack the members, fit the method, measure the errors, and save the stored tensors.

Each group is saved as a safetensors file that contains exactly the tensors in its ledger, so its payload has the reported size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel

from offcomp.errors import RunError, StorageError
from offcomp.files import write_bytes
from offcomp.methods import CompressedMatrix, make_method, packages_of
from offcomp.methods.base import Method
from offcomp.methods.decoders import find_decoder
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.offloading import StoredMatrices, read_matrix
from offcomp.models.safetensors_files import stored_tensors
from offcomp.numerics.chunks import row_chunks, squared_norm
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.numerics.reconstruction_error import reconstruction_error
from offcomp.numerics.storage import num_not_finite
from offcomp.planning.grouping import is_transposed
from offcomp.planning.plan import Group, members
from offcomp.planning.sizes import bytes_in_own_dtype, group_budget, original_dtypes, original_size, ratio_of
from offcomp.runs.calibration import Calibration, GroupHints
from offcomp.runs.calibration.hints import share_of_outputs
from offcomp.runs.result import Errors, GroupResult, LedgerEntry

MAX_PACKAGE_LENGTH = 80


@dataclass(frozen=True)
class CompressedGroup:
    """A compressed group: its stored tensors, its members, and its figures for `run.json`."""

    compressed: CompressedMatrix
    members: tuple[ModuleSpec, ...]
    stacking: str
    figures: GroupResult

    @property
    def name(self) -> str:
        """The name of the group."""
        return self.figures.name

    def reconstruct(self) -> dict[str, Tensor]:
        """Module name -> approximate matrix (rows, cols), computed from the stored tensors alone."""
        return {spec.name: matrix for spec, matrix in self.reconstructions.items()}

    def __repr__(self) -> str:
        figures = self.figures
        size = f"{figures.size_name} {figures.size}" if figures.size else "stored dense"
        return (
            f"{self.name}: {figures.method}, {size}, {figures.rows} x {figures.cols}, "
            f"{figures.compression_ratio:.3g}x fewer {figures.unit}, relative error {figures.relative_error:.4g}"
        )

    @property
    def reconstructions(self) -> dict[ModuleSpec, Tensor]:
        """See `written_back`. Decoded on every access, so only the stored tensors stay in memory."""
        return written_back(self.compressed, self.members, self.stacking)


class Fitted(NamedTuple):
    """An existing fit, and how long it took."""

    compressed: CompressedMatrix
    seconds: float


@dataclass(frozen=True)
class SavedGroup:
    """A compressed group stored on disk, so that a run keeps only one group in memory at a time."""

    path: Path
    members: tuple[ModuleSpec, ...]
    stacking: str

    @property
    def reconstructions(self) -> dict[ModuleSpec, Tensor]:
        """See `written_back`. Read and decoded on every access."""
        return written_back(load_group(self.path)[1], self.members, self.stacking)


def stack(matrices: Mapping[ModuleSpec, Tensor], how: str) -> Tensor:
    """Stack members (rows, cols) vertically, transposing them where `how` requires it. Returns (sum of rows, cols)."""
    return torch.cat([matrix.T if is_transposed(spec, how) else matrix for spec, matrix in matrices.items()])


def read_stacked(model: PreTrainedModel | StoredMatrices, specs: Sequence[ModuleSpec], how: str) -> Tensor:
    """Read the weights of a model and apply `stack` to them. Returns (sum of rows, cols) on the CPU."""
    return stack({spec: read_matrix(model, spec) for spec in specs}, how)


def unstack(stacked: Tensor, specs: Sequence[ModuleSpec], how: str) -> dict[ModuleSpec, Tensor]:
    """The inverse of `stack`: a view of each member in its canonical shape (rows, cols)."""
    swapped = [is_transposed(spec, how) for spec in specs]
    parts = stacked.split([spec.cols if swap else spec.rows for spec, swap in zip(specs, swapped, strict=True)])
    return {spec: part.T if swap else part for spec, part, swap in zip(specs, parts, swapped, strict=True)}


def written_back(compressed: CompressedMatrix, specs: Sequence[ModuleSpec], how: str) -> dict[ModuleSpec, Tensor]:
    """The members' approximate matrices (rows, cols), as used in the compressed model; see `in_own_dtype`."""
    return in_own_dtype(unstack(compressed.reconstruct(), specs, how))


def in_own_dtype(matrices: Mapping[ModuleSpec, Tensor]) -> dict[ModuleSpec, Tensor]:
    """The matrices rounded to their dtypes in the checkpoint, then converted to float32.

    A run therefore measures exactly the model that `export --dense` writes, in which every tensor keeps its dtype.
    """
    return {spec: _rounded(matrix, getattr(torch, spec.dtype)) for spec, matrix in matrices.items()}


def _rounded(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A float32 matrix (rows, cols) rounded to `dtype`, one chunk of rows at a time; the matrix itself if this is float32."""
    if dtype == torch.float32:
        return matrix.float()
    rounded = torch.empty_like(matrix, dtype=torch.float32)
    for exact, chunk in zip(row_chunks(matrix), row_chunks(rounded), strict=True):
        chunk.copy_(exact.to(dtype))
    return rounded


def compress_group(
    model: PreTrainedModel | StoredMatrices,
    info: ModelInfo,
    group: Group,
    *,
    hints: GroupHints | None = None,
    seed: int = 0,
    report: Report = ignore_progress,
    measure_outputs: bool = True,
    fitted: Fitted | None = None,
) -> CompressedGroup:
    """Compress one group of a model, unless it is `fitted` already, and measure it. The model is not modified.

    `hints` are passed to calibrated methods and, for all methods, used to measure the output error on held-out text.
    Set `measure_outputs=False` if `add_output_errors` will measure all groups later.

    Raises BudgetTooSmall, and InputError if the group does not match the model or requires hints that are missing.
    """
    started = perf_counter()
    specs = tuple(members(group, info))
    matrix = read_stacked(model, specs, group.stack).to(model.device)
    rows, cols = matrix.shape
    budget = group_budget(group, info)
    method = make_method(group.method, group.options)
    if fitted is None:
        compressed = method.fit(matrix, budget, hints=hints if method.calibrated else None, seed=seed, report=report)
    else:
        compressed, started = fitted.compressed, started - fitted.seconds
    energy = squared_norm(matrix)
    del matrix
    if hints is not None:
        hints.restore_members()  # a method may have replaced them, but errors are relative to the original weights
    reconstructions = written_back(compressed, specs, group.stack)
    errors = reconstruction_error((read_matrix(model, spec), decoded) for spec, decoded in reconstructions.items())
    module_errors = {
        spec.name: Errors.model_construct(**asdict(reconstruction_error([(read_matrix(model, spec), decoded)])))
        for spec, decoded in reconstructions.items()
    }
    original, stored = original_size(specs), compressed.stored
    figures = GroupResult.model_construct(  # may contain values that are not finite, see `check_finite`
        name=group.name,
        modules=group.modules,
        stack=group.stack,
        method=group.method,
        options=asdict(method),
        unit=group.unit,
        dtype=budget.dtype,
        original_dtypes=original_dtypes(specs),
        rows=rows,
        cols=cols,
        form=compressed.decoder,
        size_name=method.size_name,
        size=compressed.size,
        budget=budget.limit,
        requested_ratio=group.ratio,
        compression_ratio=ratio_of(original, stored, group.unit),
        parameter_ratio=ratio_of(original, stored, "parameters"),
        byte_ratio=ratio_of(original, stored, "bytes"),
        num_parameters=stored.num_parameters,
        num_bytes=stored.num_bytes,
        bytes_in_own_dtype=bytes_in_own_dtype(method, specs, rows, cols, compressed.size),
        original_parameters=original.num_parameters,
        original_bytes=original.num_bytes,
        **asdict(errors),
        num_rows=sum(spec.rows for spec in specs),
        squared_norm=energy,
        module_errors=module_errors,
        **_on_text(hints, method, compressed, reconstructions if measure_outputs else None),
        history=tuple(compressed.history),
        ledger=tuple(map(LedgerEntry.from_json, compressed.ledger())),
        seconds=perf_counter() - started,
    )
    return CompressedGroup(compressed, specs, group.stack, figures)


def check_finite(group: CompressedGroup) -> None:
    """Raise RunError if a group has non-finite values, either when decoded or after rounding to the checkpoint's dtype."""
    figures = group.figures
    if all(isfinite(getattr(figures, name)) for name in ("relative_error", "rmse", "mae", "cosine_distance")):
        return
    if not num_not_finite(group.compressed.reconstruct()):
        dtypes = " and ".join(dict.fromkeys(spec.dtype for spec in group.members))
        raise RunError(
            f"group {figures.name!r} has values that overflow {dtypes}, the dtype of its weights in the model; "
            "choose a different method or a smaller ratio, or save the model in float32 first"
        )
    raise RunError(f"group {figures.name!r} has values that are not finite; lower the learning rate, or use float32")


def _on_text(
    hints: GroupHints | None,
    method: Method,
    compressed: CompressedMatrix,
    reconstructions: Mapping[ModuleSpec, Tensor] | None,
) -> dict[str, Any]:
    """Fields measured on text: the output error and, for a calibrated method, a summary of its calibration."""
    if hints is None:
        return {}
    diagnostics: dict[str, Any] = dict(compressed.diagnostics)
    if reconstructions is None:
        return {"calibration": hints.summary(**diagnostics)} if method.calibrated else {}
    with hints.calibration.model_loaded():
        held_out = hints.output_error(reconstructions, held_out=True)
        if not method.calibrated:
            return {"output_error": held_out}
        diagnostics["output_error_fitted"] = hints.output_error(reconstructions, held_out=False)
    return {"output_error": held_out, "calibration": hints.summary(**diagnostics)}


def add_output_errors(
    calibration: Calibration, groups: Sequence[SavedGroup], figures: Sequence[GroupResult]
) -> list[GroupResult]:
    """Copies of `figures` with the output errors added, from one pass over the text. All reconstructions must fit in memory."""
    reconstructions = {spec: matrix for group in groups for spec, matrix in group.reconstructions.items()}
    held_out = calibration.output_errors(reconstructions, held_out=True)
    calibrated = any(group_figures.calibration for group_figures in figures)
    fitted = calibration.output_errors(reconstructions, held_out=False) if calibrated else {}
    completed = []
    for group, group_figures in zip(groups, figures, strict=True):
        update: dict[str, Any] = {"output_error": share_of_outputs([held_out[spec] for spec in group.members])}
        if group_figures.calibration:
            error = share_of_outputs([fitted[spec] for spec in group.members])
            update["calibration"] = group_figures.calibration.model_copy(update={"output_error_fitted": error})
        completed.append(group_figures.model_copy(update=update))
    return completed


def save_group(group: CompressedGroup, folder: Path, *, make_folder: bool = True) -> Path:
    """Write the stored tensors to FOLDER/NAME.safetensors and check that the payload size equals the ledger's total.

    Raises StorageError if the file cannot be written or does not match the ledger.
    """
    figures = group.figures
    path = folder / f"{figures.name}.safetensors"
    manifest = figures.model_dump(mode="json", include={"name", "modules", "stack", "method", "form", "rows", "cols"})
    manifest["codes"] = dict(group.compressed.codes)
    for package, version in packages_of([figures.method]).items():
        manifest["package"] = f"{package} {version}"
    write_bytes(path, save(dict(group.compressed.tensors), metadata={"offcomp": json.dumps(manifest)}), make_folder=make_folder)
    payload = sum(tensor.num_bytes for tensor in stored_tensors([path]).values())
    if payload != figures.num_bytes:
        raise StorageError(f"{path} contains {payload} bytes of tensors, but its ledger says {figures.num_bytes}")
    return path


def load_group(path: Path) -> tuple[dict[str, Any], CompressedMatrix]:
    """Load the manifest and the compressed matrix of a saved group. Raises StorageError if its decoder is not installed."""
    with safe_open(path, framework="pt") as file:
        manifest = json.loads(file.metadata()["offcomp"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # not a dict
    form, package = manifest["form"], str(manifest.get("package", ""))[:MAX_PACKAGE_LENGTH]
    decode = find_decoder(form)
    if decode is None and package:
        raise StorageError(
            f"{path} was written by the package {package}, whose decoder {form!r} is not available; install {package}"
        )
    if decode is None:
        raise StorageError(f"{path} needs the decoder {form!r}, which this version of offcomp lacks; use a newer version")
    return manifest, CompressedMatrix(tensors, decode, codes=manifest.get("codes", {}))
