"""Quantize each row or block to its own grid, and decode the stored codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.methods.quantization.method import LAYOUT_BITS, Quantization
from offcomp.numerics.accounting import Budget, code_counts
from offcomp.numerics.bits import pack_bits, unpack_bits
from offcomp.numerics.chunks import chunk_height
from offcomp.numerics.grids import nearest_codes, searched_grid, spanning_grid, symmetric_lowest
from offcomp.numerics.progress import Report
from offcomp.numerics.storage import pack


def fit(
    method: Quantization, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Round to `size` bits. The method is deterministic, so the seed is not used."""
    entries = matrix.float()
    shapes = method.tensor_shapes(len(matrix), matrix.shape[1], size)
    grid = _grid(method, entries, size, lambda fraction: report(0.8 * fraction))
    tensors = grid | _codes(entries, size, method.width(matrix.shape[1]), grid)
    stored = pack({name: tensors[name] for name in shapes}, budget.dtype)
    return CompressedMatrix(stored, grid_levels, size, codes=code_counts(shapes))


def _grid(method: Quantization, entries: Tensor, bits: int, report: Report) -> dict[str, Tensor]:
    """Scales of all blocks, and zero points if the grid is asymmetric."""
    width = method.width(entries.shape[1])
    scales = entries.new_empty(len(entries), -(-entries.shape[1] // width))
    zeros = entries.new_empty(scales.shape)
    make = searched_grid if method.search else spanning_grid
    for rows, cols, blocks in _parts(entries.shape, width):
        scale, lowest = make(entries[rows, cols].reshape(-1, _block_width(cols, width)), bits, method.symmetric)
        scales[rows, blocks], zeros[rows, blocks] = (part.reshape(scales[rows, blocks].shape) for part in (scale, lowest))
        report(rows.stop / len(entries))
    shape = scales.shape if scales.shape[1] > 1 else scales.shape[:1]
    grid = {"scales": scales.reshape(shape), "zeros": zeros.reshape(shape)}
    return {"scales": grid["scales"]} if method.symmetric else grid


def _codes(entries: Tensor, bits: int, width: int, grid: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Packed codes for the given grid, and the layout that the decoder needs."""
    codes = torch.empty(entries.shape, dtype=torch.uint8)
    scales, zeros = _scales_and_zeros(grid, bits)
    for rows, cols, blocks in _parts(entries.shape, width):
        part = entries[rows, cols].reshape(-1, _block_width(cols, width))
        nearest = nearest_codes(part, scales[rows, blocks].flatten(), zeros[rows, blocks].flatten(), bits)
        codes[rows, cols] = nearest.reshape(codes[rows, cols].shape).cpu()
    layout = pack_bits(torch.tensor([entries.shape[1], bits, width]), LAYOUT_BITS)
    return {"codes": pack_bits(codes.flatten(), bits), "about": layout}


def grid_levels(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: convert each code to its level on the grid of its block."""
    cols, bits, width = unpack_bits(tensors["about"], LAYOUT_BITS, 3).tolist()
    scales, zeros = _scales_and_zeros(tensors, bits)
    matrix = unpack_bits(tensors["codes"], bits, len(scales) * cols).float().reshape(-1, cols)
    for rows, columns, blocks in _parts(matrix.shape, width):
        part = matrix[rows, columns]
        levels = part.reshape(len(part), -1, _block_width(columns, width))  # (rows, blocks, width)
        part[:] = torch.addcmul(zeros[rows, blocks, None], levels, scales[rows, blocks, None]).reshape(part.shape)
    return matrix


def _scales_and_zeros(grid: Mapping[str, Tensor], bits: int) -> tuple[Tensor, Tensor]:
    """Scales and zero points, both (rows, blocks); for a symmetric grid, the scales determine the zero points."""
    scales = grid["scales"].reshape(len(grid["scales"]), -1)
    return scales, grid["zeros"].reshape(scales.shape) if "zeros" in grid else symmetric_lowest(scales, bits)


def _parts(shape: Sequence[int], width: int) -> Iterator[tuple[slice, slice, slice]]:
    """Slices (rows, columns, blocks) for each band of rows: its full-width blocks, then the shorter last block, if any."""
    rows, cols = shape
    whole = cols // width
    height = chunk_height(cols)
    for top in range(0, rows, height):
        band = slice(top, min(top + height, rows))
        yield band, slice(0, whole * width), slice(0, whole)
        if whole * width < cols:
            yield band, slice(whole * width, cols), slice(whole, whole + 1)


def _block_width(columns: slice, width: int) -> int:
    return min(width, columns.stop - columns.start)
