"""Latents as free parameters, a decoder that starts as the SVD, and a sparse part: the fit of the residual autoencoder.

    Ŵ = Z D + φ(Z F + b) G + S,     φ = LeakyReLU, S with k entries

First Z D and S alone, in turns: the best low rank of W - S, the best k entries of W - Z D (Zhou and Tao, "GoDec", ICML 2011).
Then, where there are hidden units, all parts are trained together: `numerics.residual_training`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from offcomp.numerics.allocator import give_back_free_memory
from offcomp.numerics.linalg import factors_of_pieces, low_rank_factors
from offcomp.numerics.networks import SLOPE
from offcomp.numerics.side_weights import SideWeights, squared_norm
from offcomp.numerics.sparse_part import Sparse, best_entries, clear, largest_of

PIECE_ENTRIES = 1 << 19
ORDINARY = 1e10
"""Scales up to this one, and down to its inverse, leave squares far within float32."""
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

    @staticmethod
    def of_linear(linear: Float[Tensor, "rank cols"]) -> Decoder:
        """Without hidden units."""
        rank, cols = linear.shape
        return Decoder(linear, linear.new_zeros(rank, 0), linear.new_zeros(0), linear.new_zeros(0, cols))

    @property
    def hidden(self) -> int:
        """The number of hidden units."""
        return len(self.bias)

    def units(self, latents: Float[Tensor, "rows rank"]) -> Float[Tensor, "rows hidden"]:
        """What the hidden units give."""
        return functional.leaky_relu_(torch.addmm(self.bias, latents, self.inner), SLOPE)

    def subtract_from(self, rows: Float[Tensor, "rows cols"], latents: Float[Tensor, "rows rank"]) -> Tensor:
        """The rows less the decoded ones, in place."""
        rows.addmm_(latents, self.linear, alpha=-1)
        return rows.addmm_(self.units(latents), self.outer, alpha=-1) if self.hidden else rows

    def in_basis(self, basis: Float[Tensor, "rank rank"]) -> Decoder:
        """The same decoder for latents Z T⁻¹ instead of Z, given T."""
        return replace(self, linear=(basis @ self.linear.double()).float(), inner=(basis @ self.inner.double()).float())


@dataclass(frozen=True)
class Target:
    """The matrix to fit, which is `matrix / scale`, how many entries S may have, and the metric of the error.

    The scaled matrix is made a piece of rows at a time, so that a fit needs no more than one working copy.
    """

    matrix: Tensor
    entries: int
    weights: SideWeights
    scale: float = 1.0

    def ranges(self) -> list[tuple[int, int]]:
        """The pieces of rows, as first row and end."""
        rows, cols = self.matrix.shape
        height = max(1, PIECE_ENTRIES // max(1, cols))
        return [(start, min(rows, start + height)) for start in range(0, rows, height)]

    def piece(self, start: int, end: int) -> Tensor:
        """Rows of W, newly made."""
        return (self.matrix[start:end] / self.scale).contiguous()

    def left_over(self, rows: Tensor) -> Tensor:
        """W - rows, overwriting `rows`."""
        for start, end in self.ranges():
            torch.sub(self.piece(start, end), rows[start:end], out=rows[start:end])
        return rows

    def copy_to(self, working: Tensor) -> Tensor:
        """W, in `working`."""
        for start, end in self.ranges():
            working[start:end] = self.piece(start, end)
        return working

    def without(self, sparse: Sparse) -> Iterator[Tensor]:
        """W - S, a piece of rows at a time."""
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
        """W less the decoded rows, a piece of rows at a time."""
        for start, end in self.ranges():
            yield decoder.subtract_from(self.piece(start, end), latents[start:end])

    def squared(self, latents: Tensor, decoder: Decoder, positions: Tensor) -> float:
        """The squared error without metrics, where S takes all of it away at these positions."""
        total = 0.0
        for (start, _), error in zip(self.ranges(), self.errors(latents, decoder), strict=True):
            clear(error, positions, start * error.shape[1])
            total += squared_norm(error)
        return total


def fit_linear(target: Target, rank: int, rounds: int, report: Report) -> tuple[Tensor, Tensor, Sparse]:
    """Latents (rows, rank), linear decoder (rank, cols) and sparse part, fitted in turns, on pieces of W alone."""
    if not target.weights.plain:
        return _fit_weighted(target, rank, rounds, report)
    before = best = Sparse.empty(target.matrix.device)
    left, right, sparse, least = _turn(target, rank, before)
    for number in range(1, rounds if target.entries else 1):
        report(number / rounds)
        before = sparse
        del left, right  # makes room for the next ones
        left, right, sparse, error = _turn(target, rank, before)
        if error < least:
            best, least = before, error
    if best is not before:  # made again, so that no second pair of factors is kept
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
    """The same in metrics, which mix rows: in one working copy of W, and what the metrics make of it."""
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
    """The best low-rank factors of W; of the given matrix itself where its squares are ordinary numbers, so without a copy."""
    rows, columns = target.weights.rows, target.weights.columns
    if 1 / ORDINARY < target.scale < ORDINARY:
        left, right = low_rank_factors(target.matrix, rank, rows, columns)
        return left.div_(sqrt(target.scale)), right.div_(sqrt(target.scale))
    working = torch.empty(target.matrix.shape, device=target.matrix.device)
    return low_rank_factors(target.copy_to(working), rank, rows, columns)
