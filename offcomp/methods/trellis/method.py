"""Autoencoder with discrete latents along a row: a state machine decodes integers that are stored with an entropy code.

    ŵ_ij = Δ_j · sign(k_ij) · v(q_ij, |k_ij|)        q_ij: the quantizer, chosen by the integers before k_ij in the row

This is entropy-coded trellis quantization. The encoder is a Viterbi search for the integers of a row with the lowest squared
error plus a price per bit (`machine`). The integers are stored with asymmetric numeral systems, whose probabilities depend on
the expected size of the entry (`entropy`). On Gaussian weights at 1 to 2 bits each, 8 states come within .85 dB and 64 within
.6 dB of the rate-distortion bound D = σ² 2^(-2R), counting all stored bytes (`tests/methods/test_trellis.py`); rounding with an
entropy code is 1.5 dB away from it (Gish and Pierce 1968).

Everything that is stored (`latents`) goes into one sequence of bytes: integers, code tables, values, exponents of rows and
columns, outliers, and a basis if there is one. Its length is fixed by the size, the step Δ is chosen so that the code
nearly fills it, and the rest is padding. As many parameters are stored as the matrix has entries: this method saves only bytes.

Rotation. For a matrix with many more rows than columns (word embeddings), the rows may be rotated into the eigenbasis of WᵀW,
the Karhunen-Loève transform: the entries of a row become uncorrelated, and most of the variance moves to a few columns. The
basis is coded as well, at about 1.9 bits per entry, and orthonormalised after decoding.

With `feedback`, the integers are chosen using calibration text, one member at a time (`feedback`): later columns compensate for
errors as in GPTQ (Frantar et al. 2023, arXiv 2210.17323), and each path of the Viterbi search carries its own errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from offcomp.methods.base import Look, Method
from offcomp.numerics.accounting import CodedBytes, Shapes

RATES_PER_BIT = 512
"""Number of sizes (rate steps) that together add one bit per entry."""
SMALLEST_RATE, LARGEST_RATE = RATES_PER_BIT // 8, 10 * RATES_PER_BIT
FIXED_BYTES = 400
"""Bytes allowed for layout, tables and values, regardless of the shape."""


@dataclass(frozen=True)
class TrellisAutoencoder(Method):
    """Autoencoder whose latents are integers along a row, decoded by a state machine and stored with an entropy code."""

    name: ClassVar[str] = "autoencoder"
    style_key: ClassVar[str] = "trellis"
    title: ClassVar[str] = "Autoencoder, trellis"
    paper: ClassVar[str] = "Marcellin and Fischer 1990; Tseng et al. 2024, arXiv 2406.11235"
    decoders: ClassVar[tuple[str, ...]] = ("decoded_trellis",)
    look: ClassVar[Look | None] = Look("star-triangle-up", "#b3589a", "#e08cc8")
    size_name: ClassVar[str] = "rate step"
    has_rank: ClassVar[bool] = False
    memory: ClassVar[float] = 6.0

    preset: str = field(
        default="trellis", metadata={"help": "Discrete latents, decoded by a state machine.", "choices": ("trellis",)}
    )
    state_bits: int = field(
        default=3,
        metadata={
            "help": "Bits of the machine's state: 3 means 8 states. More states lower the error and take longer.",
            "range": (2, 6),
        },
    )
    rotation: str = field(
        default="auto",
        metadata={
            "help": "Rotate rows into the eigenbasis of WᵀW. auto does so if it saves at least twice the size of the basis.",
            "choices": ("auto", "on", "off"),
        },
    )
    outliers: float = field(
        default=10.0,
        metadata={
            "help": "Store entries exactly if they exceed this many times the RMS of their row. Not used with rotation.",
            "range": (4.0, 1000.0),
        },
    )
    feedback: bool = field(
        default=False,
        metadata={"help": "Use calibration text to choose integers that compensate for earlier errors."},
    )
    damping: float = field(
        default=0.3,
        metadata={
            "help": "Damping for feedback, relative to the mean moment. Higher values rely less on the text.",
            "range": (1e-3, 100.0),
        },
    )

    toward_original: bool = field(
        default=True,
        metadata={
            "help": "With feedback, match a weight's outputs in the original model, not those for inputs with earlier errors.",
        },
    )
    column_steps: bool = field(
        default=True, metadata={"help": "With feedback, use finer steps for columns whose inputs matter more."}
    )

    @property
    def num_states(self) -> int:
        """Number of states of the machine."""
        return 1 << self.state_bits

    @property
    def calibrated(self) -> bool:
        """Whether integers are chosen with feedback, the only option that needs calibration text."""
        return self.feedback

    def sizes(self, rows: int, cols: int) -> range:
        """The possible rates, in steps of 1/512 bit per entry."""
        return range(SMALLEST_RATE, LARGEST_RATE + 1)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """One sequence of bytes."""
        return {"stream": self.stream(rows, cols, size)}

    def stream(self, rows: int, cols: int, size: int) -> CodedBytes:
        """The stored sequence of bytes, with one integer per entry and an allowance for everything else."""
        return CodedBytes(rows * cols, -(-rows * cols * size // (8 * RATES_PER_BIT)) + rows + 2 * cols + FIXED_BYTES)

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Time for several searches, longer with more states, and an entropy code; with feedback, also a pass over the text."""
        per_entry = 3e-7 + 5e-8 * self.num_states + (5e-6 + 2e-7 * self.num_states if self.feedback else 0.0)
        return 0.3 + rows * cols * per_entry
