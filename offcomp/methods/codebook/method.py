"""Autoencoder with discrete latents: a row is cut into short pieces, each stored as the index of its nearest codeword.

    ŵ_i = s_i · [ c(k_i1) | c(k_i2) | ... ] + o_i        (+ a_i B with a low-rank part)

The encoder is a nearest-codeword search, and the latents k are integers of b bits. The decoder is a codebook c of 2^b codewords
of length d, shared by all rows of the group, with one scale s_i per row. The codebook is stored only once per group. With
several stages, each stage encodes the residual of the previous stages. For n rows, m columns, S stages and rank r, the stored
tensors are

    codes          n · ⌈m/d⌉ · S integers of b bits, packed
    codewords      S · 2^b · d
    row_scales     n integers of 8 bits (`codebook.py`)
    layout         7 numbers of 32 bits: n, m, d, b, S, and the bounds of the scale range
    outliers       residuals (o) and positions (`numerics.positions`) of the entries with the largest coding errors, because a
                   few transformer weights are 20 times as large as most others
    left, right    r · (n + m)

The budget determines d and b (up to 10 bits per code), or only b if `codeword_length` is set. Each row is scaled by its root
mean square, so that one codebook fits all module kinds and layers. After encoding, the scale is refitted by least squares.

Without calibration text, this is product quantization (Jégou, Douze, Schmid 2011) of rows or, with several stages, residual
quantization. Van den Oord et al. (2017, arXiv 1711.00937) train a similar codebook with gradients; we use k-means.

With `feedback`, codes are chosen using calibration text as in GPTQ (Frantar et al., 2023, arXiv 2210.17323) and GPTVQ (van
Baalen et al., 2024, arXiv 2402.15319). In contrast to these papers, the codewords are learned from the weights alone, the
moments exclude special tokens and weight each token by its output (plain moments severely degrade encoder models), and each
member is encoded using inputs computed with the previously encoded members in place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from offcomp.methods.base import Look, Method
from offcomp.numerics.accounting import Codes, Shapes, Size, stored_size
from offcomp.numerics.positions import position_shapes

LENGTHS = {16: 1.2, 12: 1.25, 8: 1.33, 6: 1.47, 4: 1.7, 3: 1.9, 2: 2.2, 1: 2.7}
"""Codeword length -> G: the squared error at b bits is about G · 2^(-2b/length) (measured on MiniLM-L6; always G >= 1)."""
USUAL_BITS = 10
"""Maximum bits per code if the budget determines it: more codewords hardly help, and each additional bit doubles the time."""
CODEBOOK_SHARE = 0.25
"""Maximum storage for the codewords, as a fraction of the storage for the codes."""
NOTICEABLE = 0.87
"""Each rate step must reduce the squared error to at most this fraction of the previous step's error.

Smaller gains are lost in the tails of the distribution, which a small number of codewords cannot cover.
"""
LARGEST_BITS = 12
LARGEST_LENGTH = 32
LAYOUT_NUMBERS = 7


@dataclass(frozen=True)
class CodebookAutoencoder(Method):
    """Autoencoder whose latents are indices into a codebook shared by all rows."""

    name: ClassVar[str] = "autoencoder"
    style_key: ClassVar[str] = "codebook"
    title: ClassVar[str] = "Autoencoder, codebook"
    paper: ClassVar[str] = "Jégou et al. 2011; van Baalen et al. 2024, arXiv 2402.15319"
    decoders: ClassVar[tuple[str, ...]] = ("decoded_codes",)
    look: ClassVar[Look | None] = Look("square", "#009e73", "#35c79a")
    size_name: ClassVar[str] = "rate step"
    has_rank: ClassVar[bool] = False
    memory: ClassVar[float] = 1.9
    fast_options: ClassVar[dict[str, Any]] = {"iterations": 5}

    preset: str = field(default="codebook", metadata={"help": "Discrete latents, shared codebook.", "choices": ("codebook",)})
    codeword_length: int = field(
        default=0,
        metadata={"help": "Weights per codeword. 0 chooses a length to suit the budget.", "range": (0, LARGEST_LENGTH)},
    )
    stages: int = field(
        default=1, metadata={"help": "Codes per piece. Each code encodes the residual of the previous ones.", "range": (1, 4)}
    )
    rank: int = field(default=0, metadata={"help": "Rank of an additional low-rank part.", "range": (0, 1024)})
    outliers: float = field(
        default=0.0003,
        metadata={"help": "Fraction of entries whose coding errors are stored, largest errors first.", "range": (0.0, 0.05)},
    )
    iterations: int = field(default=15, metadata={"help": "Number of k-means iterations for the codewords.", "range": (1, 200)})
    feedback: bool = field(
        default=False,
        metadata={"help": "Use calibration text to choose codes that compensate for earlier errors."},
    )
    damping: float = field(
        default=0.3,
        metadata={
            "help": "Damping for feedback, relative to the mean moment. Higher values rely less on the text.",
            "range": (1e-3, 100.0),
        },
    )

    @property
    def calibrated(self) -> bool:
        """Whether codes are chosen with feedback, the only option that needs calibration text."""
        return self.feedback

    def sizes(self, rows: int, cols: int) -> range:
        """The rate steps available for this shape, starting at 1."""
        return range(1, len(rate_steps(self, rows, cols)) + 1)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Codes, codewords, scales and layout, plus any outliers and low-rank factors."""
        return _shapes(self, rows, cols, *rate_steps(self, rows, cols)[size - 1])

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Time to compare pieces with codewords and, with feedback, to process the text and correct the weights."""
        length, bits = rate_steps(self, rows, cols)[max(size, 1) - 1]
        pieces = self.stages * rows * cols / length
        learning = self.iterations * min(pieces, 128 << bits)
        feedback = rows * cols * 2e-6 if self.feedback else 0.0
        return 0.05 + (pieces + learning) * 2**bits * (3e-9 + 5e-11 * length) + feedback


def num_outliers(method: CodebookAutoencoder, rows: int, cols: int) -> int:
    """Number of outliers, the entries whose coding errors are stored."""
    return round(method.outliers * rows * cols)


def _shapes(method: CodebookAutoencoder, rows: int, cols: int, length: int, bits: int) -> Shapes:
    shapes: dict[str, tuple[int, ...] | Codes] = {
        "codes": Codes(rows * -(-cols // length) * method.stages, bits),
        "row_scales": Codes(rows, 8),
        "codewords": (method.stages * length << bits,),
        "layout": Codes(LAYOUT_NUMBERS, 32),
    }
    if count := num_outliers(method, rows, cols):
        shapes["outliers"] = (count,)
        shapes |= {f"outlier_{part}": codes for part, codes in position_shapes(count, rows * cols).items()}
    if method.rank:
        shapes |= {"left": (rows, method.rank), "right": (method.rank, cols)}
    return shapes


@lru_cache(maxsize=256)
def rate_steps(method: CodebookAutoencoder, rows: int, cols: int) -> tuple[tuple[int, int], ...]:
    """(codeword length, bits) for each size.

    Each size has a smaller expected error than the previous size, and at least as many parameters and bytes.
    """
    if method.codeword_length:
        return tuple((method.codeword_length, bits) for bits in range(1, LARGEST_BITS + 1))
    steps: list[tuple[int, int]] = []
    before, error = Size(0, 0), 1 / NOTICEABLE
    for step in ((length, bits) for length in LENGTHS for bits in range(1, USUAL_BITS + 1)):
        shapes = _shapes(method, rows, cols, *step)
        stored, expected = stored_size(shapes, "float32"), min(1.0, LENGTHS[step[0]] * 4.0 ** (-step[1] / step[0]))
        codes, codewords = (stored_size({name: shapes[name]}, "float32").num_bytes for name in ("codes", "codewords"))
        larger = stored.num_bytes > before.num_bytes and stored.num_parameters >= before.num_parameters
        if larger and codewords <= CODEBOOK_SHARE * codes and expected <= NOTICEABLE * error:
            steps.append(step)
            before, error = stored, expected
    return tuple(steps) or ((1, 1),)
