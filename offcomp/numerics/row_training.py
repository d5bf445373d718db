"""Training of an encoder and a decoder over the rows of a matrix, then of the latents themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from offcomp.numerics.fitting import train
from offcomp.numerics.losses import RowLoss
from offcomp.numerics.networks import Network

Batch = tuple[Tensor, ...]
"""The same rows of every table."""


@dataclass(frozen=True)
class RowTask:
    """What is to be reproduced, and how that is judged.

    samples         (rows, cols)
    norms           (rows,) of the samples
    coefficients    (rows, 1) or (rows, cols), or None where all count alike
    enforce_norm    whether the output is rescaled to the norms
    loss            the loss of an epoch
    """

    samples: Float[Tensor, "rows cols"]
    norms: Float[Tensor, " rows"]
    coefficients: Float[Tensor, "rows _"] | None
    enforce_norm: bool
    loss: Callable[[int], RowLoss]

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """What a batch takes its rows from."""
        shared = (self.samples, self.norms)
        return shared if self.coefficients is None else (*shared, self.coefficients)

    def through_decoder(self, decoder: Network, latents: Tensor, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and its gradient by the latents; writes the gradients of the decoder."""
        samples, norms, *rest = batch
        coefficients = rest[0] if rest else None
        outputs = decoder.outputs(latents)
        if self.enforce_norm:
            loss, gradient = self.loss(epoch).of_rescaled(outputs[-1], samples, norms, coefficients)
        else:
            loss, gradient = self.loss(epoch).with_gradient(outputs[-1], samples, coefficients)
        return loss, cast("Tensor", decoder.backward(outputs, gradient, to_inputs=True))

    def through_both(self, encoder: Network, decoder: Network, batch: Batch, epoch: int) -> Tensor:
        """The loss of a batch; writes the gradients of encoder and decoder."""
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
    """Train latents and decoder together over all rows at once, the step size falling to zero along a cosine.

    Returns the latents and the loss of each step; the decoder's parameters are those of the last step.
    """
    latents = latents.clone()

    def step(batch: Batch, _epoch: int) -> Tensor:
        places = batch[0]
        loss, gradient = task.through_decoder(decoder, latents[places], batch[1:], epoch)
        cast("Tensor", latents.grad)[places] = gradient
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
