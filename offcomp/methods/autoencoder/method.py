"""Autoencoder over the rows of the stacked matrix.

Each row w_i (cols,) is a sample. An encoder maps it to a latent z_i (latent,), and a decoder f maps z_i back:

    ŵ_i = n_i · f(z_i) / ‖f(z_i)‖,   n_i = ‖w_i‖

Only the latents, the decoder f and the row norms n_i are stored; the encoder is discarded. With latent width d, n rows and m
columns, the stored parameters are

    linear decoder       n·d + (d·m + m) + n
    nonlinear decoder    n·d + (2d² + 2d) + (8d² + 4d) + (4d·m + m) + n      (layers d -> 2d -> 4d -> m)

and n fewer if norms are not enforced. All rows share the cost of one decoder, which is why grouping helps.

`preset="banaei2023"` is the recipe of Banaei et al., "Revisiting Offline Compression", Findings of EACL 2023
(arXiv 2302.04045) with the defaults of its official configuration: encoder m -> 8d -> 4d -> d with LeakyReLU after every layer,
decoder with LeakyReLU between layers and a final tanh, loss = .9091 · cosine distance + .0909 · RMSE + an optional power-L1
term |e|^α with α annealed from 1 to .1, Adam at 1e-3, multiplied by .8 every 10 epochs, batches of 16 rows.

Additional options: `init="svd"` initialises encoder and decoder as the projection onto the leading singular vectors (of the
unit-length rows if norms are enforced). For linear networks this is exact. Non-linear ones pass each latent through a pair of
LeakyReLU units and so start as the same projection, up to the curvature of a final tanh (`svd_start`). With larger batches and
a cosine schedule this reaches the loss of the paper's recipe in a fraction of its time. `refine_epochs` trains the latents as
free parameters, together with the decoder, after the main training. `coefficients` weights rows or entries by gradients on
calibration text.

Training keeps four numbers in memory per parameter of encoder and decoder: the value, its gradient, and Adam's two moments. If
the ratio is low and the matrix nearly square, the paper's wide encoder therefore dominates a run's memory; for ratios of about
4 and above it is small compared with the matrix.

Differences from the paper: the reported ratio includes the row norms (the official code reserves budget for them, but omits
them from the ratio it reports); the last epoch is used, rather than one selected on a test set; coefficients are scaled
differently (`coefficients`); the official seed is 1, so our seed s means seed s + 1 and the default reproduces the official
one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from offcomp.methods.base import Method
from offcomp.numerics.accounting import Shapes

ENCODER_WIDTHS = (8, 4)
DECODER_WIDTHS = (2, 4)
NETWORKS = ("linear", "nonlinear")
SOURCES = {
    "none": ("", ""),
    "fisher_rows": ("fisher", "rows"),
    "fisher_entries": ("fisher", "entries"),
    "sensitivity_rows": ("sensitivity", "rows"),
    "sensitivity_entries": ("sensitivity", "entries"),
}
"""Option -> (statistic, whether rows or entries have coefficients)."""
FAST: dict[str, Any] = {"init": "svd", "batch_size": 128, "schedule": "cosine", "learning_rate": 3e-4}
"""Options that reach the loss of the paper's recipe in a fraction of its time (`benchmarks/autoencoder_speed.py`)."""


@dataclass(frozen=True)
class Autoencoder(Method):
    """Rows as samples; latents and decoder are stored, the encoder is discarded."""

    name: ClassVar[str] = "autoencoder"
    style_key: ClassVar[str] = "autoencoder"
    title: ClassVar[str] = "Autoencoder"
    paper: ClassVar[str] = "Banaei et al. 2023, arXiv 2302.04045"
    size_name: ClassVar[str] = "latent width"
    memory: ClassVar[float] = 2.8
    fast_options: ClassVar[dict[str, Any]] = FAST | {"epochs": 10}

    preset: str = field(
        default="banaei2023", metadata={"help": "Recipe. banaei2023 is the paper's.", "choices": ("banaei2023",)}
    )
    encoder: str = field(
        default="nonlinear",
        metadata={"help": "Linear, or three layers with LeakyReLU. Never stored.", "choices": NETWORKS},
    )
    decoder: str = field(
        default="nonlinear",
        metadata={"help": "Linear, or three layers with LeakyReLU and a final tanh. Stored.", "choices": NETWORKS},
    )
    epochs: int = field(default=30, metadata={"help": "Passes over all rows. The paper uses 30.", "range": (1, 1000)})
    batch_size: int = field(
        default=16, metadata={"help": "Rows per step. The paper uses 16; larger is faster.", "range": (1, 65536)}
    )
    learning_rate: float = field(
        default=1e-3, metadata={"help": "Adam's initial learning rate. It decays as set by schedule.", "range": (1e-6, 1.0)}
    )
    cosine_weight: float = field(
        default=0.9091, metadata={"help": "Weight of the cosine distance in the loss.", "range": (0.0, 1000.0)}
    )
    rmse_weight: float = field(
        default=0.0909, metadata={"help": "Weight of the root mean square error in the loss.", "range": (0.0, 1000.0)}
    )
    l1_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the power-L1 term, exponent annealed from 1 to 0.1.", "range": (0.0, 1000.0)},
    )
    enforce_norm: bool = field(default=True, metadata={"help": "Store each row's norm and rescale its reconstruction to it."})
    coefficients: str = field(
        default="none",
        metadata={
            "help": "Weights of rows or entries in the loss, from squared (Fisher) or absolute gradients on calibration text.",
            "choices": tuple(SOURCES),
        },
    )
    init: str = field(
        default="random",
        metadata={
            "help": "Random, as in the paper, or from the SVD. To save time, combine svd with a batch size of 128, the cosine "
            "schedule and a learning rate of 0.0003: 10 epochs then reach the same loss as the paper's 30.",
            "choices": ("random", "svd"),
        },
    )
    schedule: str = field(
        default="step",
        metadata={
            "help": "Learning rate: multiplied by 0.8 every 10 epochs, as in the paper, or cosine decay to zero.",
            "choices": ("step", "cosine"),
        },
    )
    refine_epochs: int = field(
        default=0,
        metadata={
            "help": "Final full-batch steps that train the latents as free parameters, without the encoder.",
            "range": (0, 10000),
        },
    )

    @property
    def calibrated(self) -> bool:
        """Whether coefficients come from calibration text."""
        return self.coefficients != "none"

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Latents, decoder weights and biases, row norms."""
        shapes: dict[str, tuple[int, ...]] = {"latents": (rows, size)}
        widths = self.decoder_widths(size, cols)
        for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
            shapes[f"decoder.{index}.weight"] = (fan_out, fan_in)
            shapes[f"decoder.{index}.bias"] = (fan_out,)
        if self.enforce_norm:
            shapes["row_norms"] = (rows,)
        return shapes

    def decoder_widths(self, latent: int, cols: int) -> list[int]:
        """Layer widths, from the latent to the row."""
        hidden = [factor * latent for factor in DECODER_WIDTHS] if self.decoder == "nonlinear" else []
        return [latent, *hidden, cols]

    def encoder_widths(self, latent: int, cols: int) -> list[int]:
        """Layer widths, from the row to the latent."""
        hidden = [factor * latent for factor in ENCODER_WIDTHS] if self.encoder == "nonlinear" else []
        return [cols, *hidden, latent]

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Number of steps times the time per step: a fixed overhead plus the memory traffic of all trained parameters."""
        widths = self.encoder_widths(size, cols) + self.decoder_widths(size, cols)[1:]
        trained = sum(a * b for a, b in pairwise(widths))
        steps = self.epochs * -(-rows // self.batch_size)
        return steps * (8e-4 + 1.35e-9 * trained * (1 + self.batch_size / 64))
