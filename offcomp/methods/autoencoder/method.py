"""Autoencoder over the rows of the stacked matrix.

Each row w_i (cols,) is a sample. The encoder maps w_i to a latent z_i (latent,), and the decoder f maps z_i back to a row:

    ŵ_i = n_i · f(z_i) / ‖f(z_i)‖,   n_i = ‖w_i‖

Only the latents, the decoder f and the row norms n_i are stored; the encoder is discarded. For latent width d, n rows and m
columns, the number of stored parameters is

    linear decoder       n·d + (d·m + m) + n
    nonlinear decoder    n·d + (2d² + 2d) + (8d² + 4d) + (4d·m + m) + n      (layers d -> 2d -> 4d -> m)

If norms are not enforced, the row norms are not stored, which saves n parameters. All rows share the cost of one decoder, which
is why grouping helps. With `latent_bits`, the latents are n·d integers of that many bits; each of the d latents has a scale and
a lowest level, and two more numbers store n and the number of bits (`latent_codes.py`). At an equal number of bytes, the
latents can then be wider.

`preset="banaei2023"` follows the recipe of Banaei et al., "Revisiting Offline Compression", Findings of EACL 2023 (arXiv
2302.04045), with the defaults of the official configuration: an encoder m -> 8d -> 4d -> d with LeakyReLU after every layer, a
decoder with LeakyReLU between layers and a final tanh, the loss .9091 · cosine distance + .0909 · RMSE + an optional power-L1
term |e|^α with α annealed from 1 to .1, Adam with a learning rate of 1e-3 that is multiplied by .8 every 10 epochs, and batches
of 16 rows.

Some options are not part of the paper's recipe. `init="svd"` initialises the encoder and decoder so that together they project
onto the leading singular vectors (of the unit-length rows if norms are enforced). A linear network represents this projection
exactly. A nonlinear network passes each latent through a pair of LeakyReLU units and also starts as this projection, apart from
the curvature of a final tanh (`svd_start`). With larger batches and a cosine schedule, this initialisation reaches the loss of
the paper's recipe in a fraction of the time. `refine_epochs` adds a final training phase in which the latents are free
parameters, trained together with the decoder. If latents are stored as codes, the decoder is trained on the rounded latents,
and gradients pass through the rounding unchanged (Bengio et al., arXiv 1308.3432). With `coefficients`, rows or entries are
weighted by their gradients on calibration text.

Training keeps four numbers in memory for each encoder and decoder parameter: the value, its gradient, and Adam's two moments.
At a low ratio, the paper's wide encoder therefore dominates the memory use for a nearly square matrix; at ratios of about 4 and
above, the encoder is small compared with the matrix.

This implementation differs from the paper in four ways. The reported ratio includes the row norms; the official code reserves
part of the budget for them but omits them from its reported ratio. The final parameters are those of the last epoch rather than
of an epoch selected on a test set. Coefficients are scaled differently (see `coefficients.py`). The seed is shifted by 1, so
the default seed of 0 corresponds to the official seed of 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from offcomp.methods.base import Look, Method
from offcomp.numerics.accounting import Codes, Shape, Shapes

ENCODER_WIDTHS = (8, 4)
DECODER_WIDTHS = (2, 4)
LAYOUT_BITS = 32
SMALL_BATCH = 64
"""As in `numerics.training`, which imports torch."""
NETWORKS = ("linear", "nonlinear")
SOURCES = {
    "none": ("", ""),
    "fisher_rows": ("fisher", "rows"),
    "fisher_entries": ("fisher", "entries"),
    "sensitivity_rows": ("sensitivity", "rows"),
    "sensitivity_entries": ("sensitivity", "entries"),
}
"""Value of the option `coefficients` -> (statistic, what it weights: rows or entries)."""
FAST: dict[str, Any] = {"init": "svd", "batch_size": 128, "schedule": "cosine", "learning_rate": 3e-4}
"""Options that reach the loss of the paper's recipe in a fraction of the time (`benchmarks/autoencoder_speed.py`)."""


@dataclass(frozen=True)
class Autoencoder(Method):
    """Autoencoder with matrix rows as samples; only the latents and the decoder are stored."""

    name: ClassVar[str] = "autoencoder"
    style_key: ClassVar[str] = "autoencoder"
    title: ClassVar[str] = "Autoencoder"
    paper: ClassVar[str] = "Banaei et al. 2023, arXiv 2302.04045"
    decoders: ClassVar[tuple[str, ...]] = ("decoded_latents",)
    look: ClassVar[Look | None] = Look("diamond", "#d55e00", "#f0803c")
    size_name: ClassVar[str] = "latent width"
    memory: ClassVar[float] = 2.8
    fast_options: ClassVar[dict[str, Any]] = FAST | {"epochs": 10}

    preset: str = field(
        default="banaei2023", metadata={"help": "Training recipe; banaei2023 follows the paper.", "choices": ("banaei2023",)}
    )
    encoder: str = field(
        default="nonlinear",
        metadata={"help": "Linear, or three layers with LeakyReLU. The encoder is not stored.", "choices": NETWORKS},
    )
    decoder: str = field(
        default="nonlinear",
        metadata={"help": "Linear, or three layers with LeakyReLU and final tanh. The decoder is stored.", "choices": NETWORKS},
    )
    epochs: int = field(default=30, metadata={"help": "Passes over all rows. The paper uses 30.", "range": (1, 1000)})
    batch_size: int = field(
        default=16, metadata={"help": "Rows per step. The paper uses 16; larger batches are faster.", "range": (1, 65536)}
    )
    learning_rate: float = field(
        default=1e-3, metadata={"help": "Initial learning rate of Adam. The schedule sets how it decays.", "range": (1e-6, 1.0)}
    )
    cosine_weight: float = field(
        default=0.9091, metadata={"help": "Weight of the cosine distance in the loss.", "range": (0.0, 1000.0)}
    )
    rmse_weight: float = field(
        default=0.0909, metadata={"help": "Weight of the root mean square error in the loss.", "range": (0.0, 1000.0)}
    )
    l1_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the power-L1 term, whose exponent is annealed from 1 to 0.1.", "range": (0.0, 1000.0)},
    )
    enforce_norm: bool = field(default=True, metadata={"help": "Store each row's norm and rescale the decoded row to it."})
    coefficients: str = field(
        default="none",
        metadata={
            "help": "Loss weights for rows or entries, from squared (fisher) or absolute (sensitivity) gradients on text.",
            "choices": tuple(SOURCES),
        },
    )
    init: str = field(
        default="random",
        metadata={
            "help": "Initialisation: random (as in the paper) or by SVD. To save time, combine svd with a batch size of 128, "
            "the cosine schedule and a learning rate of 0.0003: 10 epochs then reach the same loss as the paper's 30.",
            "choices": ("random", "svd"),
        },
    )
    schedule: str = field(
        default="step",
        metadata={
            "help": "Learning rate schedule: multiply by 0.8 every 10 epochs (step, as in the paper) or decay to 0 (cosine).",
            "choices": ("step", "cosine"),
        },
    )
    refine_epochs: int = field(
        default=0,
        metadata={
            "help": "Number of final full-batch steps that train the latents directly, without the encoder.",
            "range": (0, 10000),
        },
    )
    latent_bits: int = field(
        default=0,
        metadata={
            "help": "Store each latent as an integer of this many bits, with a scale per latent. 0 stores floats.",
            "range": (0, 8),
            "omit_default": True,
        },
    )

    @property
    def calibrated(self) -> bool:
        """Whether the loss coefficients are computed from calibration text."""
        return self.coefficients != "none"

    @property
    def trains_together(self) -> bool:
        """Whether several matrices can be trained in batched products: true unless coefficients are computed from text."""
        return not self.calibrated

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Shapes of the latents or their codes, decoder weights and biases, and row norms."""
        shapes: dict[str, Shape | Codes] = {"latents": (rows, size)}
        if self.latent_bits:
            shapes |= {"latents": Codes(rows * size, self.latent_bits), "latent_scales": (size,), "latent_zeros": (size,)}
            shapes["latent_layout"] = Codes(2, LAYOUT_BITS)
        widths = self.decoder_widths(size, cols)
        for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
            shapes[f"decoder.{index}.weight"] = (fan_out, fan_in)
            shapes[f"decoder.{index}.bias"] = (fan_out,)
        if self.enforce_norm:
            shapes["row_norms"] = (rows,)
        return shapes

    def decoder_widths(self, latent: int, cols: int) -> list[int]:
        """Layer widths of the decoder, from latent to row."""
        hidden = [factor * latent for factor in DECODER_WIDTHS] if self.decoder == "nonlinear" else []
        return [latent, *hidden, cols]

    def encoder_widths(self, latent: int, cols: int) -> list[int]:
        """Layer widths of the encoder, from row to latent."""
        hidden = [factor * latent for factor in ENCODER_WIDTHS] if self.encoder == "nonlinear" else []
        return [cols, *hidden, latent]

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Number of steps times the time per step, which is a fixed overhead plus memory traffic for all trained parameters."""
        return self.seconds_together(rows, cols, size, 1)

    def seconds_together(self, rows: int, cols: int, size: int, count: int) -> float:
        """Part of the overhead of a step is the same for any number of matrices; large batches are shared by two threads."""
        in_turn = count if self.batch_size <= SMALL_BATCH else -(-count // 2)
        widths = self.encoder_widths(size, cols) + self.decoder_widths(size, cols)[1:]
        trained = sum(a * b for a, b in pairwise(widths))
        steps = self.epochs * -(-rows // self.batch_size)
        return steps * (3e-4 + in_turn * (2e-4 + 1.35e-9 * trained * (1 + self.batch_size / 64)))
