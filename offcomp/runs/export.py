"""Export a finished run to a self-contained folder: its stored groups with a manifest, and optionally the whole model.

`runs.manifest` describes the folder's layout. The stored tensors and the original are sufficient to rebuild the compressed
model: call `weights.replace(model, reconstructions(folder, manifest, group))` for every group, and then
`weights.replace(model, {}, corrections(folder, manifest))`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

from torch import Tensor

from offcomp import __version__
from offcomp.errors import InputError, StorageError
from offcomp.files import new_folder
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.listing import check_unchanged
from offcomp.planning.model_sizes import ModelSizes
from offcomp.planning.plan import members
from offcomp.runs.compress import SavedGroup
from offcomp.runs.corrections import Corrections, read_corrections, save_corrections, stored_corrections
from offcomp.runs.dense_export import GROUPS, DenseModel
from offcomp.runs.documents import CORRECTIONS_FILE
from offcomp.runs.manifest import MANIFEST, Manifest, StoredGroup, file_entry, ledger_faults
from offcomp.runs.result import GroupResult
from offcomp.runs.store import Run


def export_run(run: Run, original: ModelInfo, folder: Path, *, dense: bool = False) -> Manifest:
    """Export a finished run atomically to a new folder. `original` describes the current state of the run's model.

    Raises InputError if the run's compressed weights are missing, its model has changed or the folder cannot be used, and
    StorageError if the run's files are damaged.
    """
    figures, sizes = _figures(run, original)
    with new_folder(folder) as part:
        (part / GROUPS).mkdir()
        groups = tuple(_copied_group(run, entry, part) for entry in figures)
        corrected = save_corrections(stored_corrections(run), part / CORRECTIONS_FILE)
        dense_model = DenseModel(run.plan.model, part) if dense else None
        manifest = Manifest(
            offcomp=__version__,
            run=run.id,
            plan=run.plan,
            original=replace(original, modules=tuple(chain(*(members(group, original) for group in run.plan.groups)))),
            groups=groups,
            corrections=corrected,
            num_parameters=sum(group.num_parameters for group in groups),
            num_bytes=sum(group.num_bytes for group in groups),
            sizes=sizes,
            dense=dense,
            files={},
            left_out=dense_model.left_out if dense_model else (),
        )
        if dense_model:
            for group in manifest.groups:
                dense_model.write(reconstructions(part, manifest, group))
            dense_model.write_vectors(corrections(part, manifest))
        files = {file.relative_to(part).as_posix(): file_entry(file) for file in sorted(part.rglob("*")) if file.is_file()}
        manifest = manifest.replace(files=files)
        (part / MANIFEST).write_text(json.dumps(manifest.to_dict(), indent=1, allow_nan=False), encoding="utf-8")
        check_unchanged(original)
    return manifest


def _figures(run: Run, original: ModelInfo) -> tuple[tuple[GroupResult, ...], ModelSizes]:
    """Return the figures of a run's groups, and the sizes of its model. Raises InputError if the run cannot be exported."""
    if run.result is None or run.result.model is None or run.status != "done":
        raise InputError(f"run {run.id} has status {run.status} and no compressed weights; choose a finished run")
    if not run.plan.groups:
        raise InputError(f"run {run.id} compresses nothing, so there is nothing to export; choose a run with groups")
    if not run.has_weights:
        raise InputError(
            f"run {run.id} has results but no compressed weights; print its plan with 'offcomp show {run.id} --json' "
            "and run the plan with 'offcomp run --again'"
        )
    if run.of_a_sample:
        raise InputError(
            f"run {run.id} comes from an earlier version, which identified {original.model} by a sample of its weights, so "
            "it is not possible to verify that this is the model that was compressed; run the plan again"
        )
    if run.result.model.reads != original.reads:
        raise InputError(
            f"{original.model} is no longer the model that run {run.id} compressed: its files have changed; "
            "restore the files, or run the plan again"
        )
    return run.result.groups, run.result.model.sizes


def _copied_group(run: Run, figures: GroupResult, part: Path) -> StoredGroup:
    """Copy the stored tensors of a group. Raises StorageError if the run's file does not match its ledger."""
    values = {field: getattr(figures, field) for field in StoredGroup.model_fields if field != "file"}
    group = StoredGroup(**values, file=f"{GROUPS}/{figures.name}.safetensors")
    shutil.copyfile(run.group_file(figures.name), part / group.file)
    if faults := ledger_faults(part, group):
        raise StorageError(f"run {run.id} is damaged: {faults[0]}; run its plan again with --again")
    return group


def reconstructions(folder: Path, manifest: Manifest, group: StoredGroup) -> dict[ModuleSpec, Tensor]:
    """Decode the approximate matrices (rows, cols) of a group's modules from an export; see `written_back`."""
    return SavedGroup(folder / group.file, manifest.members(group), manifest.planned(group).stack).reconstructions


def corrections(folder: Path, manifest: Manifest) -> Corrections:
    """The corrected biases and gains in an export, by parameter path. Raises StorageError if they do not match the manifest."""
    return read_corrections(folder / CORRECTIONS_FILE, manifest.corrections)
