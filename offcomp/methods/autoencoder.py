"""Autoencoder over the rows of the stacked matrix.

Each row w_i (cols,) is a sample. An encoder maps it to a latent z_i (latent,), a decoder maps z_i back:

    ŵ_i = n_i · f(z_i) / ‖f(z_i)‖,   n_i = ‖w_i‖

Only the latents, the decoder f and the row norms n are stored; the encoder is thrown away. With latent width d, rows n and
columns m the stored parameters are

    linear decoder       n·d + (d·m + m) + n
    nonlinear decoder    n·d + (2d² + 2d) + (8d² + 4d) + (4d·m + m) + n      (layers d -> 2d -> 4d -> m)

and n fewer where the norms are not enforced. The decoder is paid once for all rows, which is why grouping helps.

`preset="banaei2023"` is the recipe of Banaei et al., "Revisiting Offline Compression", Findings of EACL 2023
(arXiv 2302.04045) with the defaults of its official configuration: encoder m -> 8d -> 4d -> d with LeakyReLU after every layer,
decoder with LeakyReLU between layers and a final tanh, loss = .9091 · cosine distance + .0909 · RMSE + an optional power-L1
term |e|^α with α annealed from 1 to .1, Adam at 1e-3 times .8 every 10 epochs, batches of 16 rows.
Options beyond it: `init="svd"` starts encoder and decoder as the projection on the leading singular vectors (of the rows at
length one where norms are enforced). Linear networks do so exactly; non-linear ones hand each latent on by a pair of LeakyReLU
units and start there too, up to the curvature of a final tanh (`numerics.linear_start`). With larger batches and a cosine
schedule this reaches the loss of the paper's recipe in a fraction of its time. `refine_epochs` trains latents as free
parameters, with the decoder, after the encoder has done its work. `coefficients` weigh rows or entries by gradients on text.

Training holds four numbers for each parameter of encoder and decoder: itself, its gradient, and Adam's two moments. Where the
ratio is low and the matrix nearly square, the paper's wide encoder is then the most of a run's memory; from a ratio of about 4
on it is small beside the matrix.

Where we differ: the row norms stand in the ratio that is reported (the official code provides for them in its budget, but
leaves them out of the ratio that it reports); no epoch is chosen by a test set, the last one is kept; coefficients are scaled
otherwise (`methods.coefficients`); the official seed is 1, so our seed s draws the stream of s + 1 and the default repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import cos, pi
from typing import TYPE_CHECKING, Any, ClassVar

from offcomp.errors import InputError
from offcomp.methods.base import CompressedMatrix, Hints, Report, all_ranks, choose_size, ignore_progress, store_dense
from offcomp.methods.coefficients import SOURCES, group_coefficients
from offcomp.numerics.accounting import Budget, Shapes

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from offcomp.numerics.losses import RowLoss
    from offcomp.numerics.networks import Network
    from offcomp.numerics.row_training import RowTask

ENCODER_WIDTHS = (8, 4)
DECODER_WIDTHS = (2, 4)
ANNEALED_EPOCHS = 2 / 3  # the official run anneals over 20 of its 30 epochs
PAPER_SEED = 1
ROWS_AT_ONCE = 1024  # so that what hidden layers give stays small
NETWORKS = ("linear", "nonlinear")
FAST: dict[str, Any] = {"init": "svd", "batch_size": 128, "schedule": "cosine", "learning_rate": 3e-4}
"""Options that reach the loss of the paper's recipe in a fraction of its time (`benchmarks/autoencoder_speed.py`)."""


@dataclass(frozen=True)
class Autoencoder:
    """Rows as samples, latents and decoder stored, encoder thrown away."""

    name: ClassVar[str] = "autoencoder"
    role: ClassVar[str] = "autoencoder"
    title: ClassVar[str] = "Autoencoder"
    paper: ClassVar[str] = "Banaei et al. 2023, arXiv 2302.04045"
    size_name: ClassVar[str] = "latent width"
    memory: ClassVar[float] = 2.8
    quick: ClassVar[dict[str, Any]] = FAST | {"epochs": 10}

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
        default=16, metadata={"help": "Rows a step. The paper uses 16; larger is faster.", "range": (1, 65536)}
    )
    learning_rate: float = field(
        default=1e-3, metadata={"help": "Adam's first step size; times 0.8 every 10 epochs.", "range": (1e-6, 1.0)}
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
            "help": "Weights of rows or entries in the losses, from squared (Fisher) or absolute gradients on text.",
            "choices": tuple(SOURCES),
        },
    )
    init: str = field(
        default="random",
        metadata={
            "help": "Start at random, as the paper does, or at the SVD. Fast: svd with batch size 128, schedule cosine and "
            "learning rate 0.0003, where 10 epochs reach the loss of the paper's 30.",
            "choices": ("random", "svd"),
        },
    )
    schedule: str = field(
        default="step",
        metadata={
            "help": "Step size: times 0.8 every 10 epochs as in the paper, or to zero along a cosine.",
            "choices": ("step", "cosine"),
        },
    )
    refine_epochs: int = field(
        default=0,
        metadata={
            "help": "Steps at the end in which latents are free parameters, over all rows at once, without encoder.",
            "range": (0, 10000),
        },
    )

    @property
    def calibrated(self) -> bool:
        """Whether coefficients come from text."""
        return self.coefficients != "none"

    def sizes(self, rows: int, cols: int) -> range:
        """Latent widths 1 .. min(rows, cols)."""
        return all_ranks(rows, cols)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Latents, decoder weights and biases, row norms."""
        shapes: dict[str, tuple[int, ...]] = {"latents": (rows, size)}
        widths = self._decoder_widths(size, cols)
        for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
            shapes[f"decoder.{index}.weight"] = (fan_out, fan_in)
            shapes[f"decoder.{index}.bias"] = (fan_out,)
        if self.enforce_norm:
            shapes["row_norms"] = (rows,)
        return shapes

    def _decoder_widths(self, latent: int, cols: int) -> list[int]:
        hidden = [factor * latent for factor in DECODER_WIDTHS] if self.decoder == "nonlinear" else []
        return [latent, *hidden, cols]

    def _encoder_widths(self, latent: int, cols: int) -> list[int]:
        hidden = [factor * latent for factor in ENCODER_WIDTHS] if self.encoder == "nonlinear" else []
        return [cols, *hidden, latent]

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Steps times an overhead and the traffic of every trained parameter."""
        widths = self._encoder_widths(size, cols) + self._decoder_widths(size, cols)[1:]
        trained = sum(a * b for a, b in pairwise(widths))
        steps = self.epochs * -(-rows // self.batch_size)
        return steps * (8e-4 + 1.35e-9 * trained * (1 + self.batch_size / 64))

    def fit(
        self,
        matrix: Tensor,
        budget: Budget,
        *,
        hints: Hints | None = None,
        seed: int = 0,
        report: Report = ignore_progress,
    ) -> CompressedMatrix:
        """Train at the largest latent width within the budget, on the device of `matrix`."""
        import torch

        from offcomp.numerics.fitting import train
        from offcomp.numerics.row_training import refine
        from offcomp.numerics.storage import pack

        rows, cols = matrix.shape
        if self.calibrated and hints is None:
            raise InputError(f"coefficients {self.coefficients!r} come from text; give calibration text, or choose 'none'")
        latent = choose_size(self, rows, cols, budget)
        if latent == 0:
            return store_dense(matrix, budget.dtype)
        task = self._task(matrix, hints)
        generator = torch.Generator().manual_seed(PAPER_SEED + seed)
        encoder, decoder = self._networks(task, latent, generator)
        refined = self.refine_epochs / (self.epochs + self.refine_epochs)
        history = train(
            decoder.parameters + encoder.parameters,
            lambda batch, epoch: task.through_both(encoder, decoder, batch, epoch),
            tables=task.tables,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self._learning_rate,
            generator=generator,
            report=lambda done: report((1 - refined) * done),
        )
        latents = torch.cat([encoder(part) for part in task.samples.split(ROWS_AT_ONCE)])
        if self.refine_epochs:
            latents, losses = refine(
                task,
                decoder,
                latents,
                epoch=self.epochs,
                steps=self.refine_epochs,
                learning_rate=self.learning_rate,
                report=lambda done: report(1 - refined + refined * done),
            )
            history += losses
        tensors = {"latents": latents}
        for index, (weight, bias) in enumerate(decoder.layers):
            tensors |= {f"decoder.{index}.weight": weight, f"decoder.{index}.bias": bias}
        if self.enforce_norm:
            tensors["row_norms"] = task.norms
        return CompressedMatrix(pack(tensors, budget.dtype), decoded_latents, latent, tuple(history))

    def _task(self, matrix: Tensor, hints: Hints | None) -> RowTask:
        """What to reproduce, on the device of the matrix."""
        from offcomp.numerics.row_training import RowTask

        samples = matrix.detach().float()
        coefficients = None
        if self.calibrated and hints is not None:
            coefficients = group_coefficients(hints, self.coefficients).to(samples.device)
        return RowTask(samples, samples.double().norm(dim=1).float(), coefficients, self.enforce_norm, self._loss)

    def _networks(self, task: RowTask, latent: int, generator: Generator) -> tuple[Network, Network]:
        """Encoder and decoder at their start."""
        from offcomp.numerics.linear_start import start_as_svd
        from offcomp.numerics.networks import Network

        cols, device = task.samples.shape[1], task.samples.device
        decoder = Network.new(self._decoder_widths(latent, cols), _last(self.decoder, "tanh"), generator, device)
        encoder = Network.new(self._encoder_widths(latent, cols), _last(self.encoder, "leaky_relu"), generator, device)
        if self.init == "svd":
            start_as_svd(encoder, decoder, task.samples, directions=self.enforce_norm)
        return encoder, decoder

    def _learning_rate(self, epoch: int) -> float:
        """The step size of an epoch."""
        if self.schedule == "cosine":
            return self.learning_rate * (0.5 + 0.5 * cos(pi * epoch / self.epochs))
        return self.learning_rate * 0.8 ** (epoch // 10)

    def _loss(self, epoch: int) -> RowLoss:
        """Weighted sum of cosine distance, RMSE and power-L1 (paper, section 3; official `losses/`)."""
        from offcomp.numerics.losses import RowLoss

        annealed = min(1.0, epoch / max(1.0, ANNEALED_EPOCHS * self.epochs))
        return RowLoss(self.cosine_weight, self.rmse_weight, self.l1_weight, power=1 - 0.9 * annealed)


def _last(kind: str, activation: str) -> str:
    """What follows the final layer: nothing in a linear network."""
    return activation if kind == "nonlinear" else "identity"


def decoded_latents(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder of stored latents, some rows at a time."""
    from offcomp.numerics.losses import rescale_rows
    from offcomp.numerics.networks import Network

    count = sum(name.endswith(".weight") for name in tensors)
    layers = tuple((tensors[f"decoder.{i}.weight"], tensors[f"decoder.{i}.bias"]) for i in range(count))
    network = Network(layers, "tanh" if count > 1 else "identity")
    latents = tensors["latents"]
    matrix, start = latents.new_empty(len(latents), len(layers[-1][0])), 0
    for place, part in zip(matrix.split(ROWS_AT_ONCE), latents.split(ROWS_AT_ONCE), strict=True):
        output = network(part)
        norms = tensors["row_norms"][start : start + len(part)] if "row_norms" in tensors else None
        place.copy_(output if norms is None else rescale_rows(output, norms))
        start += len(part)
    return matrix
