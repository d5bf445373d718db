"""Export the whole compressed model: a copy of the original folder in which only compressed or corrected weights differ.

Files are copied byte for byte. Each compressed or corrected weight then overwrites the original one in the copy, with the same
dtype and layout, so keys, shards, tied copies, dtypes and file sizes stay the same. Some files are left out and listed: weights
that were not loaded, such as those in other formats (they would not be compressed), files from an earlier export, broken links,
and links to one of their own parent folders. Other links within the model's folder are replaced by copies of their targets.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from offcomp.errors import InputError, ModelError
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import stored_weights
from offcomp.models.offloading import DTYPES
from offcomp.models.safetensors_files import INDEX, PICKLES, WEIGHTS, StoredTensor
from offcomp.models.stored_parameters import Sources
from offcomp.models.weights import blocks
from offcomp.numerics.storage import num_not_finite
from offcomp.runs.manifest import MANIFEST

OTHER_WEIGHTS = (*PICKLES, ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".tflite", ".ot")
TOOLS = (".git", ".cache", "__pycache__")
GROUPS = "groups"


class DenseModel:
    """A copy of a model's folder, to which compressed weights can be written.

    left_out    files of the original that were not copied, as paths relative to its folder
    """

    def __init__(self, model: str, copy: Path) -> None:
        """Copy a model's folder. Raises ModelError if the folder is unusable, and InputError if a link points outside it."""
        folder, self._sources = stored_weights(model)
        self._copy = copy
        weights = {tensor.file.name for parts in self._sources.values() for _, tensor in parts}
        self.left_out: tuple[str, ...] = tuple(
            name for name, file in files_of(folder) if not _copied(name, file, copy / name, weights)
        )

    def write(self, matrices: Mapping[ModuleSpec, Tensor]) -> None:
        """Overwrite original weights with `matrices` (rows, cols), in every tensor that contains these weights.

        Raises ModelError if a matrix is not a separate tensor in the files, or if a value overflows the tensor's dtype.
        """
        for spec, matrix in matrices.items():
            copies = [self._sources.get(path, []) for path in (spec.path, *spec.tied)]
            self._overwrite(spec.name, copies, matrix, partial(blocks, spec=spec))

    def write_vectors(self, vectors: Mapping[str, Tensor]) -> None:
        """Overwrite whole parameters, which are given by path. Raises ModelError for the same reasons as `write`."""
        for path, vector in vectors.items():
            self._overwrite(path, [self._sources.get(path, [])], vector, lambda stored: stored)

    def _overwrite(self, name: str, copies: Sequence[Sources], values: Tensor, view: Callable[[Tensor], Tensor]) -> None:
        if not any(copies) or any(len(parts) > 1 for parts in copies):
            raise ModelError(
                f"{name} is not a separate tensor in the model's files: transformers builds it from other "
                "tensors when it loads the model, so it cannot be written back; export without --dense."
            )
        for _, tensor in chain(*copies):
            _overwrite(self._copy / tensor.file.name, tensor, name, values, view)


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (relative path, path) of every file in a model's folder, skipping the folders of tools such as git.

    Also yields broken links and links to a parent folder. Raises InputError if a link points outside the model's folder.
    """
    root, pending = _root(folder), [(folder, {folder.resolve()})]
    while pending:
        parent, ancestors = pending.pop()
        for entry in sorted(parent.iterdir()):
            target = _target(entry)
            if target and not target.is_relative_to(root):
                raise InputError(
                    f"{entry} is a link to {target}, which is outside the model's folder and would be exported too; "
                    f"make a copy without links (cp -rL {folder} COPY) and compress the copy"
                )
            if target is None or target in ancestors or not target.is_dir():
                yield entry.relative_to(folder).as_posix(), entry
            elif entry.name not in TOOLS:
                pending.append((entry, ancestors | {target}))


def _root(folder: Path) -> Path:
    """The folder that all links must stay within: the model's folder or, in a hub cache, the parent of snapshots and blobs."""
    root = folder.resolve()
    in_cache = root.parent.name == "snapshots" and (root.parents[1] / "blobs").is_dir()
    return root.parents[1] if in_cache else root


def _target(entry: Path) -> Path | None:
    """Resolve the path of a folder entry; None for a broken or circular link."""
    try:
        return entry.resolve(strict=True)
    except (OSError, RuntimeError):
        return None


def _copied(name: str, file: Path, target: Path, weights: set[str]) -> bool:
    """Copy a file unless it must be left out. Returns whether the file was copied."""
    is_unused = name.endswith(OTHER_WEIGHTS) or (name.endswith(".safetensors") and "/" not in name and name not in weights)
    is_stale = name == INDEX and weights == {WEIGHTS}
    if is_unused or is_stale or name == MANIFEST or name.startswith(f"{GROUPS}/") or not file.is_file():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
    return True


def _overwrite(file: Path, stored: StoredTensor, name: str, values: Tensor, view: Callable[[Tensor], Tensor]) -> None:
    """Overwrite the part of a stored tensor that `view` selects, leaving the rest of the tensor unchanged."""
    content = np.fromfile(file, np.uint8, stored.num_bytes, offset=stored.start)
    part = view(torch.from_numpy(content).view(DTYPES[stored.dtype]).view(stored.shape))
    part.copy_(values.view(part.shape))
    if bad := num_not_finite(part):
        raise ModelError(f"{bad} values of the compressed {name} overflow {stored.dtype}, its dtype in the model.")
    with file.open("r+b") as stream:
        stream.seek(stored.start)
        stream.write(content.tobytes())
