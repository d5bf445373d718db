"""Train the encoder and decoder on the rows of a matrix, then refine the latents directly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import cast

from jaxtyping import Float
from torch import Generator, Tensor

from offcomp.methods.autoencoder.losses import RowLoss
from offcomp.numerics.mlp import Network
from offcomp.numerics.training import train

Batch = tuple[Tensor, ...]
"""The rows of one batch, taken from each of the tables passed to `train`."""


@dataclass(frozen=True)
class RowTask:
    """The rows of one or more stacked matrices to reconstruct, and the loss to minimise.

    samples         (stack, rows, cols)
    norms           (stack, rows, 1), the norms of the samples
    coefficients    (stack, rows, 1) or (stack, rows, cols), or None for equal weights
    enforce_norm    whether the output is rescaled to the norms
    loss            function that returns the `RowLoss` to use in an epoch
    """

    samples: Float[Tensor, "stack rows cols"]
    norms: Float[Tensor, "stack rows 1"]
    coefficients: Float[Tensor, "stack rows _"] | None
    enforce_norm: bool
    loss: Callable[[int], RowLoss]

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """The tensors from which the rows of a batch are taken."""
        shared = (self.samples, self.norms)
        return shared if self.coefficients is None else (*shared, self.coefficients)

    def through_decoder(self, decoder: Network, latents: Tensor, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """The losses of a batch and their gradient with respect to the latents. Also sets the decoder's gradients."""
        samples, norms, *rest = batch
        coefficients = rest[0] if rest else None
        outputs = decoder.outputs(latents)
        if self.enforce_norm:
            loss, gradient = self.loss(epoch).of_rescaled(outputs[-1], samples, norms, coefficients)
        else:
            loss, gradient = self.loss(epoch).with_gradient(outputs[-1], samples, coefficients)
        return loss, cast("Tensor", decoder.backward(outputs, gradient, to_inputs=True))

    def through_both(self, encoder: Network, decoder: Network, batch: Batch, epoch: int) -> Tensor:
        """The losses of a batch. Also sets the gradients of the encoder and decoder."""
        encoded = encoder.outputs(batch[0])
        loss, gradient = self.through_decoder(decoder, encoded[-1], batch, epoch)
        encoder.backward(encoded, gradient, to_inputs=False)
        return loss


def refine(
    task: RowTask,
    decoder: Network,
    latents: Float[Tensor, "stack rows latent"],
    *,
    rounding: Callable[[Tensor], Tensor] | None,
    epoch: int,
    steps: int,
    learning_rate: float,
    report: Callable[[float], None],
) -> tuple[Float[Tensor, "stack rows latent"], list[Float[Tensor, " stack"]]]:
    """Train the latents and decoder jointly, with full batches and a learning rate that follows a cosine decay to zero.

    With `rounding`, the decoder sees the rounded latents; the gradients with respect to these are applied to the
    unrounded ones. Returns the unrounded latents and the losses of each step. The decoder is updated in place.
    """
    latents = latents.clone()

    def step(_batch: Batch, _epoch: int) -> Tensor:
        seen = rounding(latents) if rounding else latents
        loss, gradient = task.through_decoder(decoder, seen, task.tables, epoch)
        cast("Tensor", latents.grad).copy_(gradient)
        return loss

    losses = train(
        [latents, *decoder.parameters],
        step,
        tables=(task.norms,),
        epochs=steps,
        batch_size=latents.shape[1],
        learning_rate=lambda done: learning_rate * (0.5 + 0.5 * cos(pi * done / steps)),
        generator=Generator().manual_seed(0),
        report=report,
    )
    return latents, losses
