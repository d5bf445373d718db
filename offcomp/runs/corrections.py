"""Compute, store and read the corrected biases and normalisations of a compressed model; see `calibration.corrections`.

A run stores them in RUN/corrections.safetensors: whole parameters by their full path, each in its shape and dtype in the
checkpoint. They replace parameters of the same size, so the model as a whole takes up no more bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from offcomp.errors import RunError, StorageError
from offcomp.files import write_bytes
from offcomp.models.loading import stored_dtypes
from offcomp.numerics.storage import num_not_finite
from offcomp.runs.calibration import Calibration
from offcomp.runs.calibration.corrections import corrected_vectors
from offcomp.runs.compress import CompressedGroup, SavedGroup
from offcomp.runs.folders import Run
from offcomp.runs.manifest import correction_faults
from offcomp.runs.result import LedgerEntry

Corrections = dict[str, Tensor]
"""Full path of a parameter -> its corrected value, in the dtype of the checkpoint."""


def corrections_of(
    what: str, calibration: Calibration, groups: Sequence[CompressedGroup] | Sequence[SavedGroup]
) -> Corrections:
    """The corrections that a plan asks for, once all of its groups are compressed. The model is not modified.

    Raises RunError if a correction is not finite in the dtype of its parameter.
    """
    specs = [spec for group in groups for spec in group.members]
    with calibration.model_loaded():
        exact = corrected_vectors(calibration, specs, groups, what)
        dtypes = stored_dtypes(calibration.loaded)
    rounded = {path: vector.to(dtypes[path]) for path, vector in exact.items()}
    for path, vector in rounded.items():
        if num_not_finite(vector):
            raise RunError(f"the correction of {path} is not finite in {vector.dtype}; choose a smaller ratio or no correction")
    return rounded


def ledger_of(corrections: Mapping[str, Tensor]) -> tuple[LedgerEntry, ...]:
    """The names, shapes, dtypes and sizes of the stored tensors, sorted by name."""
    return tuple(
        LedgerEntry(
            name=path,
            shape=tuple(vector.shape),
            dtype=str(vector.dtype).removeprefix("torch."),
            bytes=vector.numel() * vector.element_size(),
        )
        for path, vector in sorted(corrections.items())
    )


def save_corrections(corrections: Corrections, file: Path) -> tuple[LedgerEntry, ...]:
    """Write corrections to a file in an existing folder, if there are any. Returns their ledger. Raises StorageError."""
    if corrections:
        write_bytes(file, save(corrections), make_folder=False)
    return ledger_of(corrections)


def stored_corrections(run: Run) -> Corrections:
    """The corrections of a finished run; empty if it has none. Raises StorageError if they do not match the run's result."""
    ledger = run.result.corrections if run.result else ()
    try:
        return read_corrections(run.corrections_file, ledger)
    except StorageError as error:
        raise StorageError(f"run {run.id} is damaged: {error}; run its plan again with --again") from None


def read_corrections(file: Path, ledger: Sequence[LedgerEntry]) -> Corrections:
    """Read the corrections that a ledger lists, if any. Raises StorageError if the file does not match the ledger."""
    if not ledger:
        return {}
    if faults := correction_faults(file, ledger):
        raise StorageError(faults[0])
    return load(file.read_bytes())
