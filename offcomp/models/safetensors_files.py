"""Read the safetensors files of a model folder (8-byte header length, JSON header, then the tensors) without torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offcomp.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
MAX_JSON_BYTES = 50_000_000
CHUNK = 1 << 20

OTHER_FORMATS = {".h5": "Keras", ".msgpack": "Flax", ".gguf": "GGUF", ".onnx": "ONNX", ".tflite": "TensorFlow Lite"}

FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
"""Bits per value for each safetensors dtype."""
NUMPY_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""safetensors dtype -> numpy dtype; numpy has no bfloat16, so bfloat16 values are read as raw bits."""


@dataclass(frozen=True)
class StoredTensor:
    """Location of one tensor: `start` and `end` are byte offsets in `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_parameters(self) -> int:
        """The number of values in the tensor."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Size of the stored tensor in bytes."""
        return self.end - self.start


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ModelError: the file cannot be read, is unreasonably large, or does not contain a JSON object.
    """
    document = read_any_json(file)
    if not isinstance(document, dict):
        raise ModelError(f"'{file}' does not contain a JSON object; restore it from the original model.")
    return document


def read_any_json(file: Path) -> Any:
    """Read a JSON value from a file. Raises ModelError if the file cannot be read or is unreasonably large."""
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"'{file}' is larger than {MAX_JSON_BYTES // 10**6} MB, which is too large for a JSON file.")
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{file}' cannot be read as JSON ({error}); restore it from the original model.") from error


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that make up the model: a single file, or all shards listed in the index.

    Raises:
        ModelError: the folder has no safetensors weights, or a shard is missing.
    """
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / INDEX).is_file():
        return _shards(folder)
    raise ModelError(_no_weights(folder))


def _no_weights(folder: Path) -> str:
    """Error message that says which weight format the folder contains instead of safetensors, and what to do."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        return (
            f"The weights in '{folder}' are pickled ('{pickles[0]}'), but offcomp reads only safetensors; convert them "
            "with `save_pretrained` in a current version of transformers."
        )
    if misnamed := [name for name in names if name.endswith(".safetensors")]:
        return f"The weights in '{folder}' are in '{misnamed[0]}', but '{WEIGHTS}' is expected; rename the file."
    if foreign := [name for name in names if Path(name).suffix in OTHER_FORMATS]:
        return (
            f"The weights in '{folder}' are in {OTHER_FORMATS[Path(foreign[0]).suffix]} format ('{foreign[0]}'), but offcomp "
            "reads only safetensors; save the model with `save_pretrained` in transformers."
        )
    return f"The folder '{folder}' has no weights; it must contain '{WEIGHTS}' or '{INDEX}'."


def _shards(folder: Path) -> tuple[Path, ...]:
    """The shards listed in the index, each of which must be a file in the same folder."""
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"'{folder / INDEX}' has no 'weight_map'; restore it from the original model.")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"'{folder / INDEX}' lists '{name}', which is not a safetensors file in that folder.")
        if not (folder / name).is_file():
            raise ModelError(f"The shard '{name}' is missing from '{folder}'; copy the model again.")
    return tuple(folder / name for name in names)


def read_header(file: Path) -> bytes:
    """The JSON header of a file, as bytes.

    Raises:
        ModelError: the file is too short for its header, or cannot be read.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = stream.read(length) if length <= MAX_HEADER_BYTES else b""
    except OSError as error:
        raise ModelError(f"'{file}' cannot be read ({error}).") from error
    if not header or len(header) != length:
        raise ModelError(f"'{file}' is not a complete safetensors file: its header is truncated; copy the model again.")
    return header


def stored_tensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """All tensors in the files, by key; each file's size is checked against its header.

    Raises:
        ModelError: a header is unreadable, a file's size does not match its header, or two tensors share a key or overlap.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        header = read_header(file)
        entries = header_entries(file, header)
        expected = max((tensor.end for tensor in entries.values()), default=8 + len(header))
        actual = file.stat().st_size
        if actual != expected:
            raise ModelError(
                f"'{file}' has {actual} bytes, but its header specifies {expected}: it is truncated or damaged; "
                "copy the model again."
            )
        if twice := sorted(tensors.keys() & entries.keys()):
            raise ModelError(f"'{file}' and '{tensors[twice[0]].file}' both contain tensor '{twice[0]}'; copy the model again.")
        tensors |= entries
    return tensors


def header_entries(file: Path, header: bytes) -> dict[str, StoredTensor]:
    """Parse a header; check that tensors follow one another without gaps and have the right lengths. Raises ModelError."""
    payload = 8 + len(header)
    try:
        document = json.loads(header, object_pairs_hook=_without_duplicates)
        tensors = {key: _entry(file, key, entry, payload) for key, entry in document.items() if key != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ModelError(f"'{file}' has a damaged safetensors header ({error}); copy the model again.") from error
    reached = payload
    for key, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
        if tensor.start != reached:
            raise ModelError(f"'{file}' has a damaged safetensors header (gap or overlap at '{key}'); copy the model again.")
        reached = tensor.end
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object. Raises ValueError if a key occurs twice."""
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"the key '{twice[0]}' occurs twice")
    return dict(pairs)


def _entry(file: Path, key: str, entry: Mapping[str, Any], payload: int) -> StoredTensor:
    """Parse one tensor entry in a header. Raises ValueError, TypeError or KeyError if the entry is invalid."""
    start, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(size) for size in entry["shape"])
    dtype = str(entry["dtype"])
    if dtype not in BITS:
        raise ValueError(f"tensor '{key}' has the unknown dtype '{dtype}'")
    if not 0 <= start <= end or min(shape, default=0) < 0 or math.prod(shape) * BITS[dtype] != 8 * (end - start):
        raise ValueError(f"tensor '{key}' of shape {shape} and dtype {dtype} cannot be {end - start} bytes long")
    return StoredTensor(file, dtype, shape, payload + start, payload + end)


def find_tensor(tensors: Mapping[str, StoredTensor], prefix: str, path: str) -> StoredTensor | None:
    """Find the stored tensor for a parameter path, with or without the base model's prefix."""
    return tensors.get(path) or tensors.get(path.removeprefix(f"{prefix}.")) or tensors.get(f"{prefix}.{path}")


def stored_dtype(folder: Path) -> str:
    """The dtype of most floating-point values in a folder: `float32`, `float16` or `bfloat16`.

    Raises:
        ModelError: a weight has an unsupported dtype (see `check_dtypes`), or the files are damaged.
    """
    tensors = stored_tensors(weight_files(folder))
    check_dtypes(folder, {key: tensor for key, tensor in tensors.items() if key.endswith("weight")})
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        if tensor.dtype in FLOATS:
            sizes[tensor.dtype] += tensor.num_parameters
    if not any(sizes.values()):
        raise ModelError(f"The files in '{folder}' contain no float32, float16 or bfloat16 weights; copy the model again.")
    return FLOATS[max(sizes, key=sizes.__getitem__)]


def check_dtypes(folder: Path, weights: Mapping[str, StoredTensor]) -> None:
    """Check that every weight is stored in float32, float16 or bfloat16, which can be cast safely.

    Raises:
        ModelError: a weight is stored in another dtype, such as float64 or a quantised format.
    """
    for key, tensor in weights.items():
        if tensor.dtype in FLOATS:
            continue
        remedy = f"use the unquantised model, because no config describes how to interpret these {_named(tensor.dtype)} weights"
        if tensor.dtype == "F64":
            remedy = "save the model in float32: `model.float().save_pretrained(folder)`"
        raise ModelError(
            f"The weight '{key}' in '{folder}' is stored as {tensor.dtype}, but offcomp reads only float32, float16 and "
            f"bfloat16; {remedy}."
        )


def _named(dtype: str) -> str:
    """Readable name of a dtype, such as `int8` for I8, `bool` for BOOL, and `float8` for all F8 dtypes."""
    kinds = {"I": "int", "U": "uint", "F": "float", "C": "complex"}
    return "bool" if dtype == "BOOL" else kinds[dtype[0]] + dtype[1:].partition("_")[0]


def same_values(left: StoredTensor, right: StoredTensor) -> bool:
    """Return whether two stored tensors are equal after conversion to float32, stopping at the first chunk that differs."""
    if left.shape != right.shape:
        return False
    return all(
        np.array_equal(_read_chunk(left, start), _read_chunk(right, start)) for start in range(0, left.num_parameters, CHUNK)
    )


def _read_chunk(tensor: StoredTensor, start: int) -> NDArray[np.float32]:
    """Read up to `CHUNK` values of a stored tensor, starting at index `start`."""
    size = min(CHUNK, tensor.num_parameters - start)
    width = tensor.num_bytes // max(tensor.num_parameters, 1)
    return as_float32(tensor.dtype, np.fromfile(tensor.file, np.uint8, size * width, offset=tensor.start + start * width))


def as_float32(dtype: str, content: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The values of a safetensors tensor as a flat array, or its raw bytes if the dtype is not floating-point."""
    if dtype == "BF16":
        return (content.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return content.view(NUMPY_FLOATS.get(dtype, np.uint8)).astype("<f4", copy=False)
