"""The safetensors files of a model folder, read without torch: eight bytes of header length, JSON, then the tensors."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offcomp.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
MAX_JSON_BYTES = 50_000_000
CHUNK = 1 << 20

FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: `start` and `end` are byte offsets in `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def num_parameters(self) -> int:
        """The product of the shape."""
        return math.prod(self.shape)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelError: the file cannot be read, is unreasonably large, or is no JSON object.
    """
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"'{file}' is larger than {MAX_JSON_BYTES // 10**6} MB, too large for a JSON file of a model.")
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{file}' cannot be read as JSON ({error}); restore it from the original model.") from error
    if not isinstance(document, dict):
        raise ModelError(f"'{file}' holds no JSON object; restore it from the original model.")
    return document


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that make up the model: one, or all shards of the index.

    Raises:
        ModelError: there are none, they are pickles, or a shard is missing.
    """
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if (folder / INDEX).is_file():
        return _shards(folder)
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise ModelError(
            f"The weights in '{folder}' are pickled ('{pickles[0]}'), and offcomp reads safetensors only; convert them "
            "with `save_pretrained` of a current transformers."
        )
    raise ModelError(f"The folder '{folder}' has no weights: '{WEIGHTS}' or '{INDEX}' is needed.")


def _shards(folder: Path) -> tuple[Path, ...]:
    """The files an index names, each checked to lie in the folder itself."""
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"'{folder / INDEX}' has no 'weight_map'; restore it from the original model.")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"'{folder / INDEX}' names '{name}', which is no safetensors file of that folder.")
        if not (folder / name).is_file():
            raise ModelError(f"The shard '{name}' is missing from '{folder}'; copy the model again.")
    return tuple(folder / name for name in names)


def read_header(file: Path) -> bytes:
    """The header's JSON bytes.

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
        raise ModelError(f"'{file}' is no complete safetensors file: its header is cut off; copy the model again.")
    return header


def stored_tensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """Every tensor of the files by its key, with each file's size checked against its header.

    Raises:
        ModelError: a header is unreadable, or a file is shorter or longer than its header says.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        header = read_header(file)
        found = dict(_entries(file, header))
        expected = max((tensor.end for tensor in found.values()), default=8 + len(header))
        actual = file.stat().st_size
        if actual != expected:
            raise ModelError(
                f"'{file}' has {actual} bytes but its header describes {expected}: it is truncated or damaged; "
                "copy the model again."
            )
        tensors |= found
    return tensors


def _entries(file: Path, header: bytes) -> Iterator[tuple[str, StoredTensor]]:
    """Keys and tensors of one header."""
    payload = 8 + len(header)
    try:
        for key, entry in json.loads(header).items():
            if key == "__metadata__":
                continue
            start, end = (int(offset) for offset in entry["data_offsets"])
            shape = tuple(int(size) for size in entry["shape"])
            if not 0 <= start <= end or min(shape, default=0) < 0:
                raise ValueError(f"tensor '{key}' has an impossible size")
            yield key, StoredTensor(file, str(entry["dtype"]), shape, payload + start, payload + end)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"'{file}' has a damaged safetensors header ({error}); copy the model again.") from error


def find_tensor(tensors: Mapping[str, StoredTensor], prefix: str, path: str) -> StoredTensor | None:
    """The stored tensor of a parameter path, whether or not the file has the base model's prefix."""
    return tensors.get(path) or tensors.get(path.removeprefix(f"{prefix}.")) or tensors.get(f"{prefix}.{path}")


def stored_dtype(folder: Path) -> str:
    """`float32`, `float16` or `bfloat16`: what most of the floating-point values of a folder are stored in.

    Raises:
        ModelError: most values have another type (such weights are already quantised), or the files are damaged.
    """
    sizes: Counter[str] = Counter()
    for tensor in stored_tensors(weight_files(folder)).values():
        sizes[tensor.dtype] += tensor.num_parameters
    dtype = max(sizes, key=lambda name: sizes[name], default="nothing")
    if dtype not in FLOATS:
        raise ModelError(
            f"The weights in '{folder}' are stored as {dtype}; offcomp reads float32, float16 and bfloat16: "
            "give the model before it was quantised."
        )
    return FLOATS[dtype]


def same_bytes(left: StoredTensor, right: StoredTensor) -> bool:
    """Whether two stored tensors hold the same values; stops at the first chunk that differs."""
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    with left.file.open("rb") as first, right.file.open("rb") as second:
        first.seek(left.start)
        second.seek(right.start)
        for done in range(0, left.end - left.start, CHUNK):
            size = min(CHUNK, left.end - left.start - done)
            if first.read(size) != second.read(size):
                return False
    return True
