"""Fit of the residual autoencoder: latents as free parameters, a decoder initialised from the SVD, and a sparse part.

    Ŵ = Z D + φ(Z F + b) G + S,     φ = LeakyReLU, S with k entries

First Z D and S alone, alternately: the best low-rank approximation of W - S, then the best k entries of W - Z D (Zhou and Tao,
"GoDec", ICML 2011). If there are hidden units, all parts are then trained jointly: `training.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from offcomp.methods.residual.sparse import Sparse, best_entries, clear, largest_of
from offcomp.numerics.memory import give_back_free_memory
from offcomp.numerics.mlp import SLOPE
from offcomp.numerics.progress import Report
from offcomp.numerics.svd import factors_of_pieces, low_rank_factors
from offcomp.numerics.weighted_norm import SideWeights, squared_norm

PIECE_ENTRIES = 1 << 19
ORDINARY = 1e10
"""For scales between its inverse and this value, squares stay well within the range of float32."""


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

    @staticmethod
    def of_linear(linear: Float[Tensor, "rank cols"]) -> Decoder:
        """A decoder without hidden units."""
        rank, cols = linear.shape
        return Decoder(linear, linear.new_zeros(rank, 0), linear.new_zeros(0), linear.new_zeros(0, cols))

    @property
    def hidden(self) -> int:
        """The number of hidden units."""
        return len(self.bias)

    def units(self, latents: Float[Tensor, "rows rank"]) -> Float[Tensor, "rows hidden"]:
        """The hidden activations."""
        return functional.leaky_relu_(torch.addmm(self.bias, latents, self.inner), SLOPE)

    def subtract_from(self, rows: Float[Tensor, "rows cols"], latents: Float[Tensor, "rows rank"]) -> Tensor:
        """Subtract the decoded rows from `rows`, in place."""
        rows.addmm_(latents, self.linear, alpha=-1)
        return rows.addmm_(self.units(latents), self.outer, alpha=-1) if self.hidden else rows

    def in_basis(self, basis: Float[Tensor, "rank rank"]) -> Decoder:
        """An equivalent decoder for latents Z T⁻¹ instead of Z, given T."""
        return replace(self, linear=(basis @ self.linear.double()).float(), inner=(basis @ self.inner.double()).float())


@dataclass(frozen=True)
class Target:
    """The matrix W to fit, which is `matrix / scale`, the number of entries of S, and the metric of the error.

    The scaled matrix is computed in chunks of rows, so that a fit needs at most one working copy.
    """

    matrix: Tensor
    entries: int
    weights: SideWeights
    scale: float = 1.0

    def ranges(self) -> list[tuple[int, int]]:
        """The chunks of rows, as (first, end)."""
        rows, cols = self.matrix.shape
        height = max(1, PIECE_ENTRIES // max(1, cols))
        return [(start, min(rows, start + height)) for start in range(0, rows, height)]

    def piece(self, start: int, end: int) -> Tensor:
        """A fresh copy of rows of W."""
        return (self.matrix[start:end] / self.scale).contiguous()

    def left_over(self, rows: Tensor) -> Tensor:
        """W - rows, overwriting `rows`."""
        for start, end in self.ranges():
            torch.sub(self.piece(start, end), rows[start:end], out=rows[start:end])
        return rows

    def copy_to(self, working: Tensor) -> Tensor:
        """Copy W to `working`."""
        for start, end in self.ranges():
            working[start:end] = self.piece(start, end)
        return working

    def without(self, sparse: Sparse) -> Iterator[Tensor]:
        """W - S, in chunks of rows."""
        for start, end in self.ranges():
            rows = self.piece(start, end)
            sparse.within(start * rows.shape[1], rows.numel()).add_to(rows, -1.0)
            yield rows

    @property
    def largest(self) -> Tensor:
        """The largest magnitude of W."""
        low, high = self.matrix.aminmax()
        return torch.maximum(high, -low) / self.scale

    def errors(self, latents: Tensor, decoder: Decoder) -> Iterator[Tensor]:
        """W minus the decoded rows, in chunks of rows."""
        for start, end in self.ranges():
            yield decoder.subtract_from(self.piece(start, end), latents[start:end])

    def squared(self, latents: Tensor, decoder: Decoder, positions: Tensor) -> float:
        """The squared error without metrics, if S removes the error completely at these positions."""
        total = 0.0
        for (start, _), error in zip(self.ranges(), self.errors(latents, decoder), strict=True):
            clear(error, positions, start * error.shape[1])
            total += squared_norm(error)
        return total


def fit_linear(target: Target, rank: int, rounds: int, report: Report) -> tuple[Tensor, Tensor, Sparse]:
    """Latents (rows, rank), linear decoder (rank, cols) and sparse part, fitted alternately.

    Without metrics this never needs W as a whole.
    """
    if not target.weights.plain:
        return _fit_weighted(target, rank, rounds, report)
    before = best = Sparse.empty(target.matrix.device)
    left, right, sparse, least = _turn(target, rank, before)
    for number in range(1, rounds if target.entries else 1):
        report(number / rounds)
        before = sparse
        del left, right  # frees memory for the next ones
        left, right, sparse, error = _turn(target, rank, before)
        if error < least:
            best, least = before, error
    if best is not before:  # recomputed, so that no second pair of factors is in memory
        del left, right
        left, right, sparse, _ = _turn(target, rank, best)
    return left, right, sparse


def _turn(target: Target, rank: int, before: Sparse) -> tuple[Tensor, Tensor, Sparse, float]:
    """The best factors of W - S, the best S for them, and the squared error of both."""
    give_back_free_memory()
    left, right = factors_of_pieces(partial(target.without, before), target.matrix.shape, rank, largest=target.largest)
    decoder = Decoder.of_linear(right)
    sparse = largest_of(partial(target.errors, left, decoder), target.matrix, target.entries)
    return left, right, sparse, target.squared(left, decoder, sparse.positions)


def _fit_weighted(target: Target, rank: int, rounds: int, report: Report) -> tuple[Tensor, Tensor, Sparse]:
    """`fit_linear` with metrics. They mix rows, so it needs a working copy of W and of its weighted form."""
    report(0.0)
    sparse = Sparse.empty(target.matrix.device)
    if not target.entries:
        return *_low_rank(target, rank), sparse
    working = torch.empty(target.matrix.shape, device=target.matrix.device)
    found: list[tuple[float, Tensor, Tensor, Sparse]] = []
    for number in range(rounds):
        report(number / rounds)
        sparse.add_to(target.copy_to(working), -1.0)
        left, right = low_rank_factors(working, rank, target.weights.rows, target.weights.columns)
        target.copy_to(working).addmm_(left, right, alpha=-1)
        sparse = best_entries(working, sparse, target.entries, target.weights)
        target.copy_to(working).addmm_(left, right, alpha=-1)
        sparse.add_to(working, -1.0)
        found.append((target.weights.roughly_squared(working), left, right, sparse))
        del left, right
        found = [min(found, key=lambda fit: fit[0])]
    return found[0][1:]


def _low_rank(target: Target, rank: int) -> tuple[Tensor, Tensor]:
    """The best low-rank factors of W, computed from the unscaled matrix without a copy if its squares stay within range."""
    rows, columns = target.weights.rows, target.weights.columns
    if 1 / ORDINARY < target.scale < ORDINARY:
        left, right = low_rank_factors(target.matrix, rank, rows, columns)
        return left.div_(sqrt(target.scale)), right.div_(sqrt(target.scale))
    working = torch.empty(target.matrix.shape, device=target.matrix.device)
    return low_rank_factors(target.copy_to(working), rank, rows, columns)
