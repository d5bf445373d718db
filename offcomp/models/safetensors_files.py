"""Read the safetensors files of a model folder without torch: eight bytes of header length, JSON, then the tensors."""

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
"""safetensors dtype -> numpy dtype; numpy has no bfloat16, so its raw bits are read."""


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
        """The product of the shape."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Size of the tensor in its file, in bytes."""
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
            raise ModelError(f"'{file}' is larger than {MAX_JSON_BYTES // 10**6} MB, too large for a JSON file of a model.")
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{file}' cannot be read as JSON ({error}); restore it from the original model.") from error


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that make up the model: a single file, or all shards in the index.

    Raises:
        ModelError: there are none, they are pickled, or a shard is missing.
    """
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / INDEX).is_file():
        return _shards(folder)
    raise ModelError(_no_weights(folder))


def _no_weights(folder: Path) -> str:
    """What the folder has instead of safetensors weights, and how to obtain them."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        return (
            f"The weights in '{folder}' are pickled ('{pickles[0]}'), but offcomp reads only safetensors; convert them "
            "with `save_pretrained` in a current version of transformers."
        )
    if misnamed := [name for name in names if name.endswith(".safetensors")]:
        return f"The weights in '{folder}' are in '{misnamed[0]}', but '{WEIGHTS}' is needed; rename the file."
    if foreign := [name for name in names if Path(name).suffix in OTHER_FORMATS]:
        return (
            f"The weights in '{folder}' are in {OTHER_FORMATS[Path(foreign[0]).suffix]} format ('{foreign[0]}'), but offcomp "
            "reads only safetensors; save the model with the `save_pretrained` method of transformers."
        )
    return f"The folder '{folder}' has no weights: '{WEIGHTS}' or '{INDEX}' is needed."


def _shards(folder: Path) -> tuple[Path, ...]:
    """The files that the index names, each checked to be in the folder itself."""
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"'{folder / INDEX}' has no 'weight_map'; restore it from the original model.")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"'{folder / INDEX}' names '{name}', which is not a safetensors file in that folder.")
        if not (folder / name).is_file():
            raise ModelError(f"The shard '{name}' is missing from '{folder}'; copy the model again.")
    return tuple(folder / name for name in names)


def read_header(file: Path) -> bytes:
    """The JSON bytes of a file's header.

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
    """Every tensor in the files by key; each file's size is checked against its header.

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
                f"'{file}' has {actual} bytes but its header describes {expected}: it is truncated or damaged; "
                "copy the model again."
            )
        if twice := sorted(tensors.keys() & entries.keys()):
            raise ModelError(f"'{file}' and '{tensors[twice[0]].file}' both contain '{twice[0]}'; copy the model again.")
        tensors |= entries
    return tensors


def header_entries(file: Path, header: bytes) -> dict[str, StoredTensor]:
    """The tensors in one header, checked to be contiguous and to match their shapes. Raises ModelError."""
    payload = 8 + len(header)
    try:
        document = json.loads(header, object_pairs_hook=_without_duplicates)
        tensors = {key: _entry(file, key, entry, payload) for key, entry in document.items() if key != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ModelError(f"'{file}' has a damaged safetensors header ({error}); copy the model again.") from error
    reached = payload
    for key, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
        if tensor.start != reached:
            raise ModelError(f"'{file}' has a damaged safetensors header (tensor '{key}' is misplaced); copy the model again.")
        reached = tensor.end
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object. Raises ValueError if a key occurs twice."""
    if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
        raise ValueError(f"the key '{twice[0]}' occurs twice")
    return dict(pairs)


def _entry(file: Path, key: str, entry: Mapping[str, Any], payload: int) -> StoredTensor:
    """Parse one tensor of a header. Raises ValueError, TypeError or KeyError if it is invalid."""
    start, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(size) for size in entry["shape"])
    dtype = str(entry["dtype"])
    if dtype not in BITS:
        raise ValueError(f"tensor '{key}' has the unknown dtype '{dtype}'")
    if not 0 <= start <= end or min(shape, default=0) < 0 or math.prod(shape) * BITS[dtype] != 8 * (end - start):
        raise ValueError(f"tensor '{key}' of shape {shape} and dtype {dtype} cannot have {end - start} bytes")
    return StoredTensor(file, dtype, shape, payload + start, payload + end)


def find_tensor(tensors: Mapping[str, StoredTensor], prefix: str, path: str) -> StoredTensor | None:
    """The stored tensor for a parameter path, with or without the base model's prefix."""
    return tensors.get(path) or tensors.get(path.removeprefix(f"{prefix}.")) or tensors.get(f"{prefix}.{path}")


def stored_dtype(folder: Path) -> str:
    """`float32`, `float16` or `bfloat16`: the dtype of most floating-point values in a folder.

    Raises:
        ModelError: weights have an unsupported dtype (see `check_dtypes`), or the files are damaged.
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
    """Check that every weight is stored in float32, float16 or bfloat16, so that casting it is safe.

    Raises:
        ModelError: a weight is float64, or has a dtype that only quantisation produces, and no config says how to interpret it.
    """
    for key, tensor in weights.items():
        if tensor.dtype in FLOATS:
            continue
        remedy = f"use the unquantised model, since no config says how to interpret these {_named(tensor.dtype)} weights"
        if tensor.dtype == "F64":
            remedy = "save the model in float32: `model.float().save_pretrained(folder)`"
        raise ModelError(
            f"The weight '{key}' in '{folder}' is stored as {tensor.dtype}, but offcomp reads only float32, float16 and "
            f"bfloat16; {remedy}."
        )


def _named(dtype: str) -> str:
    """`int8` for I8, `uint8` for U8, `bool` for BOOL, `float8` for every F8."""
    kinds = {"I": "int", "U": "uint", "F": "float", "C": "complex"}
    return "bool" if dtype == "BOOL" else kinds[dtype[0]] + dtype[1:].partition("_")[0]


def same_values(left: StoredTensor, right: StoredTensor) -> bool:
    """Return whether two stored tensors are equal after conversion to float32; stops at the first chunk that differs."""
    if left.shape != right.shape:
        return False
    return all(
        np.array_equal(_read_chunk(left, start), _read_chunk(right, start)) for start in range(0, left.num_parameters, CHUNK)
    )


def _read_chunk(tensor: StoredTensor, start: int) -> NDArray[np.float32]:
    """Up to `CHUNK` values of a stored tensor starting at index `start`."""
    size = min(CHUNK, tensor.num_parameters - start)
    width = tensor.num_bytes // max(tensor.num_parameters, 1)
    return as_float32(tensor.dtype, np.fromfile(tensor.file, np.uint8, size * width, offset=tensor.start + start * width))


def as_float32(dtype: str, content: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The values of a safetensors tensor, flattened; its raw bytes if they are not floating-point numbers."""
    if dtype == "BF16":
        return (content.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return content.view(NUMPY_FLOATS.get(dtype, np.uint8)).astype("<f4", copy=False)
