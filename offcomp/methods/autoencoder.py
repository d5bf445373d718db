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
Where we differ: the row norms count as stored (the official count leaves them out of its report); no epoch is chosen by a test
set, the last one is kept; the official seed is 1, so our seed s draws the stream of s + 1 and the default repeats it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, cast

from offcomp.methods.base import CompressedMatrix, Hints, Report, all_ranks, choose_size, ignore_progress, store_dense
from offcomp.numerics.accounting import Budget, Shapes

if TYPE_CHECKING:
    from torch import Tensor

    from offcomp.numerics.networks import RowLoss

ENCODER_WIDTHS = (8, 4)
DECODER_WIDTHS = (2, 4)
ANNEALED_EPOCHS = 2 / 3  # the official run anneals over 20 of its 30 epochs
PAPER_SEED = 1
NETWORKS = ("linear", "nonlinear")


@dataclass(frozen=True)
class Autoencoder:
    """Rows as samples, latents and decoder stored, encoder thrown away."""

    name: ClassVar[str] = "autoencoder"
    role: ClassVar[str] = "autoencoder"
    title: ClassVar[str] = "Autoencoder"
    paper: ClassVar[str] = "Banaei et al. 2023, arXiv 2302.04045"
    size_name: ClassVar[str] = "latent width"

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

    @property
    def calibrated(self) -> bool:
        """It needs the weights alone."""
        return False

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
        from offcomp.numerics.networks import Network, rescale_rows, through_rescaling
        from offcomp.numerics.storage import pack

        rows, cols = matrix.shape
        latent = choose_size(self, rows, cols, budget)
        if latent == 0:
            return store_dense(matrix, budget.dtype)
        samples = matrix.detach().float()
        norms = samples.double().norm(dim=1).float()
        generator = torch.Generator().manual_seed(PAPER_SEED + seed)
        decoder = Network.new(self._decoder_widths(latent, cols), _last(self.decoder, "tanh"), generator, samples.device)
        encoder = Network.new(self._encoder_widths(latent, cols), _last(self.encoder, "leaky_relu"), generator, samples.device)

        def step(index: Tensor, epoch: int) -> Tensor:
            batch = samples[index]
            encoded = encoder.outputs(batch)
            decoded = decoder.outputs(encoded[-1])
            if self.enforce_norm:
                loss, gradient = self._loss(epoch).with_gradient(rescale_rows(decoded[-1], norms[index]), batch)
                gradient = through_rescaling(gradient, decoded[-1], norms[index])
            else:
                loss, gradient = self._loss(epoch).with_gradient(decoded[-1], batch)
            to_latents = decoder.backward(decoded, gradient, to_inputs=True)
            encoder.backward(encoded, cast("Tensor", to_latents), to_inputs=False)
            return loss

        history = train(
            decoder.parameters + encoder.parameters,
            step,
            rows=rows,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=lambda epoch: self.learning_rate * 0.8 ** (epoch // 10),
            generator=generator,
            report=report,
        )
        tensors = {"latents": encoder(samples)}
        for index, (weight, bias) in enumerate(decoder.layers):
            tensors |= {f"decoder.{index}.weight": weight, f"decoder.{index}.bias": bias}
        if self.enforce_norm:
            tensors["row_norms"] = norms
        return CompressedMatrix(pack(tensors, budget.dtype), decoded_latents, latent, tuple(history))

    def _loss(self, epoch: int) -> RowLoss:
        """Weighted sum of cosine distance, RMSE and power-L1 (paper, section 3; official `losses/`)."""
        from offcomp.numerics.networks import RowLoss

        annealed = min(1.0, epoch / max(1.0, ANNEALED_EPOCHS * self.epochs))
        return RowLoss(self.cosine_weight, self.rmse_weight, self.l1_weight, power=1 - 0.9 * annealed)


def _last(kind: str, activation: str) -> str:
    """What follows the final layer: nothing in a linear network."""
    return activation if kind == "nonlinear" else "identity"


def decoded_latents(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder of stored latents."""
    from offcomp.numerics.networks import Network, rescale_rows

    count = sum(name.endswith(".weight") for name in tensors)
    layers = tuple((tensors[f"decoder.{i}.weight"], tensors[f"decoder.{i}.bias"]) for i in range(count))
    output = Network(layers, "tanh" if count > 1 else "identity")(tensors["latents"])
    return rescale_rows(output, tensors["row_norms"]) if "row_norms" in tensors else output
