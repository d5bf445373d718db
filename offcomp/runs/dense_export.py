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
from offcomp.models.conversions import Conversion, Sources
from offcomp.models.loading import stored_weights
from offcomp.models.offloading import DTYPES
from offcomp.models.safetensors_files import INDEX, PICKLES, WEIGHTS, StoredTensor
from offcomp.models.weights import blocks, canonical_view
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
        folder, self._sources, conversions = stored_weights(model)
        self._copy = copy
        self._conversions = {path: conversion for conversion in conversions for path in conversion.parameters()}
        self._numbers: tuple[Conversion, dict[str, Tensor]] | None = None  # of the latest conversion
        parts = chain(*self._sources.values(), *(conversion.sources for conversion in conversions))
        weights = {tensor.file.name for _, tensor in parts}
        self.left_out: tuple[str, ...] = tuple(
            name for name, file in files_of(folder) if not _copied(name, file, copy / name, weights)
        )

    def write(self, matrices: Mapping[ModuleSpec, Tensor]) -> None:
        """Overwrite original weights with `matrices` (rows, cols), in every tensor that contains these weights.

        Raises ModelError if transformers computes a weight from other values, or if a value overflows the tensor's dtype.
        """
        for spec, matrix in matrices.items():
            paths = (spec.path, *spec.tied)
            converted = [path for path in paths if path in self._conversions]
            for path in converted:
                self._scatter(spec, self._conversions[path], path, matrix)
            copies = [self._sources.get(path, []) for path in paths]
            if any(copies) or not converted:
                self._overwrite(spec.name, copies, partial(_put_matrix, spec=spec, matrix=matrix))

    def _scatter(self, spec: ModuleSpec, conversion: Conversion, path: str, matrix: Tensor) -> None:
        """Overwrite the values in the files from which transformers builds a matrix, wherever they are."""
        if self._numbers is None or self._numbers[0] is not conversion:
            self._numbers = conversion, conversion.numbers()
        numbers = canonical_view(self._numbers[1][path], spec).flatten()
        starts = torch.tensor(conversion.starts(), dtype=numbers.dtype)
        sources = torch.bucketize(numbers, starts, right=True) - 1
        for source in sources.unique().tolist():
            tensor, chosen = conversion.sources[source][1], sources == source
            put = partial(_put_at, indices=(numbers[chosen] - starts[source]).long(), values=matrix.flatten()[chosen])
            _overwrite(self._copy / tensor.file.name, tensor, spec.name, put)

    def write_vectors(self, vectors: Mapping[str, Tensor]) -> None:
        """Overwrite whole parameters, which are given by path. Raises ModelError for the same reasons as `write`."""
        for path, vector in vectors.items():
            self._overwrite(path, [self._sources.get(path, [])], partial(_put, values=vector))

    def _overwrite(self, name: str, copies: Sequence[Sources], put: Callable[[Tensor], Tensor]) -> None:
        if not any(copies) or any(len(parts) > 1 for parts in copies):
            raise ModelError(
                f"{name} is not a separate tensor in the model's files: transformers builds it from other "
                "tensors when it loads the model, so it cannot be written back; export without --dense."
            )
        for _, tensor in chain(*copies):
            _overwrite(self._copy / tensor.file.name, tensor, name, put)


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


def _put(part: Tensor, values: Tensor) -> Tensor:
    """Copy values into a part of a stored tensor, and return this part."""
    return part.copy_(values.view(part.shape))


def _put_matrix(stored: Tensor, spec: ModuleSpec, matrix: Tensor) -> Tensor:
    return _put(blocks(stored, spec), matrix)


def _put_at(stored: Tensor, indices: Tensor, values: Tensor) -> Tensor:
    """Copy values into a stored tensor at these indices of its values, and return them as stored."""
    flat = stored.view(-1)
    flat[indices] = values.to(flat.dtype)
    return flat[indices]


def _overwrite(file: Path, stored: StoredTensor, name: str, put: Callable[[Tensor], Tensor]) -> None:
    """Overwrite the part of a stored tensor that `put` changes and returns, leaving the rest of the tensor unchanged."""
    content = np.fromfile(file, np.uint8, stored.num_bytes, offset=stored.start)
    part = put(torch.from_numpy(content).view(DTYPES[stored.dtype]).view(stored.shape))
    if bad := num_not_finite(part):
        raise ModelError(f"{bad} values of the compressed {name} overflow {stored.dtype}, its dtype in the model.")
    with file.open("r+b") as stream:
        stream.seek(stored.start)
        stream.write(content.tobytes())
