"""Select the largest entries of a matrix, and decode them from their values and positions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.methods.pruning.method import SIDE_BITS, Pruning, column_bits, count_bits
from offcomp.numerics.accounting import Budget, code_counts
from offcomp.numerics.bits import pack_bits, unpack_bits
from offcomp.numerics.progress import Report
from offcomp.numerics.storage import pack
from offcomp.numerics.top_k import largest_mask


def fit(
    method: Pruning, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Keep the `size` largest entries; ties are resolved in row-major order. The seed is not used because nothing is random."""
    rows, cols = matrix.shape
    entries = matrix.float()
    mask = largest_mask(entries, size)
    shapes = method.tensor_shapes(rows, cols, size)
    tensors = {"values": entries[mask][None], "sides": pack_bits(torch.tensor([rows, cols]), SIDE_BITS)}
    if "mask" in shapes:
        tensors["mask"] = pack_bits(mask.reshape(-1).byte(), 1)
    else:
        tensors["columns"] = pack_bits(mask.nonzero()[:, 1], column_bits(cols))
        tensors["row_counts"] = pack_bits(mask.sum(1), count_bits(cols))
    return CompressedMatrix(pack(tensors, budget.dtype), kept_entries, size, codes=code_counts(shapes))


def kept_entries(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: place the kept values at their positions in a matrix of zeros."""
    values = tensors["values"][0]
    rows, cols = unpack_bits(tensors["sides"], SIDE_BITS, 2).tolist()
    matrix = torch.zeros(rows, cols)
    if "mask" in tensors:
        matrix[unpack_bits(tensors["mask"], 1, rows * cols).reshape(rows, cols).bool()] = values
    else:
        counts = unpack_bits(tensors["row_counts"], count_bits(cols), rows)
        columns = unpack_bits(tensors["columns"], column_bits(cols), len(values))
        matrix[torch.arange(rows).repeat_interleave(counts), columns] = values
    return matrix
