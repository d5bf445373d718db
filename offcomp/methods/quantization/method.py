"""Rounding to a uniform grid: each row, or each block of a row, is stored as low-bit integers with its own scale.

    ŵ = s (q - (2^bits - 1) / 2)      symmetric: 2^bits levels around zero, none of them exactly zero
    ŵ = z + s q                       asymmetric: 2^bits levels, starting at z
    q in 0 .. 2^bits - 1

With blocks of b entries (the last block of a row may be shorter) and k = ⌈cols / b⌉ blocks per row, the stored parameters are

    rows · cols codes + rows · k scales (+ rows · k zero points) + 3 numbers for the decoder: cols, bits, block

Quantization therefore saves bytes (down to bits / 32 of the size in float32) but does not reduce the number of parameters.
Scales and zero points are stored in the storage dtype; if there is only one scale per row, they are vectors, which int8 storage
keeps in float32.

With `search`, the grid covers only part of the range: entries outside it are clipped, and entries inside it are rounded more
finely. The search tries several fractions of the full range, keeps the one with the smallest squared error, and then refits the
scale and zero point to the codes by least squares while the error decreases. At 2 and 3 bits, the search accounts for most of
the quality. Without `search`, the grid spans the full range of the block (round to nearest). Related methods are HQQ and the
clipping search of Banner et al., "Post training 4-bit quantization", NeurIPS 2019 (arXiv 1810.05723).

The official repository of arXiv 2302.04045 rounds each row to steps of (max - min) / 2^bits. This yields 2^bits + 1 levels, one
more than `bits` bits can represent. The reported size assumes `bits` bits per entry plus two floats per row, although the
rounded matrix is stored as floats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from offcomp.methods.base import Look, Method
from offcomp.numerics.accounting import Codes, Shapes

BITS = range(2, 9)
LAYOUT_BITS = 32


@dataclass(frozen=True)
class Quantization(Method):
    """Uniform quantization to 2 to 8 bits, with a scale for each row or block."""

    name: ClassVar[str] = "quantization"
    style_key: ClassVar[str] = "quantization"
    title: ClassVar[str] = "Quantization"
    paper: ClassVar[str] = "Banner et al. 2019, arXiv 1810.05723"
    decoders: ClassVar[tuple[str, ...]] = ("grid_levels",)
    look: ClassVar[Look | None] = Look("line-ew", "#7a7f8c", "#9aa0ae")
    size_name: ClassVar[str] = "bits"
    has_rank: ClassVar[bool] = False
    memory: ClassVar[float] = 1.3

    block: int = field(
        default=0,
        metadata={"help": "Number of entries per scale. 0 means the whole row; 16 to 128 is typical.", "range": (0, 256)},
    )
    symmetric: bool = field(
        default=False, metadata={"help": "Make the levels symmetric around zero. Otherwise, each scale has a zero point."}
    )
    search: bool = field(
        default=True, metadata={"help": "Search for the range with the smallest squared error. Otherwise, use the full range."}
    )

    def sizes(self, rows: int, cols: int) -> range:
        """The possible bit widths, from 2 to 8, regardless of the shape."""
        return BITS

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Codes, scales (a vector if there is one per row), zero points if asymmetric, and three numbers for the decoder."""
        width = self.width(cols)
        blocks = -(-cols // width)
        scales = (rows,) if blocks == 1 else (rows, blocks)
        zeros = {} if self.symmetric else {"zeros": scales}
        return {"codes": Codes(rows * cols, size), "scales": scales, **zeros, "about": Codes(3, LAYOUT_BITS)}

    def width(self, cols: int) -> int:
        """Number of entries in a block."""
        return min(self.block or cols, cols)

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Time for passes over the matrix: one for rounding and packing, and about thirty for the search."""
        return 0.01 + rows * cols * (2e-8 + 2e-8 * size + 1.5e-7 * self.search)
