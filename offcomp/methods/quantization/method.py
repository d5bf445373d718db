"""Rounding to a uniform grid: each row, or each block of a row, is stored as low-bit integers with its own scale.

    ŵ = s (q - (2^bits - 1) / 2)      symmetric: 2^bits levels around zero, none of them exactly zero
    ŵ = z + s q                       asymmetric: 2^bits levels, starting at z
    q in 0 .. 2^bits - 1              (+ A B with a low-rank part)

With blocks of b entries (the last block of a row may be shorter), k = ⌈cols / b⌉ blocks per row and rank r, the stored
parameters are

    rows · cols codes + rows · k scales (+ rows · k zero points) + 3 numbers for the decoder: cols, bits, block
    + r (rows + cols) integers of 4 bits and 2 r scales for the low-rank part

Quantization therefore saves bytes (down to bits / 32 of the size in float32) but does not reduce the number of parameters.
Scales and zero points are stored in the storage dtype; if there is only one scale per row, they are vectors, which int8 storage
keeps in float32.

With `search`, the grid covers only part of the range: entries outside it are clipped, and entries inside it are rounded more
finely. The search tries several fractions of the full range, keeps the one with the smallest squared error, and then refits the
scale and zero point to the codes by least squares as long as this lowers the error. At 2 and 3 bits, most of the quality is due
to the search. Without `search`, the grid spans the full range of the block (round to nearest). Related methods are HQQ and the
clipping search of Banner et al., "Post training 4-bit quantization", NeurIPS 2019 (arXiv 1810.05723).

With `rank`, a low-rank part is fitted in alternation with the integers, as in LoftQ (Li et al. 2024, arXiv 2310.08659). With
`feedback`, integers are chosen using calibration text as in GPTQ (Frantar et al. 2023, arXiv 2210.17323), and the low-rank part
minimises the output error, as in LQER (Zhang et al. 2024, arXiv 2402.02446) and CALDERA (Saha et al. 2024, arXiv 2405.18886);
see `feedback`. As in CALDERA, the factors are stored as integers too. The residual W - A B is quantized last, so that its
integers compensate for the rounding of the factors. `benchmarks/low_rank_codes.py` shows where a low-rank part helps.

The official repository of arXiv 2302.04045 rounds each row to steps of (max - min) / 2^bits. This yields 2^bits + 1 levels, one
more than `bits` bits can represent. The reported size assumes `bits` bits per entry plus two floats per row, although the
rounded matrix is stored as floats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from offcomp.methods.base import Look, Method
from offcomp.methods.svd.method import SVD
from offcomp.numerics.accounting import Codes, Shape, Shapes

BITS = range(2, 9)
LAYOUT_BITS = 32
FACTOR_BITS = 4
ROUNDS = 5
"""Number of alternating fits of the integers and the low-rank part, as in LoftQ."""


@dataclass(frozen=True)
class Quantization(Method):
    """Uniform quantization to 2 to 8 bits, with a scale for each row or block, and optionally a low-rank part."""

    name: ClassVar[str] = "quantization"
    style_key: ClassVar[str] = "quantization"
    title: ClassVar[str] = "Quantization"
    paper: ClassVar[str] = "Banner et al. 2019, arXiv 1810.05723"
    decoders: ClassVar[tuple[str, ...]] = ("grid_levels",)
    look: ClassVar[Look | None] = Look("line-ew", "#7a7f8c", "#9aa0ae")
    size_name: ClassVar[str] = "bits"
    has_rank: ClassVar[bool] = False

    block: int = field(
        default=0,
        metadata={"help": "Number of entries per scale. 0 means the whole row; 16 to 128 is typical.", "range": (0, 256)},
    )
    symmetric: bool = field(
        default=False,
        metadata={"help": "Make the levels symmetric around zero. Otherwise, a zero point is stored with each scale."},
    )
    search: bool = field(
        default=True, metadata={"help": "Search for the range with the smallest squared error. Otherwise, use the full range."}
    )
    rank: int = field(
        default=0,
        metadata={
            "help": "Rank of an additional low-rank part, stored in 4 bits per number.",
            "range": (0, 1024),
            "omit_default": True,
        },
    )
    feedback: bool = field(
        default=False,
        metadata={"help": "Use calibration text to choose integers that compensate for earlier errors.", "omit_default": True},
    )
    damping: float = field(
        default=0.3,
        metadata={
            "help": "Damping for feedback, relative to the mean moment. Higher values rely less on the text.",
            "range": (1e-3, 100.0),
            "omit_default": True,
        },
    )
    toward_original: bool = field(
        default=True,
        metadata={
            "help": "With feedback, match a weight's outputs in the original model, not those for inputs with earlier errors.",
            "omit_default": True,
        },
    )

    @property
    def calibrated(self) -> bool:
        """Whether integers are chosen with feedback, the only option that needs calibration text."""
        return self.feedback

    @property
    def memory(self) -> float:  # type: ignore[override]
        """See `Method`; the low-rank part and feedback need copies of the matrix."""
        return 4.0 if self.rank or self.feedback else 1.3

    def sizes(self, rows: int, cols: int) -> range:
        """The possible bit widths, from 2 to 8, regardless of the shape."""
        return BITS

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Codes, scales (a vector if each row has just one), any zero points, numbers for the decoder, and any factors."""
        width = self.width(cols)
        blocks = -(-cols // width)
        scales = (rows,) if blocks == 1 else (rows, blocks)
        shapes: dict[str, Shape | Codes] = {"codes": Codes(rows * cols, size), "scales": scales}
        if not self.symmetric:
            shapes["zeros"] = scales
        shapes["about"] = Codes(3, LAYOUT_BITS)
        if rank := self.rank_of(rows, cols):
            shapes |= {"factors": Codes(rank * (rows + cols), FACTOR_BITS), "factor_scales": (2 * rank,)}
        return shapes

    def width(self, cols: int) -> int:
        """Number of entries in a block."""
        return min(self.block or cols, cols)

    def rank_of(self, rows: int, cols: int) -> int:
        """Rank of the low-rank part."""
        return min(self.rank, rows, cols)

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Time for passes over the matrix: one for rounding and packing, and about thirty for the search.

        Feedback adds a factorisation and a pass over the text. With a low-rank part, each round takes this time plus an SVD.
        """
        rounding = 0.01 + rows * cols * (2e-8 + 2e-8 * size + 1.5e-7 * self.search + 1e-6 * self.feedback)
        if not self.rank:
            return rounding
        return ROUNDS * (rounding + SVD().seconds(rows, cols, self.rank))
