"""Store tiny checkpoints in the dtypes that real checkpoints use, and read what a model folder stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from offcomp.models.safetensors_files import read_header, weight_files

Dtypes = Callable[[str, Tensor], torch.dtype]
"""Type of functions that return the dtype in which to store the tensor with this key."""


def mixed(key: str, tensor: Tensor) -> torch.dtype:
    """Return bfloat16 for attention weights, float16 for other vectors and float32 for other matrices, including embeddings."""
    return torch.bfloat16 if "attention" in key or "attn" in key else torch.float16 if tensor.ndim < 2 else torch.float32


DTYPES: dict[str, Dtypes] = {
    "float16": lambda _key, _tensor: torch.float16,
    "bfloat16": lambda _key, _tensor: torch.bfloat16,
    "mixed": mixed,
}


def store_as(folder: Path, dtypes: Dtypes) -> Path:
    """Store every tensor of a model folder again, each in the dtype that `dtypes` returns for it, and return the folder."""
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata()
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118  # not a dict
        save_file({key: tensor.to(dtypes(key, tensor)) for key, tensor in tensors.items()}, file, metadata=metadata)
    return folder


def headers(folder: Path) -> dict[str, tuple[str, str, list[int]]]:
    """Return the file, dtype and shape of every tensor of a model folder, by key."""
    return {
        key: (file.name, entry["dtype"], entry["shape"])
        for file in weight_files(folder)
        for key, entry in json.loads(read_header(file)).items()
        if key != "__metadata__"
    }


def stored_bytes(folder: Path) -> int:
    """Return the number of bytes of a model folder's tensors, according to the headers of its files."""
    return sum(
        entry["data_offsets"][1] - entry["data_offsets"][0]
        for file in weight_files(folder)
        for key, entry in json.loads(read_header(file)).items()
        if key != "__metadata__"
    )


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in the folder, by its path relative to the folder."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
