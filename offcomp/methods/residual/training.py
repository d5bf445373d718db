"""Joint training of all parts of the residual autoencoder: latents, linear decoder, hidden units and sparse part.

The output of the hidden units starts at zero. Training is full-batch Adam with explicit gradients; the positions of the sparse
part are updated every few steps. The best parts seen are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, inf, pi, sqrt

import torch
from jaxtyping import Float, Integer
from torch import Generator, Tensor
from torch.nn import functional

from offcomp.numerics.chunks import squared_norm
from offcomp.numerics.mlp import SLOPE
from offcomp.numerics.progress import Report
from offcomp.numerics.top_k import largest_entries

PEAK_RATE = 2e-2
WARM_UP = 0.2
CHOOSE_EVERY = 10


@dataclass(frozen=True)
class Decoder:
    """Maps latents (rows, rank) to rows (rows, cols), without the sparse part.

    linear      (rank, cols)
    inner       (rank, hidden)
    bias        (hidden,)
    outer       (hidden, cols)
    """

    linear: Tensor
    inner: Tensor
    bias: Tensor
    outer: Tensor

    @staticmethod
    def new(linear: Float[Tensor, "rank cols"], hidden: int, generator: Generator) -> Decoder:
        """Random hidden units with zero output weights."""
        rank, cols = linear.shape
        inner = torch.randn(rank, hidden, generator=generator) / sqrt(rank)
        bias = torch.randn(hidden, generator=generator)
        return Decoder(linear, inner.to(linear), bias.to(linear), linear.new_zeros(hidden, cols))

    @property
    def hidden(self) -> int:
        """The number of hidden units."""
        return len(self.bias)

    @property
    def parameters(self) -> list[Tensor]:
        """All parameter tensors."""
        return [self.linear, self.inner, self.bias, self.outer]

    def units(self, latents: Float[Tensor, "rows rank"]) -> Float[Tensor, "rows hidden"]:
        """The hidden activations."""
        return functional.leaky_relu_(torch.addmm(self.bias, latents, self.inner), SLOPE)

    def error(
        self, target: Float[Tensor, "rows cols"], latents: Float[Tensor, "rows rank"], units: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "rows cols"]:
        """The target minus the decoded rows."""
        return torch.addmm(target, latents, self.linear, alpha=-1).addmm_(units, self.outer, alpha=-1)

    def in_basis(self, basis: Float[Tensor, "rank rank"]) -> Decoder:
        """An equivalent decoder for latents Z T⁻¹ instead of Z, given T."""
        return replace(self, linear=(basis @ self.linear.double()).float(), inner=(basis @ self.inner.double()).float())


def train(
    target: Float[Tensor, "rows cols"],
    entries: int,
    latents: Float[Tensor, "rows rank"],
    decoder: Decoder,
    *,
    steps: int,
    report: Report,
) -> tuple[Float[Tensor, "rows rank"], Decoder, list[float]]:
    """Train latents and decoder jointly, without metrics. The positions of S are updated every few steps.

    Returns the best parts seen, including the start, and the history of root mean square errors.
    """
    scale = latents.square().mean(0).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    latents, decoder = latents / scale, replace(decoder, linear=decoder.linear * scale[:, None])
    parameters = [latents, *decoder.parameters]
    optimizer = torch.optim.Adam(parameters, lr=PEAK_RATE, fused=True)
    history, least = [], inf
    for step in range(steps):
        report(step / steps)
        if step % CHOOSE_EVERY == 0:
            error = decoder.error(target, latents, decoder.units(latents))
            positions = largest_entries(error, entries)
            error.view(-1)[positions] = 0
            squared = squared_norm(error)
            history.append(sqrt(squared / target.numel()))
            if step == 0 or squared < least:
                least, best = squared, [tensor.clone() for tensor in parameters]
        optimizer.param_groups[0]["lr"] = PEAK_RATE * _schedule(step / steps)
        for tensor, gradient in zip(parameters, gradients(target, latents, decoder, positions), strict=True):
            tensor.grad = gradient
        optimizer.step()
    return best[0], Decoder(*best[1:]), history


def _schedule(done: float) -> float:
    """Linear warm-up to 1, then cosine decay to 0."""
    return done / WARM_UP + 0.01 if done < WARM_UP else 0.5 + 0.5 * cos(pi * (done - WARM_UP) / (1 - WARM_UP))


def gradients(
    target: Float[Tensor, "rows cols"], latents: Float[Tensor, "rows rank"], decoder: Decoder, positions: Integer[Tensor, " k"]
) -> tuple[Tensor, ...]:
    """Gradients of half the mean squared error with respect to the latents and the decoder's parameters.

    S absorbs the error at its positions, so those entries contribute nothing.
    """
    units = decoder.units(latents)
    error = decoder.error(target, latents, units)
    error.view(-1)[positions] = 0
    error.mul_(-1 / target.numel())
    to_units = torch.ops.aten.leaky_relu_backward(error @ decoder.outer.T, units, SLOPE, True)
    to_latents = (error @ decoder.linear.T).addmm_(to_units, decoder.inner.T)
    return to_latents, latents.T @ error, latents.T @ to_units, to_units.sum(0), units.T @ error
