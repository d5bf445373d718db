"""Autoencoder with discrete latents: a row is cut into short pieces, each stored as the number of its nearest codeword.

    ŵ_i = s_i · [ c(k_i1) | c(k_i2) | ... ] + o_i        (+ a_i B, with a low-rank part under it)

The encoder is the search for the nearest codeword, the latents k are whole numbers of b bits, the decoder is the codebook c
of 2^b codewords of length d, shared by all rows of the group, with a scale s_i a row. Grouping pays for the codebook once.
With several stages, each codes what the ones before leave over. Stored for rows n, columns m, stages S, rank r:

    codes          n · ⌈m/d⌉ · S numbers of b bits, packed
    codewords      S · 2^b · d
    row_scales     n numbers of 8 bits (`numerics.codebooks`)
    layout         7 numbers of 32 bits: n, m, d, b, S, and the ends of the range of the scales
    outliers       for a share of the entries, those that the codes miss by most, what is missing (o), and
                   their positions (`numerics.positions`); a few weights of transformers are 20 times the usual size
    left, right    r · (n + m)

d and b follow from the budget (up to 10 bits a weight), or b alone where `codeword_length` is given. The scale of a row is
its root mean square, so that one codebook fits all kinds and layers; after coding it is refitted by least squares.

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
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from offcomp.errors import InputError
from offcomp.methods.base import CompressedMatrix, Hints, Report, choose_size, ignore_progress, store_dense
from offcomp.numerics.accounting import Budget, Codes, Shapes, Size, code_counts, stored_size
from offcomp.numerics.positions import position_shapes

if TYPE_CHECKING:
    from torch import Tensor

LENGTHS = {16: 1.2, 12: 1.25, 8: 1.33, 6: 1.47, 4: 1.7, 3: 1.9, 2: 2.2, 1: 2.7}
"""Codeword length -> G: the squared error of b bits is about G · 2^(-2b/length) (measured on MiniLM-L6; no code is below 1)."""
USUAL_BITS = 10
"""More codewords are hardly better and take twice the time a bit."""
CODEBOOK_SHARE = 0.25
"""Largest size of the codewords, as a share of the codes."""
NOTICEABLE = 0.87
"""A step must lower the squared error to this share of the last; less is lost in the tails that few codewords cannot cover."""
LARGEST_BITS = 12
LARGEST_LENGTH = 32
LAYOUT_NUMBERS = 7


@dataclass(frozen=True)
class CodebookAutoencoder:
    """Pieces of rows as numbers of shared codewords."""

    name: ClassVar[str] = "autoencoder"
    role: ClassVar[str] = "codebook"
    title: ClassVar[str] = "Autoencoder, codebook"
    paper: ClassVar[str] = "Jégou et al. 2011; van Baalen et al. 2024, arXiv 2402.15319"
    size_name: ClassVar[str] = "rate step"
    memory: ClassVar[float] = 0.9
    quick: ClassVar[dict[str, Any]] = {"iterations": 5}

    preset: str = field(default="codebook", metadata={"help": "Discrete latents, shared codebook.", "choices": ("codebook",)})
    codeword_length: int = field(
        default=0,
        metadata={"help": "Weights a code stands for; 0 lets the budget choose.", "range": (0, LARGEST_LENGTH)},
    )
    stages: int = field(default=1, metadata={"help": "Codes a piece, each for what the last left over.", "range": (1, 4)})
    rank: int = field(default=0, metadata={"help": "Rank of a low-rank part under the codes.", "range": (0, 1024)})
    outliers: float = field(
        default=0.0003,
        metadata={"help": "Share of the entries, those missed by most, stored exactly.", "range": (0.0, 0.05)},
    )
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
        from offcomp.numerics.codebooks import Codebook, largest_misses
        from offcomp.numerics.linalg import low_rank_factors
        from offcomp.numerics.storage import pack

        if self.feedback and hints is None:
            raise InputError("feedback=true needs calibration text; give the plan one, or set feedback to false")
        rows, cols = matrix.shape
        size = choose_size(self, rows, cols, budget)
        if size == 0:
            return store_dense(matrix, budget.dtype)
        exact = matrix.detach().float().contiguous()
        target, extra = exact, {}
        if self.rank:
            left, right = low_rank_factors(exact, self.rank)
            extra = pack({"left": left, "right": right}, budget.dtype)
            target = exact - left @ right
        length, bits = _steps(self, rows, cols)[size - 1]
        book = Codebook.learn(target, length, bits, self.stages, dtype=budget.dtype, iterations=self.iterations, seed=seed)
        report(0.3)
        codes, scales = book.encode(target)
        report(0.6)
        positions, values = largest_misses(book, target, codes, scales, count=_num_outliers(self, rows, cols))
        if len(values):
            extra |= _stored_outliers(positions, values, rows * cols, budget.dtype)
        if self.feedback and hints is not None:
            rest = _rest_of(report, 0.6)
            coded = partial(_without_outliers, target, positions, values)
            with_feedback(book, coded, codes, scales, exact=exact, hints=hints, damping=self.damping, report=rest)
        report(1.0)
        counts = code_counts(self.tensor_shapes(rows, cols, size))
        return CompressedMatrix(book.tensors(codes, scales, cols) | extra, decoded_codes, size, codes=counts)


def decoded_codes(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: codewords by their numbers, times the row scales, and what was stored beside them."""
    from offcomp.numerics.codebooks import decode_codes
    from offcomp.numerics.positions import decode_positions

    matrix = decode_codes(tensors)
    if "left" in tensors:
        matrix.addmm_(tensors["left"], tensors["right"])
    if "outliers" in tensors:
        values = tensors["outliers"]
        places = decode_positions(tensors["outlier_low"], tensors["outlier_high"], len(values), matrix.numel())
        matrix.view(-1)[places] += values
    return matrix


def _rest_of(report: Report, done: float) -> Report:
    """Progress of what is left after a share that is done."""
    return lambda fraction: report(done + (1 - done) * fraction)


def _num_outliers(method: CodebookAutoencoder, rows: int, cols: int) -> int:
    return round(method.outliers * rows * cols)


def _without_outliers(matrix: Tensor, positions: Tensor, values: Tensor, rows: slice) -> Tensor:
    """Some rows of a matrix, newly made, less the values at these positions of the whole."""
    cols = matrix.shape[1]
    part = matrix[rows].clone()
    inside = (positions >= rows.start * cols) & (positions < rows.stop * cols)
    part.view(-1)[positions[inside] - rows.start * cols] -= values[inside]
    return part


def _stored_outliers(positions: Tensor, values: Tensor, total: int, dtype: str) -> dict[str, Tensor]:
    from offcomp.numerics.positions import encode_positions
    from offcomp.numerics.storage import pack

    return pack({"outliers": values}, dtype) | {
        f"outlier_{part}": packed for part, packed in encode_positions(positions, total).items()
    }


def _shapes(method: CodebookAutoencoder, rows: int, cols: int, length: int, bits: int) -> Shapes:
    shapes: dict[str, tuple[int, ...] | Codes] = {
        "codes": Codes(rows * -(-cols // length) * method.stages, bits),
        "row_scales": Codes(rows, 8),
        "codewords": (method.stages * length << bits,),
        "layout": Codes(LAYOUT_NUMBERS, 32),
    }
    if count := _num_outliers(method, rows, cols):
        shapes["outliers"] = (count,)
        shapes |= {f"outlier_{part}": codes for part, codes in position_shapes(count, rows * cols).items()}
    if method.rank:
        shapes |= {"left": (rows, method.rank), "right": (method.rank, cols)}
    return shapes


@lru_cache(maxsize=256)
def _steps(method: CodebookAutoencoder, rows: int, cols: int) -> tuple[tuple[int, int], ...]:
    """(codeword length, bits) of each size: what stores more than the one before, in either unit, for a smaller error."""
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
