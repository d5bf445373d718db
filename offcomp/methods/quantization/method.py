"""Rounding to a uniform grid: each row, or each block of a row, has its own scale and stores integers of a few bits.

    ŵ = s (q - (2^bits - 1) / 2)      symmetric: 2^bits levels around zero, none of them zero itself
    ŵ = z + s q                       asymmetric: 2^bits levels, starting at z
    q in 0 .. 2^bits - 1

With blocks of b entries (the last one in a row may be shorter) and k = ⌈cols / b⌉ blocks per row, the stored parameters are

    rows · cols codes + rows · k scales (+ rows · k zero points) + 3 numbers for the decoder: cols, bits, block

so this saves bytes (down to bits / 32 of float32) but never parameters. Scales and zero points are stored in the storage dtype;
with one scale per row they form a vector, which int8 storage leaves in float32.

`search` shrinks the grid: entries outside it are clipped, and those inside are rounded more finely. It tries fractions of the
full range, keeps the one with the least squared error, and then refits scale and zero point to the codes by least squares as
long as that helps. At 2 and 3 bits most of the quality comes from this; without it the grid spans the whole range of the block
(round to nearest). Compare HQQ and the clipping search of Banner et al., "Post training 4-bit quantization", NeurIPS 2019
(arXiv 1810.05723).

The official repository of arXiv 2302.04045 rounds each row to steps of (max - min) / 2^bits. That makes 2^bits + 1 levels, one
more than this number of bits can represent. It nevertheless counts only that many bits per entry plus two floats per row, and
actually stores floats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from offcomp.methods.base import Method
from offcomp.numerics.accounting import Codes, Shapes

BITS = range(2, 9)
LAYOUT_BITS = 32


@dataclass(frozen=True)
class Quantization(Method):
    """Integers of 2 to 8 bits and a scale for each row or block."""

    name: ClassVar[str] = "quantization"
    style_key: ClassVar[str] = "quantization"
    title: ClassVar[str] = "Quantization"
    paper: ClassVar[str] = "Banner et al. 2019, arXiv 1810.05723"
    size_name: ClassVar[str] = "bits"
    memory: ClassVar[float] = 1.3

    block: int = field(
        default=0,
        metadata={"help": "Entries of a row that share a scale. 0 means the whole row; 16 to 128 is usual.", "range": (0, 256)},
    )
    symmetric: bool = field(
        default=False, metadata={"help": "Levels symmetric around zero. Otherwise a zero point is stored with each scale."}
    )
    search: bool = field(
        default=True, metadata={"help": "Search for the range with the least squared error. Otherwise use the full range."}
    )

    def sizes(self, rows: int, cols: int) -> range:
        """2 .. 8 bits, whatever the shape."""
        return BITS

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Codes, scales (a vector if one per row), zero points if asymmetric, and three numbers for the decoder."""
        width = self.width(cols)
        blocks = -(-cols // width)
        scales = (rows,) if blocks == 1 else (rows, blocks)
        zeros = {} if self.symmetric else {"zeros": scales}
        return {"codes": Codes(rows * cols, size), "scales": scales, **zeros, "about": Codes(3, LAYOUT_BITS)}

    def width(self, cols: int) -> int:
        """Number of entries in a block."""
        return min(self.block or cols, cols)

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Time for passes over the matrix: one to round and pack, about thirty to search."""
        return 0.01 + rows * cols * (2e-8 + 2e-8 * size + 1.5e-7 * self.search)
