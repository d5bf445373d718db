"""Read uploaded matrices from a safetensors, npz or npy file and save them as a model folder. No torch, no unpickling.

The folder can be loaded as a `matrix_model.Matrices` model. Its matrices can be listed, compressed and measured like those of
any other model, but the model cannot process text. Matrices are never transposed: each is W (rows, cols) = (out_features,
in_features). If the matrix names follow the scheme of a known family, kinds and layers are recognised.

    HOME/uploads/DIGEST/config.json          names and shapes
    HOME/uploads/DIGEST/model.safetensors    the matrices, as "matrices.0.weight" and so on
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from offcomp.errors import InputError
from offcomp.files import write_bytes
from offcomp.models.catalogue import MATRICES, module_specs
from offcomp.models.families import FAMILIES, KINDS, TRANSPOSED
from offcomp.models.pieces import StoredWeight
from offcomp.models.safetensors_files import NUMPY_FLOATS, WEIGHTS, as_float32, header_entries

MODEL_TYPE = MATRICES
SUFFIXES = (".safetensors", ".npz", ".npy")
MAX_BYTES = 100_000_000
"""Maximum total size of a file's unpacked matrices, which the app reads in its main process; twice the upload limit."""
MAX_MATRICES = 1000
MAX_ARRAYS = 10_000
MAX_HEADER_BYTES = 1_000_000
MAX_NPY_HEADER_BYTES = 12_000  # numpy itself accepts at most 10,000
ZIP_ENTRY = b"PK\x01\x02"
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_SIDE = 10**6
MAX_NAME_LENGTH = 100
DIGEST_DIGITS = 12
HEADER_ALIGNMENT = 8
NAMED_REASONS = 3
DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, ValueError, EOFError, OSError)
DAMAGED_HEADER = (ValueError, KeyError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError)
NPY_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@dataclass(frozen=True)
class Matrix:
    """One matrix (rows, cols) as stored in its file. `dtype` is a safetensors dtype; float64 is converted to float32."""

    rows: int
    cols: int
    dtype: str
    content: bytes


@dataclass(frozen=True)
class MatrixFile:
    """The contents of a file: its matrices by name, and the reason for each skipped entry."""

    matrices: dict[str, Matrix]
    skipped: dict[str, str]


def read_matrices(name: str, content: bytes) -> MatrixFile:
    """Read the matrices from a file, whose suffix determines the format. Sizes are checked before anything is unpacked.

    Raises InputError if the file cannot be read, contains no usable matrix, or is too large.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{name!r} is not a supported matrix file; supported extensions are {', '.join(SUFFIXES)}")
    entries: dict[str, Entry] = {}
    for entry in _READERS[suffix](name, content):
        entries[_unique_name(entry.name, entries)] = entry
    skipped = {title: reason for title, entry in entries.items() if (reason := _unusable(entry))}
    usable = {title: entry for title, entry in entries.items() if title not in skipped}
    _check_size(name, usable.values())
    results = {title: _read(entry) for title, entry in usable.items()}
    matrices = {title: result for title, result in results.items() if isinstance(result, Matrix)}
    skipped |= {title: result for title, result in results.items() if isinstance(result, str)}
    if not matrices:
        reasons = [f"{title} {reason}" for title, reason in skipped.items()][:NAMED_REASONS]
        raise InputError(f"{name!r} contains no matrix that can be compressed: {'; '.join(reasons) or 'it is empty'}")
    return MatrixFile(matrices, skipped)


class Entry(NamedTuple):
    """One array as described by its header: name, dtype (a safetensors dtype for floats, otherwise a numpy dtype) and shape.

    `read` unpacks the array and returns its bytes, little-endian and in C order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], bytes]


def _check_size(name: str, entries: Collection[Entry]) -> None:
    """Raise InputError if there are too many matrices or if their total size is too large."""
    if len(entries) > MAX_MATRICES:
        raise InputError(f"{name!r} contains {len(entries):,} matrices; at most {MAX_MATRICES:,} are supported")
    size = sum(prod(entry.shape) * np.dtype(NUMPY_FLOATS[entry.dtype]).itemsize for entry in entries)
    if size > MAX_BYTES:
        raise InputError(f"{name!r} unpacks to {size / 1e6:.0f} MB of matrices; at most {MAX_BYTES / 1e6:.0f} MB is supported")


def _safetensors(name: str, content: bytes) -> Iterator[Entry]:
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length] if length <= MAX_HEADER_BYTES else b""
    if len(header) != length:
        raise InputError(f"{name!r} is not a complete safetensors file (its header is truncated or too long); copy it again")
    tensors = header_entries(Path(name), header)
    if len(content) != max((tensor.end for tensor in tensors.values()), default=8 + length):
        raise InputError(f"{name!r} is not a complete safetensors file (its length does not match its header); copy it again")
    for key, tensor in tensors.items():
        yield Entry(key, tensor.dtype, tensor.shape, memoryview(content)[tensor.start : tensor.end].tobytes)


def _npz(name: str, content: bytes) -> Iterator[Entry]:
    try:
        if content.count(ZIP_ENTRY) > MAX_ARRAYS:
            raise InputError(f"{name!r} contains more than {MAX_ARRAYS:,} arrays; remove everything that is not a matrix")
        archive = zipfile.ZipFile(io.BytesIO(content))  # in memory; stays open until the last entry has been read
        for member in archive.infolist():
            if member.compress_type not in PACKED:
                raise zipfile.BadZipFile(f"{member.filename} is compressed with a method that numpy does not use")
            head = _unpacked(name, archive, member, MAX_NPY_HEADER_BYTES)
            read = partial(_unpacked, name, archive, member, member.file_size)
            yield _npy_entry(name, member.filename.removesuffix(".npy"), head, member.file_size, read)
    except DAMAGED_ZIP as error:
        raise InputError(f"{name!r} is not a valid npz file ({error}); save it again with numpy.savez") from None


def _unpacked(name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> bytes:
    """Unpack at most the first `size` bytes of a zip member."""
    try:
        with archive.open(member) as stream:
            return stream.read(size)
    except DAMAGED_ZIP as error:
        raise InputError(f"{name!r} is not a valid npz file ({error}); save it again with numpy.savez") from None


def _npy(name: str, content: bytes) -> Iterator[Entry]:
    yield _npy_entry(name, Path(name).stem, content[:MAX_NPY_HEADER_BYTES], len(content), lambda: content)


_READERS: dict[str, Callable[[str, bytes], Iterator[Entry]]] = {".safetensors": _safetensors, ".npz": _npz, ".npy": _npy}


def _npy_entry(file: str, key: str, head: bytes, size: int, read: Callable[[], bytes]) -> Entry:
    """The entry for an npy file of `size` bytes that starts with `head`. Raises InputError if the header is invalid."""
    stream = io.BytesIO(head)
    try:
        shape, by_columns, dtype = NPY_HEADERS[npy.read_magic(stream)](stream)
    except DAMAGED_HEADER:
        raise InputError(f"{key!r} in {file!r} is not an array of numbers; save it again with numpy.save") from None
    start = stream.tell()
    if dtype.hasobject:
        return Entry(key, "pickled objects", shape, bytes)
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != size - start:
        raise InputError(
            f"{key!r} in {file!r} is truncated: {size - start} bytes do not match shape {shape} and {dtype}; copy it again"
        )

    def values() -> bytes:
        stored = np.frombuffer(read(), dtype, offset=start).reshape(shape, order="F" if by_columns else "C")
        return np.ascontiguousarray(stored, dtype.newbyteorder("<")).tobytes()

    name = f"F{8 * dtype.itemsize}" if dtype.kind == "f" else str(dtype)[:MAX_NAME_LENGTH]
    return Entry(key, name, shape, values)


def _unusable(entry: Entry) -> str:
    """The reason why an array cannot be compressed, phrased to follow the array's name; empty if the array is usable."""
    shape = entry.shape
    if len(shape) != 2:
        return f"has {len(shape)} dimension{'' if len(shape) == 1 else 's'}, not 2"
    if min(shape) < 2:
        return f"is {shape[0]} x {shape[1]}, too small to compress"
    if max(shape) > MAX_SIDE:
        return f"is {shape[0]} x {shape[1]}; each dimension may be at most {MAX_SIDE:,}"
    return "" if entry.dtype in NUMPY_FLOATS else f"is stored as {entry.dtype}, not as floating-point numbers"


def _read(entry: Entry) -> Matrix | str:
    """Read an entry's matrix, or return the reason why it cannot be compressed, phrased to follow the entry's name."""
    content = entry.read()
    with np.errstate(over="ignore"):
        values = as_float32(entry.dtype, np.frombuffer(content, np.uint8))
    if bad := values.size - int(np.isfinite(values).sum()):
        return f"has {bad} value{' that is' if bad == 1 else 's that are'} not finite in float32 (NaN, infinite or too large)"
    rows, cols = entry.shape
    if entry.dtype == "F64":
        return Matrix(rows, cols, "F32", values.tobytes())
    return Matrix(rows, cols, entry.dtype, content)


def _unique_name(key: str, taken: Collection[str]) -> str:
    """A unique name that is safe in plans and URLs: special characters are replaced, and a trailing `.weight` is removed."""
    plain = re.sub(r"[^A-Za-z0-9._+-]", "-", key.removesuffix(".weight")).strip(".-")[:MAX_NAME_LENGTH] or "matrix"
    name, number = plain, 2
    while name in taken:
        name, number = f"{plain}-{number}", number + 1
    return name


def save_upload(name: str, content: bytes, home: Path) -> Path:
    """Read the matrices from a file and save them as a model folder under `home`. Identical files share a folder.

    Raises InputError if the file is unusable, and StorageError if the folder cannot be written.
    """
    file = read_matrices(name, content)
    folder = home / "uploads" / hashlib.sha256(content).hexdigest()[:DIGEST_DIGITS]
    write_bytes(folder / WEIGHTS, _safetensors_file(file.matrices.values()))
    write_bytes(folder / "config.json", json.dumps(_config(Path(name).name, file), indent=1).encode())
    return folder


def _safetensors_file(matrices: Collection[Matrix]) -> bytes:
    """Serialise matrices as a safetensors file: the header length, the header, then the bytes of each matrix in order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for index, matrix in enumerate(matrices):
        end = start + len(matrix.content)
        entry = {"dtype": matrix.dtype, "shape": [matrix.rows, matrix.cols], "data_offsets": [start, end]}
        header[f"matrices.{index}.weight"] = entry
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *(matrix.content for matrix in matrices)])


def _config(name: str, file: MatrixFile) -> dict[str, Any]:
    """The config for `matrix_model.MatricesConfig`. `names_of` is the model type whose naming scheme is used, or empty."""
    weights = [StoredWeight((title,), (matrix.rows, matrix.cols)) for title, matrix in file.matrices.items()]
    model_type = recognised_model_type(weights)
    layers = [spec.layer for spec in module_specs(model_type, weights) if spec.layer is not None]
    depth = {"num_hidden_layers": 1 + max(layers)} if layers else {}
    return {
        "model_type": MODEL_TYPE,
        "file": name[:MAX_NAME_LENGTH],
        "left_out": [f"{title} {reason}" for title, reason in file.skipped.items()],
        "names_of": model_type,
        "matrices": [{"name": title, "rows": matrix.rows, "cols": matrix.cols} for title, matrix in file.matrices.items()],
        **depth,
    }


def recognised_model_type(weights: Sequence[StoredWeight]) -> str:
    """The model type whose naming scheme matches the most compressible matrices; empty if no scheme matches.

    Families with transposed weights are skipped, as are those that would split a matrix, since neither can be inferred from it.
    """
    best, most = "", 0
    for family in FAMILIES:
        specs = module_specs(family.model_types[0], weights)
        if family.name in TRANSPOSED or any(spec.fused for spec in specs):
            continue
        known = sum(spec.kind in KINDS for spec in specs)
        if known > most and len({spec.name for spec in specs}) == len(specs):
            best, most = family.model_types[0], known
    return best
