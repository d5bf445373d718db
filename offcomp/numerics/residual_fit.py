"""Latents as free parameters, a decoder that starts as the SVD, and a sparse part: the fit of the residual autoencoder.

    Ŵ = Z D + φ(Z F + b) G + S,     φ = LeakyReLU, S with k entries

First Z D and S alone, in turns: the best low rank of W - S, the best k entries of W - Z D (Zhou and Tao, "GoDec", ICML 2011).
Then, where there are hidden units, G starts at zero and all parts are trained together by Adam over the whole matrix at once,
with the gradient written out; S is chosen again every few steps. The best parts seen are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, pi, sqrt

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from offcomp.numerics.linalg import low_rank_factors
from offcomp.numerics.networks import SLOPE
from offcomp.numerics.side_weights import SideWeights
from offcomp.numerics.sparse_part import Sparse, best_entries

PEAK_RATE = 2e-2
WARM_UP = 0.2
CHOOSE_EVERY = 10
Report = Callable[[float], None]


@dataclass(frozen=True)
class Decoder:
    """What turns latents (rows, rank) into rows (rows, cols), and the sparse part.

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
        """Random hidden units that nothing comes out of yet."""
        rank, cols = linear.shape
        inner = torch.randn(rank, hidden, generator=generator) / sqrt(rank)
        bias = torch.randn(hidden, generator=generator)
        return Decoder(linear, inner.to(linear), bias.to(linear), linear.new_zeros(hidden, cols))

    @property
    def hidden(self) -> int:
        """The number of hidden units."""
        return len(self.bias)

    def units(self, latents: Float[Tensor, "rows rank"]) -> Float[Tensor, "rows hidden"]:
        """What the hidden units give."""
        return functional.leaky_relu_(torch.addmm(self.bias, latents, self.inner), SLOPE)

    def __call__(self, latents: Float[Tensor, "rows rank"]) -> Float[Tensor, "rows cols"]:
        """The decoded rows."""
        rows = latents @ self.linear
        return rows.addmm_(self.units(latents), self.outer) if self.hidden else rows

    def in_basis(self, basis: Float[Tensor, "rank rank"]) -> Decoder:
        """The same decoder for latents Z T⁻¹ instead of Z, given T."""
        return replace(self, linear=(basis @ self.linear.double()).float(), inner=(basis @ self.inner.double()).float())


@dataclass(frozen=True)
class Target:
    """The matrix to fit, how many entries S may have, and the metric of the error."""

    matrix: Tensor
    entries: int
    weights: SideWeights

    def left_over(self, rows: Tensor) -> Tensor:
        """W - rows, overwriting `rows`."""
        return torch.sub(self.matrix, rows, out=rows)

    def squared(self, rows: Tensor, sparse: Sparse) -> float:
        """The squared error of rows + S. Overwrites `rows`."""
        error = self.left_over(rows)
        sparse.add_to(error, -1.0)
        return self.weights.roughly_squared(error)


def fit_linear(target: Target, rank: int, rounds: int, report: Report) -> tuple[Tensor, Tensor, Sparse]:
    """Latents (rows, rank), linear decoder (rank, cols) and sparse part, fitted in turns."""
    sparse = Sparse.empty(target.matrix.device)
    found: list[tuple[float, Tensor, Tensor, Sparse]] = []
    for number in range(rounds if target.entries else 1):
        report(number / rounds)
        left, right = _low_rank_beside(target, sparse, rank)
        sparse = best_entries(target.left_over(left @ right), sparse, target.entries, target.weights)
        found.append((target.squared(left @ right, sparse), left, right, sparse))
        found = [min(found, key=lambda fit: fit[0])]
    return found[0][1:]


def _low_rank_beside(target: Target, sparse: Sparse, rank: int) -> tuple[Tensor, Tensor]:
    """The best low-rank factors of W - S. The matrix is W - S meanwhile, and the same as before to the bit afterwards."""
    entries = target.matrix.view(-1)
    kept = entries[sparse.positions]
    sparse.add_to(target.matrix, -1.0)
    factors = low_rank_factors(target.matrix, rank, target.weights.rows, target.weights.columns)
    entries[sparse.positions] = kept
    return factors


def train(
    target: Target, latents: Tensor, decoder: Decoder, sparse: Sparse, *, steps: int, report: Report
) -> tuple[Tensor, Decoder, Sparse, list[float]]:
    """Train latents and decoder together, without metrics.

    Returns the best parts seen, the start included, and the root mean square errors on the way.
    """
    scale = latents.square().mean(0).sqrt().clamp_min(torch.finfo(torch.float32).tiny)  # (rank,)
    latents = latents / scale
    decoder = replace(decoder, linear=decoder.linear * scale[:, None])
    parameters = [latents, decoder.linear, decoder.inner, decoder.bias, decoder.outer]
    for tensor in parameters:
        tensor.grad = torch.zeros_like(tensor)
    optimizer = torch.optim.Adam(parameters, lr=PEAK_RATE, fused=True)
    best = [tensor.clone() for tensor in parameters], sparse, target.squared(decoder(latents), sparse)
    history = []
    for step in range(steps):
        report(step / steps)
        if step % CHOOSE_EVERY == 0 and step:
            sparse = best_entries(target.left_over(decoder(latents)), sparse, target.entries, target.weights)
            error = target.squared(decoder(latents), sparse)
            history.append(sqrt(error / target.matrix.numel()))
            if error < best[2]:
                best = [tensor.clone() for tensor in parameters], sparse, error
        optimizer.param_groups[0]["lr"] = PEAK_RATE * _schedule(step / steps)
        _write_gradients(target, latents, decoder, sparse)
        optimizer.step()
    return best[0][0], Decoder(*best[0][1:]), best[1], history


def _schedule(done: float) -> float:
    """Up to 1 and down to 0 again along a cosine."""
    return done / WARM_UP + 0.01 if done < WARM_UP else 0.5 + 0.5 * cos(pi * (done - WARM_UP) / (1 - WARM_UP))


def _write_gradients(target: Target, latents: Tensor, decoder: Decoder, sparse: Sparse) -> None:
    """Gradients of half the mean squared error. S follows the rows at once, so its entries have none."""
    units = decoder.units(latents)
    error = target.left_over((latents @ decoder.linear).addmm_(units, decoder.outer))
    error.view(-1)[sparse.positions] = 0
    error.mul_(-1 / error.numel())
    torch.mm(latents.T, error, out=decoder.linear.grad)
    torch.mm(units.T, error, out=decoder.outer.grad)
    to_units = torch.ops.aten.leaky_relu_backward(error @ decoder.outer.T, units, SLOPE, True)
    torch.mm(latents.T, to_units, out=decoder.inner.grad)
    torch.sum(to_units, 0, out=decoder.bias.grad)
    torch.mm(error, decoder.linear.T, out=latents.grad)
    latents.grad.addmm_(to_units, decoder.inner.T)  # type: ignore[union-attr]  # made above
