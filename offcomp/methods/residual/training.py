"""Joint training of all parts of the residual autoencoder: latents, linear decoder, hidden units and sparse part.

The output weights of the hidden units start at zero. Training uses full-batch Adam with hand-written gradients and updates the
positions of the sparse part every few steps. The best parameters seen during training are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, inf, pi, sqrt

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional

from offcomp.numerics.chunks import squared_norm
from offcomp.numerics.mlp import SLOPE
from offcomp.numerics.progress import Report
from offcomp.numerics.top_k import largest_mask

PEAK_RATE = 2e-2
WARM_UP = 0.2
CHOOSE_EVERY = 10
ROWS_AT_ONCE = 1024
"""Rows per chunk: the hidden activations of all rows at once would take several times as much memory as the matrix."""


@dataclass(frozen=True)
class Decoder:
    """Decoder that maps latents (rows, rank) to a matrix (rows, cols), without the sparse part.

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
        """Create a decoder with random hidden units whose output weights are zero."""
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

    def error(self, target: Float[Tensor, "rows cols"], latents: Float[Tensor, "rows rank"]) -> Float[Tensor, "rows cols"]:
        """The target minus the decoded rows."""
        parts = zip(target.split(ROWS_AT_ONCE), latents.split(ROWS_AT_ONCE), strict=True)
        return torch.cat([self.error_with(rows, part, self.units(part)) for rows, part in parts])

    def error_with(
        self, target: Float[Tensor, "rows cols"], latents: Float[Tensor, "rows rank"], units: Float[Tensor, "rows hidden"]
    ) -> Float[Tensor, "rows cols"]:
        """Like `error`, but with precomputed hidden activations."""
        return torch.addmm(target, latents, self.linear, alpha=-1).addmm_(units, self.outer, alpha=-1)

    def in_basis(self, basis: Float[Tensor, "rank rank"]) -> Decoder:
        """The equivalent decoder for latents Z T⁻¹, where T is `basis`."""
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
    """Train the latents and decoder jointly on the plain squared error, updating the positions of S every few steps.

    Returns the best latents and decoder seen, which may be the initial ones, and the history of root mean square errors.
    """
    scale = latents.square().mean(0).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    latents, decoder = latents / scale, replace(decoder, linear=decoder.linear * scale[:, None])
    parameters = [latents, *decoder.parameters]
    optimizer = torch.optim.Adam(parameters, lr=PEAK_RATE, fused=True)
    history, least = [], inf
    for step in range(steps):
        report(step / steps)
        if step % CHOOSE_EVERY == 0:
            error = decoder.error(target, latents)
            absorbed = largest_mask(error, entries)
            squared = squared_norm(error.masked_fill_(absorbed, 0))
            history.append(sqrt(squared / target.numel()))
            if step == 0 or squared < least:
                least, best = squared, [tensor.clone() for tensor in parameters]
        optimizer.param_groups[0]["lr"] = PEAK_RATE * _schedule(step / steps)
        for tensor, gradient in zip(parameters, gradients(target, latents, decoder, absorbed), strict=True):
            tensor.grad = gradient
        optimizer.step()
    return best[0], Decoder(*best[1:]), history


def _schedule(done: float) -> float:
    """Linear warm-up to 1, then cosine decay to 0."""
    return done / WARM_UP + 0.01 if done < WARM_UP else 0.5 + 0.5 * cos(pi * (done - WARM_UP) / (1 - WARM_UP))


def gradients(
    target: Float[Tensor, "rows cols"],
    latents: Float[Tensor, "rows rank"],
    decoder: Decoder,
    absorbed: Bool[Tensor, "rows cols"],
) -> list[Tensor]:
    """Gradients of half the mean squared error with respect to the latents and the decoder's parameters.

    Entries where `absorbed` is true contribute nothing, since S absorbs their error.
    """
    to_latents, *to_decoder = found = [torch.zeros_like(tensor) for tensor in (latents, *decoder.parameters)]
    tables = (target, latents, absorbed, to_latents)
    for rows, part, is_absorbed, to_part in zip(*(table.split(ROWS_AT_ONCE) for table in tables), strict=True):
        units = decoder.units(part)
        error = decoder.error_with(rows, part, units).masked_fill_(is_absorbed, 0).mul_(-1 / target.numel())
        to_units = torch.ops.aten.leaky_relu_backward(error @ decoder.outer.T, units, SLOPE, True)
        to_part.addmm_(error, decoder.linear.T).addmm_(to_units, decoder.inner.T)
        changes = (part.T @ error, part.T @ to_units, to_units.sum(0), units.T @ error)
        for gradient, change in zip(to_decoder, changes, strict=True):
            gradient.add_(change)
    return found
