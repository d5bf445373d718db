"""Round a matrix to the grids of its blocks, and decode the codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from offcomp.methods.quantization.method import Quantization
from offcomp.numerics.chunks import chunk_height
from offcomp.numerics.grids import nearest_codes, searched_grid, spanning_grid
from offcomp.numerics.progress import Report


@dataclass(frozen=True)
class Grid:
    """Scale and lowest level (rows, blocks) of each block of `width` entries; the last block of a row may be shorter."""

    scales: Float[Tensor, "rows blocks"]
    lowest: Float[Tensor, "rows blocks"]
    width: int

    def codes(self, entries: Float[Tensor, "rows cols"], bits: int) -> UInt8[Tensor, "rows cols"]:
        """The index of the level nearest to each entry, on the CPU."""
        codes = torch.empty(entries.shape, dtype=torch.uint8)
        for rows, cols, blocks in _parts(entries.shape, self.width):
            part = entries[rows, cols].reshape(-1, _block_width(cols, self.width))
            nearest = nearest_codes(part, self.scales[rows, blocks].flatten(), self.lowest[rows, blocks].flatten(), bits)
            codes[rows, cols] = nearest.reshape(codes[rows, cols].shape).cpu()
        return codes

    def levels(self, codes: Tensor) -> Float[Tensor, "rows cols"]:
        """The level of each code (rows, cols)."""
        matrix = codes.to(self.scales)
        for rows, columns, blocks in _parts(matrix.shape, self.width):
            part = matrix[rows, columns]
            steps = part.reshape(len(part), -1, _block_width(columns, self.width))  # (rows, blocks, width)
            part[:] = torch.addcmul(self.lowest[rows, blocks, None], steps, self.scales[rows, blocks, None]).reshape(part.shape)
        return matrix

    def of_column(self, column: int) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Scale and lowest level of each entry of a column."""
        block = column // self.width
        return self.scales[:, block], self.lowest[:, block]

    def of_row(self, row: int, cols: int) -> tuple[Float[Tensor, " cols"], Float[Tensor, " cols"]]:
        """Scale and lowest level of each entry of a row."""
        scales, lowest = (part[row].repeat_interleave(self.width)[:cols] for part in (self.scales, self.lowest))
        return scales, lowest


def grid_of(method: Quantization, entries: Float[Tensor, "rows cols"], bits: int, report: Report) -> Grid:
    """The grids of all blocks."""
    width = method.width(entries.shape[1])
    scales = entries.new_empty(len(entries), -(-entries.shape[1] // width))
    lowest = entries.new_empty(scales.shape)
    make = searched_grid if method.search else spanning_grid
    for rows, cols, blocks in _parts(entries.shape, width):
        found = make(entries[rows, cols].reshape(-1, _block_width(cols, width)), bits, method.symmetric)
        scales[rows, blocks], lowest[rows, blocks] = (part.reshape(scales[rows, blocks].shape) for part in found)
        report(rows.stop / len(entries))
    return Grid(scales, lowest, width)


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
