"""Train the encoder and decoder on the rows of a matrix, then refine the latents directly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from offcomp.methods.autoencoder.losses import RowLoss
from offcomp.numerics.mlp import Network
from offcomp.numerics.training import train

Batch = tuple[Tensor, ...]
"""The rows of one batch, taken from each of the tables passed to `train`."""


@dataclass(frozen=True)
class RowTask:
    """The rows to reconstruct, and the loss to minimise.

    samples         (rows, cols)
    norms           (rows,), the norms of the samples
    coefficients    (rows, 1) or (rows, cols), or None for equal weights
    enforce_norm    whether the output is rescaled to the norms
    loss            function that returns the loss of an epoch
    """

    samples: Float[Tensor, "rows cols"]
    norms: Float[Tensor, " rows"]
    coefficients: Float[Tensor, "rows _"] | None
    enforce_norm: bool
    loss: Callable[[int], RowLoss]

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """The tensors from which the rows of a batch are taken."""
        shared = (self.samples, self.norms)
        return shared if self.coefficients is None else (*shared, self.coefficients)

    def through_decoder(self, decoder: Network, latents: Tensor, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """The loss of a batch and its gradient with respect to the latents. Also sets the decoder's gradients."""
        samples, norms, *rest = batch
        coefficients = rest[0] if rest else None
        outputs = decoder.outputs(latents)
        if self.enforce_norm:
            loss, gradient = self.loss(epoch).of_rescaled(outputs[-1], samples, norms, coefficients)
        else:
            loss, gradient = self.loss(epoch).with_gradient(outputs[-1], samples, coefficients)
        return loss, cast("Tensor", decoder.backward(outputs, gradient, to_inputs=True))

    def through_both(self, encoder: Network, decoder: Network, batch: Batch, epoch: int) -> Tensor:
        """The loss of a batch. Also sets the gradients of the encoder and decoder."""
        encoded = encoder.outputs(batch[0])
        loss, gradient = self.through_decoder(decoder, encoded[-1], batch, epoch)
        encoder.backward(encoded, gradient, to_inputs=False)
        return loss


def refine(
    task: RowTask,
    decoder: Network,
    latents: Float[Tensor, "rows latent"],
    *,
    epoch: int,
    steps: int,
    learning_rate: float,
    report: Callable[[float], None],
) -> tuple[Float[Tensor, "rows latent"], list[float]]:
    """Train the latents and decoder jointly, with full batches and a learning rate that follows a cosine decay to zero.

    Returns the latents and the loss of each step. The decoder is updated in place.
    """
    latents = latents.clone()

    def step(batch: Batch, _epoch: int) -> Tensor:
        rows = batch[0]
        loss, gradient = task.through_decoder(decoder, latents[rows], batch[1:], epoch)
        cast("Tensor", latents.grad)[rows] = gradient
        return loss

    losses = train(
        [latents, *decoder.parameters],
        step,
        tables=(torch.arange(len(latents), device=latents.device), *task.tables),
        epochs=steps,
        batch_size=len(latents),
        learning_rate=lambda done: learning_rate * (0.5 + 0.5 * cos(pi * done / steps)),
        generator=Generator().manual_seed(0),
        report=report,
    )
    return latents, losses
