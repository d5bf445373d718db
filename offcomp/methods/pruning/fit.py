"""The largest entries of a matrix and their positions, and the decoder that restores them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.methods.pruning.method import SIDE_BITS, Pruning, column_bits, count_bits
from offcomp.methods.pruning.top_k import largest_mask
from offcomp.numerics.accounting import Budget, code_counts
from offcomp.numerics.bits import pack_bits, unpack_bits
from offcomp.numerics.progress import Report
from offcomp.numerics.storage import pack

PIECE_ENTRIES = 1 << 18


def fit(
    method: Pruning, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Keep the `size` largest entries, the first among equal ones. The seed is not used: nothing is random."""
    rows, cols = matrix.shape
    entries = matrix.float()
    mask = largest_mask(entries, size)
    shapes = method.tensor_shapes(rows, cols, size)
    tensors = {"values": _values(entries, mask, size)[None], "sides": pack_bits(torch.tensor([rows, cols]), SIDE_BITS)}
    if "mask" in shapes:
        tensors["mask"] = pack_bits(mask.reshape(-1).view(torch.uint8), 1)
    else:
        tensors["columns"] = pack_bits(_columns(mask, size), column_bits(cols))
        counts = torch.cat([piece.sum(1) for piece in mask.split(max(1, PIECE_ENTRIES // cols))])
        tensors["row_counts"] = pack_bits(counts, count_bits(cols))
    return CompressedMatrix(pack(tensors, budget.dtype), kept_entries, size, codes=code_counts(shapes))


def kept_entries(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: put the kept values at their positions."""
    values = tensors["values"][0]
    rows, cols = unpack_bits(tensors["sides"], SIDE_BITS, 2).tolist()
    matrix, done, start = torch.zeros(rows, cols), 0, 0
    counts = None if "mask" in tensors else unpack_bits(tensors["row_counts"], count_bits(cols), rows)
    for part in matrix.split(max(1, PIECE_ENTRIES // cols)):
        if counts is None:
            at, columns = unpack_bits(tensors["mask"], 1, part.numel(), start * cols).reshape(part.shape).nonzero().T
        else:
            own = counts[start : start + len(part)]
            at = torch.arange(len(part)).repeat_interleave(own)
            columns = unpack_bits(tensors["columns"], column_bits(cols), len(at), done)
        part[at, columns] = values[done : done + len(at)]
        done += len(at)
        start += len(part)
    if done != len(values):
        raise ValueError(f"{done} positions for {len(values)} values: the stored tensors are damaged")
    return matrix


def _values(entries: Tensor, mask: Tensor, kept: int) -> Tensor:
    """The kept values in row-major order, in chunks: indexing with the whole mask takes 16 bytes per kept value."""
    values, start = torch.empty(kept, device=entries.device), 0
    for piece, where in zip(entries.reshape(-1).split(PIECE_ENTRIES), mask.reshape(-1).split(PIECE_ENTRIES), strict=True):
        found = piece[where]
        values[start : start + len(found)] = found
        start += len(found)
    return values


def _columns(mask: Tensor, kept: int) -> Tensor:
    """The column of each kept entry in row-major order, also in chunks."""
    columns, start = torch.empty(kept, dtype=torch.int32, device=mask.device), 0
    for piece in mask.split(max(1, PIECE_ENTRIES // mask.shape[1])):
        found = piece.nonzero()[:, 1]
        columns[start : start + len(found)] = found
        start += len(found)
    return columns
