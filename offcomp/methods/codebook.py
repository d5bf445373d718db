"""Autoencoder with discrete latents: a row is cut into short pieces, each stored as the number of its nearest codeword.

    ŵ_i = s_i · [ c(k_i1) | c(k_i2) | ... ]        (+ a_i B, with a low-rank part under it)

The encoder is the search for the nearest codeword, the latents k are whole numbers of b bits, the decoder is the codebook c
of 2^b codewords of length d, shared by all rows of the group, with a scale s_i a row. Grouping pays for the codebook once.
With several stages, each codes what the ones before leave over. Stored for rows n, columns m, stages S, rank r:

    codes          n · ⌈m/d⌉ · S numbers of b bits, packed
    codewords      S · 2^b · d
    row_scales     n numbers of 8 bits, and the 2 ends of their range (`numerics.codebooks`)
    layout         5 numbers of 32 bits: n, m, d, b, S
    left, right    r · (n + m)

d and b follow from the budget (`LADDER`, from 1/2 to 8 bits a weight), or b alone where `codeword_length` is given. The scale
of a row is its root mean square, so that one codebook fits all kinds and layers; after coding it is refitted by least squares.

Data-free this is product quantization (Jégou, Douze, Schmid 2011) of rows, and with several stages residual quantization;
van den Oord et al. 2017 (arXiv 1711.00937) train the like with gradients, where k-means does it here. With `feedback`, codes
are chosen on calibration text in the manner of GPTQ (Frantar et al. 2023, arXiv 2210.17323) and GPTVQ (van Baalen et al.
2024, arXiv 2402.15319). Where we differ from those: the codewords are learned from the weights alone, the moments leave out
special tokens and weigh tokens by their output (raw ones ruin encoders), and each member is coded on the inputs that the
members coded before it produce.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from offcomp.errors import InputError
from offcomp.methods.base import CompressedMatrix, Hints, Report, choose_size, ignore_progress, store_dense
from offcomp.numerics.accounting import Budget, Codes, Shapes, Size, code_counts, stored_size

if TYPE_CHECKING:
    from torch import Tensor

LADDER = (
    *((16, bits) for bits in (8,)),
    *((12, bits) for bits in (8,)),
    *((8, bits) for bits in (6, 7, 8, 9, 10)),
    *((6, bits) for bits in (8, 9, 10)),
    *((4, bits) for bits in (7, 8, 9, 10)),
    *((3, bits) for bits in (8, 9, 10)),
    *((2, bits) for bits in (7, 8, 9, 10)),
    *((1, bits) for bits in (6, 7, 8)),
)
"""(codeword length, bits a code), by increasing bits a weight. At an equal rate longer ones are better, but take 2^bits time."""
LARGEST_BITS = 12
LARGEST_LENGTH = 32
LAYOUT_NUMBERS = 5


@dataclass(frozen=True)
class CodebookAutoencoder:
    """Pieces of rows as numbers of shared codewords."""

    name: ClassVar[str] = "autoencoder"
    role: ClassVar[str] = "codebook"
    title: ClassVar[str] = "Autoencoder, codebook"
    paper: ClassVar[str] = "Jégou et al. 2011; van Baalen et al. 2024, arXiv 2402.15319"
    size_name: ClassVar[str] = "rate step"

    preset: str = field(default="codebook", metadata={"help": "Discrete latents, shared codebook.", "choices": ("codebook",)})
    codeword_length: int = field(
        default=0,
        metadata={"help": "Weights a code stands for; 0 lets the budget choose.", "range": (0, LARGEST_LENGTH)},
    )
    stages: int = field(default=1, metadata={"help": "Codes a piece, each for what the last left over.", "range": (1, 4)})
    rank: int = field(default=0, metadata={"help": "Rank of a low-rank part under the codes.", "range": (0, 1024)})
    iterations: int = field(default=15, metadata={"help": "Rounds of k-means for the codewords.", "range": (1, 200)})
    feedback: bool = field(
        default=False,
        metadata={"help": "Choose codes on calibration text, each making up for the errors before it."},
    )
    damping: float = field(
        default=0.3,
        metadata={"help": "With feedback: trust in the weights alone, as a share of the mean moment.", "range": (1e-3, 100.0)},
    )

    @property
    def calibrated(self) -> bool:
        """Only with feedback."""
        return self.feedback

    def sizes(self, rows: int, cols: int) -> range:
        """Steps of the ladder that this shape can use, from 1."""
        return range(1, len(_steps(self, rows, cols)) + 1)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Codes, codewords, scales and layout, and the low-rank factors where there are some."""
        return _shapes(self, rows, cols, *_steps(self, rows, cols)[size - 1])

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Distances of the pieces to every codeword; with feedback the passes over the text and the corrections."""
        length, bits = _steps(self, rows, cols)[max(size, 1) - 1]
        pieces = self.stages * rows * cols / length
        learning = self.iterations * min(pieces, 128 << bits)
        feedback = rows * cols * 2e-6 if self.feedback else 0.0
        return 0.05 + (pieces + learning) * 2**bits * (3e-9 + 5e-11 * length) + feedback

    def fit(
        self,
        matrix: Tensor,
        budget: Budget,
        *,
        hints: Hints | None = None,
        seed: int = 0,
        report: Report = ignore_progress,
    ) -> CompressedMatrix:
        """Code at the highest rate within the budget. Raises BudgetTooSmall, and InputError for feedback without hints."""
        from offcomp.methods.code_feedback import with_feedback
        from offcomp.numerics.codebooks import Codebook
        from offcomp.numerics.linalg import low_rank_factors
        from offcomp.numerics.storage import pack

        if self.feedback and hints is None:
            raise InputError("feedback=true needs calibration text; give the plan one, or set feedback to false")
        rows, cols = matrix.shape
        size = choose_size(self, rows, cols, budget)
        if size == 0:
            return store_dense(matrix, budget.dtype)
        target, factors = matrix.detach().float(), {}
        if self.rank:
            left, right = low_rank_factors(target, self.rank)
            factors = pack({"left": left, "right": right}, budget.dtype)
            target = target - left @ right
        length, bits = _steps(self, rows, cols)[size - 1]
        book = Codebook.learn(target, length, bits, self.stages, dtype=budget.dtype, iterations=self.iterations, seed=seed)
        report(0.4)
        codes, scales = book.encode(target)
        if self.feedback and hints is not None:
            with_feedback(
                book, target, codes, scales, hints=hints, damping=self.damping, report=lambda done: report(0.4 + 0.6 * done)
            )
        report(1.0)
        counts = code_counts(self.tensor_shapes(rows, cols, size))
        return CompressedMatrix(book.tensors(codes, scales, cols) | factors, decoded_codes, size, codes=counts)


def decoded_codes(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: codewords by their numbers, times the row scales, on top of the low-rank part."""
    from offcomp.numerics.codebooks import decode_codes

    matrix = decode_codes(tensors)
    return matrix + tensors["left"] @ tensors["right"] if "left" in tensors else matrix


def _shapes(method: CodebookAutoencoder, rows: int, cols: int, length: int, bits: int) -> Shapes:
    shapes: dict[str, tuple[int, ...] | Codes] = {
        "codes": Codes(rows * -(-cols // length) * method.stages, bits),
        "row_scales": Codes(rows, 8),
        "codewords": (method.stages * length << bits,),
        "scale_range": (2,),
        "layout": Codes(LAYOUT_NUMBERS, 32),
    }
    if method.rank:
        shapes |= {"left": (rows, method.rank), "right": (method.rank, cols)}
    return shapes


@lru_cache(maxsize=256)
def _steps(method: CodebookAutoencoder, rows: int, cols: int) -> tuple[tuple[int, int], ...]:
    """The (codeword length, bits) of each size: those of the ladder that store more than the step before, in either unit."""
    if method.codeword_length:
        return tuple((method.codeword_length, bits) for bits in range(1, LARGEST_BITS + 1))
    steps: list[tuple[int, int]] = []
    before = Size(0, 0)
    for step in LADDER:
        stored = stored_size(_shapes(method, rows, cols, *step), "float32")
        if stored.num_bytes > before.num_bytes and stored.num_parameters >= before.num_parameters:
            steps.append(step)
            before = stored
    return tuple(steps)
