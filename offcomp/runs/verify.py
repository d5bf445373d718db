"""Check an export against its manifest: read its files again, decode them and measure their errors.

    files           the files match their checksums
    ledger          the ledgers list the stored tensors with the right shapes, dtypes and sizes
    decoding        every group decodes to a matrix of the expected shape with finite values
    errors          the errors relative to the original match those in the manifest
    dense model     the dense model equals the original, except for the decoded matrices and the corrections

If the original cannot be loaded, the checks that need it are skipped and the reason is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from offcomp.errors import InputError, ModelError, OffcompError
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.identity import is_content
from offcomp.models.loading import load
from offcomp.models.weights import read, replace, write
from offcomp.numerics.reconstruction_error import reconstruction_error
from offcomp.numerics.storage import num_not_finite
from offcomp.planning.grouping import group_shape
from offcomp.runs.compress import in_own_dtype, load_group, unstack
from offcomp.runs.documents import CORRECTIONS_FILE
from offcomp.runs.export import corrections
from offcomp.runs.manifest import Manifest, StoredGroup, correction_faults, file_entry, ledger_faults, read_manifest

ERROR_TOLERANCE = 1e-4  # relative; the order of summation depends on the machine
ROUNDING = {"float32": 1e-6, "float16": 5e-4, "bfloat16": 4e-3}
"""The largest absolute change in a relative error that rounding to a dtype can cause."""
SAME_WEIGHT = {"float32": 1e-5, "float16": 5e-4, "bfloat16": 4e-3}
"""Largest relative error at which two decodings count as equal, since rounding may differ across machines."""
DECODING_FAULTS = (OffcompError, SafetensorError, LookupError, ValueError, TypeError, AttributeError, RuntimeError)
"""Exceptions that may be raised when reading and decoding tensors that do not match their decoder."""


@dataclass
class Check:
    """The outcome of a check: its scope and either a clause for each fault or the reason why the check was skipped."""

    name: str
    scope: str
    faults: list[str] = field(default_factory=list)
    skip_reason: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the check passed; None if it was skipped."""
        return None if self.skip_reason else not self.faults


def verify(folder: Path, original: str | None = None) -> list[Check]:
    """Check an export. `original` overrides the location of the original model that is recorded in the manifest.

    Raises InputError if there is no manifest, or if `original` cannot be loaded or is a different model.
    """
    manifest = read_manifest(folder)
    damaged = file_faults(folder, manifest)
    files = Check("files", f"{len(manifest.files)} files (size and checksum)", [f"{name} {damaged[name]}" for name in damaged])
    ledger = Check("ledger", f"{manifest.num_bytes:,} bytes of tensors", total_faults(manifest))
    if manifest.corrections:
        ledger.faults += correction_faults(folder / CORRECTIONS_FILE, manifest.corrections)
    contents = _Contents(folder, manifest, original)
    for group in manifest.groups:
        faults = ledger_faults(folder, group)
        ledger.faults += faults
        if not faults and group.file not in damaged:
            contents.check(group)
    if not ledger.faults and CORRECTIONS_FILE not in damaged:
        contents.check_corrections()
    contents.finish()
    return [files, ledger, contents.decoding, contents.errors, contents.dense]


def file_faults(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Map each damaged file to a description of the fault, worded as a predicate that follows the file name."""
    stored = [*(group.file for group in manifest.groups), *([CORRECTIONS_FILE] if manifest.corrections else [])]
    faults = {name: "has no checksum" for name in stored if name not in manifest.files}
    for name, expected in manifest.files.items():
        try:
            actual = file_entry(folder / name)
        except OSError as error:
            faults[name] = f"cannot be read: {error.strerror}"
            continue
        if actual.bytes != expected.bytes:
            faults[name] = f"has {actual.bytes} bytes, not {expected.bytes}"
        elif actual.sha256 != expected.sha256:
            faults[name] = f"has been modified: its sha256 begins with {actual.sha256[:12]}"
    return faults


def total_faults(manifest: Manifest) -> list[str]:
    """List the totals that differ from the sums over the groups."""
    sums = {name: sum(getattr(group, name) for group in manifest.groups) for name in ("num_parameters", "num_bytes")}
    return [
        f"the total {name} is {getattr(manifest, name):,}, but the groups add up to {total:,}"
        for name, total in sums.items()
        if total != getattr(manifest, name)
    ]


class _Contents:
    """The checks that decode groups, one at a time.

    Both models stay mapped from their files (`held_layers`), so that only decoded matrices and a single group are in memory.
    """

    def __init__(self, folder: Path, manifest: Manifest, original: str | None):
        self.folder = folder
        self.manifest = manifest
        self.decoding, self.errors, self.dense = Check("decoding", ""), Check("errors", ""), Check("dense model", "")
        self.original = self._load_original(original)
        self.compressed = self._load_dense()
        self._num_decoded = 0
        self._unconfirmed = set(manifest.original.modules)  # modules whose weights are not yet known to be correct

    def _load_original(self, given: str | None) -> PreTrainedModel | None:
        """Load the model that was compressed. If that fails, returns None and records the reason in `self.errors`."""
        expected = self.manifest.original
        try:
            loaded = load(given or expected.model, held=True)
            if is_content(expected.fingerprint) and loaded.info.fingerprint != expected.fingerprint:
                raise ModelError(f"{loaded.info.model} is not the model that was compressed: its files differ")
        except ModelError as error:
            if given:
                raise
            self.errors.skip_reason = f"{str(error).rstrip('.')}; specify the original with --original"
            return None
        return loaded.model

    def _load_dense(self) -> PreTrainedModel | None:
        """Load the exported dense model; None if the export has none. A failure to load it is recorded as a fault."""
        if not self.manifest.dense:
            self.dense.skip_reason = "the export contains only the stored tensors"
            return None
        try:
            return load(str(self.folder.resolve()), held=True).model
        except ModelError as error:
            self.dense.faults.append(str(error).rstrip("."))
            return None

    def check(self, group: StoredGroup) -> None:
        """Decode a group, measure its error and compare its matrices with the dense model."""
        specs = self.manifest.members(group)
        try:
            matrices = in_own_dtype(unstack(self._decode(group, specs), specs, self.manifest.planned(group).stack))
        except DECODING_FAULTS as error:
            self.decoding.faults.append(f"group {group.name!r} cannot be decoded: {str(error) or type(error).__name__}")
            return
        self._num_decoded += 1
        if self.original:
            self._compare_error(self.original, group, matrices)
        for spec, matrix in matrices.items():
            if self.compressed:
                self._compare_weight(self.compressed, spec, matrix)
            if self.original:
                write(self.original, spec, matrix)

    def check_corrections(self) -> None:
        """Check that the corrections are finite and fit the original, into which they are then written."""
        vectors = corrections(self.folder, self.manifest)
        for path, vector in vectors.items():
            if bad := num_not_finite(vector):
                self.decoding.faults.append(f"{bad} values of the correction of {path} are not finite")
        if self.original and not self.decoding.faults:
            try:
                replace(self.original, {}, vectors)
            except ModelError as error:
                self.decoding.faults.append(str(error).rstrip("."))

    def _decode(self, group: StoredGroup, specs: Sequence[ModuleSpec]) -> Tensor:
        """Decode the matrix (rows, cols) of a group. Raises one of DECODING_FAULTS if it does not match the manifest."""
        saved, compressed = load_group(self.folder / group.file)
        planned = self.manifest.planned(group)
        expected = {"name": group.name, "form": group.form, "rows": group.rows, "cols": group.cols}
        expected |= {"modules": list(planned.modules), "stack": planned.stack, "method": planned.method}
        for key, value in expected.items():
            if saved.get(key) != value:
                raise InputError(f"{key} is {saved.get(key)!r} in its file, but {value!r} in the manifest")
        if compressed.stored.num_parameters != group.num_parameters:
            raise InputError(f"it stores {compressed.stored.num_parameters:,} parameters, not {group.num_parameters:,}")
        matrix = compressed.reconstruct()
        for shape in (group_shape(specs, planned.stack), (group.rows, group.cols)):
            if tuple(matrix.shape) != shape:
                raise InputError(f"it decodes to a matrix of shape {tuple(matrix.shape)}, not {shape}")
        if bad := num_not_finite(matrix):
            raise InputError(f"{bad} of its values are not finite")
        return matrix

    def _compare_error(self, original: nn.Module, group: StoredGroup, matrices: Mapping[ModuleSpec, Tensor]) -> None:
        error = reconstruction_error([(read(original, spec), matrix) for spec, matrix in matrices.items()]).relative_error
        rounding = max(ROUNDING[spec.dtype] for spec in matrices)
        if not isclose(error, group.relative_error, rel_tol=ERROR_TOLERANCE, abs_tol=rounding):
            self.errors.faults.append(
                f"group {group.name!r} has a relative error of {error:.6g}, but the manifest says {group.relative_error:.6g}"
            )

    def _compare_weight(self, model: nn.Module, spec: ModuleSpec, decoded: Tensor) -> None:
        """Check that the dense model contains the decoded matrix, not the original one, at each of the module's paths."""
        try:
            weight = read(model, spec)
            copies = [path for path in spec.tied if not torch.equal(model.get_parameter(path), model.get_parameter(spec.path))]
        except (ModelError, AttributeError) as error:
            self.dense.faults.append(f"{spec.name} is missing: {error}")
            return
        exact = read(self.original, spec) if self.original else decoded
        if torch.equal(weight, exact) and not torch.equal(exact, decoded):
            self.dense.faults.append(f"{spec.name} is still the original matrix, not the compressed one")
        elif not _same(decoded, weight, SAME_WEIGHT[spec.dtype]):
            self.dense.faults.append(f"{spec.name} does not match the stored matrix")
        elif copies:
            self.dense.faults.append(f"{copies[0]} differs from {spec.name}, although the two weights are tied")
        else:
            self._unconfirmed.discard(spec)

    def finish(self) -> None:
        """Check the weights outside the groups, and record how many groups were decoded. Damaged groups are skipped."""
        self._check_rest()
        groups = f"{self._num_decoded} of {len(self.manifest.groups)} groups"
        self.decoding.scope = f"shapes and finiteness of {groups}"
        self.errors.scope = f"relative error of {groups} against the original"
        if not is_content(self.manifest.original.fingerprint):
            self.errors.scope += ", which the manifest identifies by a sample of its weights"
        self.dense.scope = f"weights of the original with {groups} replaced"
        if not self._num_decoded:
            for check in (self.decoding, self.errors):
                check.skip_reason = "" if check.faults else check.skip_reason or "no group could be decoded"

    def _check_rest(self) -> None:
        """Check that the dense model contains the decoded groups and equals the original elsewhere, bit for bit."""
        if not self.original or not self.compressed:
            return
        actual = dict(self.compressed.named_parameters(remove_duplicate=False))
        reported = {path for spec in self._unconfirmed for path in (spec.path, *spec.tied)}
        specs = self.manifest.original.modules
        tolerances = {path: SAME_WEIGHT[spec.dtype] for spec in specs for path in (spec.path, *spec.tied)}
        for path, expected in self.original.named_parameters(remove_duplicate=False):
            if path not in actual:
                self.dense.faults.append(f"{path} is missing")
            elif path not in reported and not _same(expected.float(), actual[path].float(), tolerances.get(path, 0.0)):
                self.dense.faults.append(f"{path} {self._why_wrong(path)}")

    def _why_wrong(self, path: str) -> str:
        if any(entry.name == path for entry in self.manifest.corrections):
            return "does not match its correction"
        return "differs from the original although no group compresses it"


def _same(expected: Tensor, actual: Tensor, tolerance: float) -> bool:
    """Whether a weight equals the expected one to within a relative error of `tolerance`."""
    if torch.equal(expected, actual):
        return True
    return tolerance > 0 and reconstruction_error([(expected, actual)]).relative_error <= tolerance
