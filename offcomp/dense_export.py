"""The whole compressed model as the folder that it came from, with nothing changed but the values of the compressed weights.

Every file is copied byte for byte. Then each compressed weight is written over the original's bytes in the copy, in the dtype
and layout of the tensor that is there; so keys, shards, tied copies and dtypes stay, and so does the size. What may not go
along is left out and named: weights in other formats, which are those of the original, what an earlier export put there, and
links that lead nowhere or back to a folder above them. A link to another file or folder of the model is copied as what it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from offcomp.errors import InputError, ModelError
from offcomp.manifest import MANIFEST
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import stored_weights
from offcomp.models.parking import DTYPES
from offcomp.models.safetensors_files import INDEX, PICKLES, WEIGHTS, StoredTensor
from offcomp.models.weights import canonical_view
from offcomp.numerics.storage import num_not_finite

OTHER_WEIGHTS = (*PICKLES, ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".tflite", ".ot")
TOOLS = (".git", ".cache", "__pycache__")
GROUPS = "groups"


class DenseModel:
    """A copy of a model's folder, to write compressed weights into.

    left_out    files of the original that the copy lacks, as paths in its folder
    """

    def __init__(self, model: str, copy: Path) -> None:
        """Copy the folder of a model. Raises ModelError as `describe` does, and InputError where a link leads out of it."""
        folder, self._sources = stored_weights(model)
        self._copy = copy
        weights = {tensor.file.name for parts in self._sources.values() for _, tensor in parts}
        self.left_out: tuple[str, ...] = tuple(
            name for name, file in files_of(folder) if not _copied(name, file, copy / name, weights)
        )

    def write(self, matrices: Mapping[ModuleSpec, Tensor]) -> None:
        """Write matrices (rows, cols) over the originals, in every tensor that holds them.

        Raises ModelError where no tensor of the files is such a matrix, or a value does not fit the tensor's dtype.
        """
        for spec, matrix in matrices.items():
            parts = [self._sources.get(path, []) for path in (spec.path, *spec.tied)]
            if not any(parts) or any(len(part) > 1 for part in parts):
                raise ModelError(
                    f"{spec.name} is no tensor of its own in the files of the model: transformers makes it of others while it "
                    "loads them, so it cannot be written back; export without --dense."
                )
            for _, tensor in (entry for part in parts for entry in part):
                _overwrite(self._copy / tensor.file.name, tensor, spec, matrix)


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Path in the folder -> what is there, of all of a model but its folders and those of tools.

    Links that lead nowhere, or to a folder that they are in, are among it. Raises InputError where one leads out of the folder.
    """
    root, pending = _root(folder), [(folder, {folder.resolve()})]
    while pending:
        place, above = pending.pop()
        for entry in sorted(place.iterdir()):
            target = _target(entry)
            if target and not target.is_relative_to(root):
                raise InputError(
                    f"{entry} is a link to {target}, outside of the model's folder, and would be exported with it; "
                    f"make a copy without links, cp -rL {folder} COPY, and compress that"
                )
            if target is None or target in above or not target.is_dir():
                yield entry.relative_to(folder).as_posix(), entry
            elif entry.name not in TOOLS:
                pending.append((entry, above | {target}))


def _root(folder: Path) -> Path:
    """What links may lead to: the folder; of a hub's cache also the blobs beside its snapshots, which its files link to."""
    own = folder.resolve()
    if own.parent.name == "snapshots" and (own.parents[1] / "blobs").is_dir():
        return own.parents[1]
    return own


def _target(entry: Path) -> Path | None:
    """What an entry of a folder is in the end; None for a link that leads nowhere or in circles."""
    try:
        return entry.resolve(strict=True)
    except (OSError, RuntimeError):
        return None


def _copied(name: str, file: Path, place: Path, weights: set[str]) -> bool:
    """Copy a file unless it has to stay behind."""
    is_other = name.endswith(OTHER_WEIGHTS) or (name.endswith(".safetensors") and "/" not in name and name not in weights)
    is_stale = name == INDEX and weights == {WEIGHTS}
    if is_other or is_stale or name == MANIFEST or name.startswith(f"{GROUPS}/") or not file.is_file():
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, place)
    return True


def _overwrite(file: Path, stored: StoredTensor, spec: ModuleSpec, matrix: Tensor) -> None:
    """Write a matrix into the bytes of the tensor that holds it; whatever else the tensor holds stays."""
    content = np.fromfile(file, np.uint8, stored.end - stored.start, offset=stored.start)
    values = torch.from_numpy(content).view(DTYPES[stored.dtype]).view(stored.shape)
    view = canonical_view(values, spec)
    view.copy_(matrix)
    if bad := num_not_finite(view):
        raise ModelError(f"{bad} values of the compressed {spec.name} are beyond {stored.dtype}, in which the model stores it.")
    with file.open("r+b") as stream:
        stream.seek(stored.start)
        stream.write(content.tobytes())
