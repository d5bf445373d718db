"""Latents as free parameters, a decoder that starts as the SVD, and a sparse part: the fit of the residual autoencoder.

    Ŵ = Z D + φ(Z F + b) G + S,     φ = LeakyReLU, S with k entries

First Z D and S alone, in turns: the best low rank of W - S, the best k entries of W - Z D (Zhou and Tao, "GoDec", ICML 2011).
Then, where there are hidden units, G starts at zero and all parts are trained together by Adam over the whole matrix at once,
with the gradient written out a piece of rows at a time; S is chosen again every few steps. The best parts seen are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import cos, inf, pi, sqrt

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from offcomp.numerics.allocator import give_back_free_memory
from offcomp.numerics.linalg import factors_of_pieces, low_rank_factors
from offcomp.numerics.networks import SLOPE
from offcomp.numerics.side_weights import SideWeights, squared_norm
from offcomp.numerics.sparse_part import Sparse, best_entries, clear, largest_of

PEAK_RATE = 2e-2
WARM_UP = 0.2
CHOOSE_EVERY = 10
PIECE_ENTRIES = 1 << 19
ROWS_AT_ONCE = 1024
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
    shape, largest, sparse = target.matrix.shape, target.largest, Sparse.empty(target.matrix.device)
    least = inf
    for number in range(rounds if target.entries else 1):
        report(number / rounds)
        left, right = factors_of_pieces(partial(target.without, sparse), shape, rank, largest=largest)
        decoder, sparse = Decoder.of_linear(right), Sparse.empty(right.device)
        sparse = largest_of(partial(target.errors, left, decoder), target.matrix, target.entries)
        error = target.squared(left, decoder, sparse.positions)
        if number == 0 or error < least:
            found, least = (left, right, sparse), error
        del left, right, decoder
        give_back_free_memory()
    return found


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


def train(
    target: Target, latents: Tensor, decoder: Decoder, *, steps: int, report: Report
) -> tuple[Tensor, Decoder, list[float]]:
    """Train latents and decoder together, without metrics, S following at places that are chosen every few steps.

    Returns the best parts seen, the start included, and the root mean square errors on the way. Overwrites `latents`.
    """
    scale = _root_mean_square(latents)
    latents.div_(scale)
    decoder = replace(decoder, linear=decoder.linear * scale[:, None])
    shared = [decoder.linear, decoder.inner, decoder.bias, decoder.outer]
    for tensor in shared:
        tensor.grad = torch.zeros_like(tensor)
    steppers = [_Stepper([latents[start:end]]) for start, end in target.ranges()]
    best, least = [tensor.clone() for tensor in (latents, *shared)], inf
    history, for_shared = [], _Stepper(shared)
    for step in range(steps):
        report(step / steps)
        if step % CHOOSE_EVERY == 0:
            positions = torch.empty(0)  # makes room for the next ones
            positions = largest_of(partial(target.errors, latents, decoder), target.matrix, target.entries).positions
            give_back_free_memory()
            error = target.squared(latents, decoder, positions)
            history.append(sqrt(error / target.matrix.numel()))
            if error < least:
                least = error
                for kept, tensor in zip(best, (latents, *shared), strict=True):
                    kept.copy_(tensor)
        rate = PEAK_RATE * _schedule(step / steps)
        for gradient, stepper in zip(write_gradients(target, latents, decoder, positions), steppers, strict=True):
            stepper.step(rate, [gradient])
        for_shared.step(rate)
    for stepper in (*steppers, for_shared):
        stepper.release()
    return best[0], Decoder(*best[1:]), history


def _root_mean_square(latents: Float[Tensor, "rows rank"]) -> Float[Tensor, " rank"]:
    """That of each latent; where all are zero, the smallest number."""
    squares = sum(piece.square().sum(0) for piece in latents.split(ROWS_AT_ONCE))
    return (squares / len(latents)).sqrt().clamp_min(torch.finfo(torch.float32).tiny)


class _Stepper:
    """Adam for some tensors, whose gradients may be handed over just for the step."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._adam = torch.optim.Adam(tensors, lr=PEAK_RATE, fused=True)

    def step(self, rate: float, gradients: list[Tensor] | None = None) -> None:
        """A step of this size."""
        if gradients is not None:
            for tensor, gradient in zip(self._tensors, gradients, strict=True):
                tensor.grad = gradient
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        if gradients is not None:
            self._adam.zero_grad()

    def release(self) -> None:
        """Let go of all tensors: an optimiser is part of a cycle, so it would hold them until the next garbage collection."""
        self._adam.state.clear()
        self._adam.param_groups.clear()


def _schedule(done: float) -> float:
    """Up to 1 and down to 0 again along a cosine."""
    return done / WARM_UP + 0.01 if done < WARM_UP else 0.5 + 0.5 * cos(pi * (done - WARM_UP) / (1 - WARM_UP))


def write_gradients(target: Target, latents: Tensor, decoder: Decoder, positions: Tensor) -> Iterator[Tensor]:
    """Gradients of half the mean squared error. S follows the rows at once, so the entries at its positions have none.

    Yields those by the latents, a piece of rows at a time, which may change once theirs is there; those by the decoder, which
    come to stand in its `grad`, are complete at the end.
    """
    for shared in (decoder.linear, decoder.inner, decoder.bias, decoder.outer):
        shared.grad.zero_()  # type: ignore[union-attr]  # made by the caller
    for start, end in target.ranges():
        yield _add_gradients(target, latents[start:end], decoder, positions, (start, end))


def _add_gradients(target: Target, piece: Tensor, decoder: Decoder, positions: Tensor, rows: tuple[int, int]) -> Tensor:
    """Those of a piece of rows: adds those by the decoder, returns those by its own latents."""
    start, end = rows
    error = target.piece(start, end)
    units = decoder.units(piece)
    error.addmm_(piece, decoder.linear, alpha=-1).addmm_(units, decoder.outer, alpha=-1)
    clear(error, positions, start * error.shape[1])
    error.mul_(-1 / target.matrix.numel())
    decoder.linear.grad.addmm_(piece.T, error)  # type: ignore[union-attr]  # made by the caller, as are the others
    decoder.outer.grad.addmm_(units.T, error)  # type: ignore[union-attr]
    to_units = torch.ops.aten.leaky_relu_backward(error @ decoder.outer.T, units, SLOPE, True)
    decoder.inner.grad.addmm_(piece.T, to_units)  # type: ignore[union-attr]
    decoder.bias.grad.add_(to_units.sum(0))  # type: ignore[union-attr]
    return (error @ decoder.linear.T).addmm_(to_units, decoder.inner.T)
