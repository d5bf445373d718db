"""Rounding to a uniform grid: each row, or each block of a row, has its own step and keeps whole numbers of a few bits.

    ŵ = s (q - (2^bits - 1) / 2)      symmetric: 2^bits levels around zero, none of them zero itself
    ŵ = z + s q                       asymmetric: 2^bits levels up from z
    q in 0 .. 2^bits - 1

With blocks of b entries (the last of a row may be shorter) and k = ⌈cols / b⌉ blocks a row the stored parameters are

    rows · cols codes + rows · k scales (+ rows · k zero points) + 3 numbers for the decoder: cols, bits, block

so this saves bytes, bits / 32 of float32, and never parameters. Scales and zero points are kept in the storage dtype; one scale
a row is a vector, which int8 storage leaves in float32.

`search` shrinks the grid: what lies beyond it is clipped, and what lies within is rounded more finely. Shares of the full
range are tried, the best in squared error is kept, and scale and zero point are then fitted to the codes by least squares, as
long as that helps. At 2 and 3 bits this is most of the quality; without it the range is that of the block (round to nearest).
Compare HQQ and the clipping search of Banner et al., "Post training 4-bit quantization", NeurIPS 2019 (arXiv 1810.05723).

The official repository of arXiv 2302.04045 rounds each row to steps of (max - min) / 2^bits. That makes 2^bits + 1 levels, one
more than so many bits can number; it counts that number of bits an entry all the same, and two floats a row, and keeps floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from offcomp.methods.base import CompressedMatrix, Hints, Report, choose_size, ignore_progress, store_dense
from offcomp.numerics.accounting import Budget, Codes, Shapes, code_counts

if TYPE_CHECKING:
    from torch import Tensor

BITS = range(2, 9)
ABOUT_BITS = 32
ENTRIES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Quantization:
    """Whole numbers of 2 to 8 bits and a scale for each row or block."""

    name: ClassVar[str] = "quantization"
    role: ClassVar[str] = "quantization"
    title: ClassVar[str] = "Quantization"
    paper: ClassVar[str] = "Banner et al. 2019, arXiv 1810.05723"
    size_name: ClassVar[str] = "bits"
    memory: ClassVar[float] = 0.5
    quick: ClassVar[dict[str, Any]] = {}

    block: int = field(
        default=0,
        metadata={"help": "Entries of a row that share a scale. 0 is the whole row; 16 to 128 is usual.", "range": (0, 256)},
    )
    symmetric: bool = field(
        default=False, metadata={"help": "Levels lie evenly around zero. Otherwise a zero point is stored beside each scale."}
    )
    search: bool = field(
        default=True, metadata={"help": "Search the range of least squared error. Otherwise the range of the entries is taken."}
    )

    @property
    def calibrated(self) -> bool:
        """It needs the weights alone."""
        return False

    def sizes(self, rows: int, cols: int) -> range:
        """2 .. 8 bits, whatever the shape."""
        return BITS

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Codes, scales (a vector where a row has one), zero points where asymmetric, and three numbers for the decoder."""
        width = self._width(cols)
        blocks = -(-cols // width)
        scales = (rows,) if blocks == 1 else (rows, blocks)
        zeros = {} if self.symmetric else {"zeros": scales}
        return {"codes": Codes(rows * cols, size), "scales": scales, **zeros, "about": Codes(3, ABOUT_BITS)}

    def _width(self, cols: int) -> int:
        """Entries of a block."""
        return min(self.block or cols, cols)

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Passes over the matrix: one to round and pack, some thirty to search."""
        return 0.01 + rows * cols * (2e-8 + 2e-8 * size + 1.5e-7 * self.search)

    def fit(
        self,
        matrix: Tensor,
        budget: Budget,
        *,
        hints: Hints | None = None,
        seed: int = 0,
        report: Report = ignore_progress,
    ) -> CompressedMatrix:
        """Round to as many bits as the budget holds. The seed is not used: nothing is drawn."""
        from offcomp.numerics.storage import pack

        rows, cols = matrix.shape
        bits = choose_size(self, rows, cols, budget)
        if bits == 0:
            return store_dense(matrix, budget.dtype)
        entries = matrix.detach().float()
        shapes = self.tensor_shapes(rows, cols, bits)
        grid = self._grid(entries, bits, lambda fraction: report(0.8 * fraction))
        tensors = grid | self._codes(entries, bits, grid)
        stored = pack({name: tensors[name] for name in shapes}, budget.dtype)
        report(1.0)
        return CompressedMatrix(stored, grid_levels, bits, codes=code_counts(shapes))

    def _grid(self, entries: Tensor, bits: int, report: Report) -> dict[str, Tensor]:
        """Scales, and where asymmetric zero points, of every block."""
        from offcomp.numerics.grids import searched_grid, spanning_grid

        width = self._width(entries.shape[1])
        scales = entries.new_empty(len(entries), -(-entries.shape[1] // width))
        zeros = entries.new_empty(scales.shape)
        make = searched_grid if self.search else spanning_grid
        for rows, cols, blocks in _parts(entries.shape, width):
            scale, lowest = make(entries[rows, cols].reshape(-1, _block_width(cols, width)), bits, self.symmetric)
            scales[rows, blocks], zeros[rows, blocks] = (part.reshape(scales[rows, blocks].shape) for part in (scale, lowest))
            report(rows.stop / len(entries))
        shape = scales.shape if scales.shape[1] > 1 else scales.shape[:1]
        grid = {"scales": scales.reshape(shape), "zeros": zeros.reshape(shape)}
        return {"scales": grid["scales"]} if self.symmetric else grid

    def _codes(self, entries: Tensor, bits: int, grid: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Packed codes on this grid, and what the decoder must know beside."""
        import torch

        from offcomp.numerics.bits import pack_bits
        from offcomp.numerics.grids import nearest_codes

        width = self._width(entries.shape[1])
        codes = torch.empty(entries.shape, dtype=torch.uint8)
        scales, zeros = _scales_and_zeros(grid, bits)
        for rows, cols, blocks in _parts(entries.shape, width):
            part = entries[rows, cols].reshape(-1, _block_width(cols, width))
            nearest = nearest_codes(part, scales[rows, blocks].flatten(), zeros[rows, blocks].flatten(), bits)
            codes[rows, cols] = nearest.reshape(codes[rows, cols].shape).cpu()
        about = pack_bits(torch.tensor([entries.shape[1], bits, width]), ABOUT_BITS)
        return {"codes": pack_bits(codes.flatten(), bits), "about": about}


def grid_levels(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: the level of each code on the grid of its block."""
    import torch

    from offcomp.numerics.bits import unpack_bits

    cols, bits, width = unpack_bits(tensors["about"], ABOUT_BITS, 3).tolist()
    scales, zeros = _scales_and_zeros(tensors, bits)
    count = len(scales) * cols
    flat = torch.empty(count)
    for start in range(0, count, ENTRIES_AT_ONCE):
        place = flat[start : start + ENTRIES_AT_ONCE]
        place.copy_(unpack_bits(tensors["codes"], bits, len(place), start))
    matrix = flat.reshape(-1, cols)
    for rows, columns, blocks in _parts(matrix.shape, width):
        part = matrix[rows, columns]
        levels = part.reshape(len(part), -1, _block_width(columns, width))  # (rows, blocks, width)
        part[:] = torch.addcmul(zeros[rows, blocks, None], levels, scales[rows, blocks, None]).reshape(part.shape)
    return matrix


def _scales_and_zeros(grid: Mapping[str, Tensor], bits: int) -> tuple[Tensor, Tensor]:
    """Both as (rows, blocks); a symmetric grid has no zero points of its own."""
    from offcomp.numerics.grids import symmetric_lowest

    scales = grid["scales"].reshape(len(grid["scales"]), -1)
    return scales, grid["zeros"].reshape(scales.shape) if "zeros" in grid else symmetric_lowest(scales, bits)


def _parts(shape: Sequence[int], width: int) -> Iterator[tuple[slice, slice, slice]]:
    """Bands of rows, not too many entries at once: (rows, columns, blocks) of the whole blocks, and of the shorter last one."""
    rows, cols = shape
    whole = cols // width
    height = max(1, ENTRIES_AT_ONCE // cols)
    for top in range(0, rows, height):
        band = slice(top, min(top + height, rows))
        yield band, slice(0, whole * width), slice(0, whole)
        if whole * width < cols:
            yield band, slice(whole * width, cols), slice(whole, whole + 1)


def _block_width(columns: slice, width: int) -> int:
    return min(width, columns.stop - columns.start)
