"""Convert tensors to and from their storage format on disk, which `accounting.storage_layout` describes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from offcomp.errors import InputError
from offcomp.numerics.accounting import SCALE_SUFFIX
from offcomp.numerics.chunks import row_chunks

INT8_LEVELS = 127
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
ALIGNMENT = 64  # bytes


def pack(tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Convert tensors for storage: contiguous, on the CPU, with floats in `dtype` and packed codes (uint8) unchanged.

    The result shares no memory with the input. Raises InputError if a value is not finite or overflows the dtype (the
    maximum for float16 is 65504).
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.uint8:
            stored[name] = tensor.detach().to("cpu", copy=True).contiguous()
            continue
        value = tensor.detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
        if num_not_finite(value):
            raise InputError(f"{name} contains values that are not finite and cannot be stored; check the weights")
        if dtype == "int8" and value.ndim == 2:
            scale = value.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / INT8_LEVELS
            stored[name] = (value / scale[:, None]).round().clamp(-INT8_LEVELS, INT8_LEVELS).to(torch.int8)
            stored[name + SCALE_SUFFIX] = scale
        elif dtype in HALVES:
            stored[name] = value.to(HALVES[dtype])
            if num_not_finite(stored[name]):
                largest = torch.finfo(HALVES[dtype]).max
                raise InputError(
                    f"{name} has a value of magnitude {value.abs().max():.3g}, but the largest {dtype} value is {largest:.5g}; "
                    "store it as float32"
                )
        else:
            stored[name] = value
    return stored


def num_not_finite(values: Tensor) -> int:
    """The number of entries that are infinite or NaN."""
    rows = values if values.ndim > 1 else values.reshape(-1, 1)
    return values.numel() - sum(int(chunk.isfinite().sum()) for chunk in row_chunks(rows))


def unpack(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Decode stored tensors, with floats in float32. This is the inverse of `pack`, up to rounding.

    Tensors that need no conversion may share memory with the stored tensors, so do not modify the result. Tensors whose memory
    is not aligned like that of torch's own tensors, for example in a memory-mapped file, are always copied, because sums would
    otherwise differ in the last digits.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in stored.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        if value.dtype == torch.uint8:
            tensors[name] = value
            continue
        scale = stored.get(name + SCALE_SUFFIX)
        exact = value.to(torch.float32, copy=value.data_ptr() % ALIGNMENT != 0)
        tensors[name] = exact if scale is None else exact * scale[:, None]
    return tensors
