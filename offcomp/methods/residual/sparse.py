"""Find the sparse matrix S with k entries that best approximates an error E: minimise tr((E - S)ᵀ R (E - S) C).

Without metrics these are the k largest entries, unchanged. With metrics, the positions come from a step of each entry toward
its own optimum with all others fixed (normalised iterative hard thresholding, Blumensath and Davies 2010, scaled by the
diagonal); conjugate gradients then solve for the values at these positions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from offcomp.numerics.memory import give_back_free_memory
from offcomp.numerics.weighted_norm import SideWeights, squared_norm

SAMPLE = 1 << 18
SHORT = torch.iinfo(torch.int32).max
"""Positions up to this value are stored as int32, in half the memory."""
Pieces = Callable[[], Iterable[Tensor]]
"""Returns the entries of a matrix in row-major order, in chunks, the same at each call."""
SOLVER_STEPS = 6
OVER_RELAXATION = 1.8
"""Multiple of the optimal joint step. Any value below 2 decreases the error; positions converge sooner with over-relaxation."""


@dataclass(frozen=True)
class Sparse:
    """Values at increasing positions (row · cols + column) of a matrix that is zero elsewhere."""

    positions: Integer[Tensor, " count"]
    values: Float[Tensor, " count"]

    @staticmethod
    def empty(device: torch.device) -> Sparse:
        """No entries."""
        return Sparse(torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, device=device))

    def add_to(self, matrix: Float[Tensor, "rows cols"], factor: float = 1.0) -> None:
        """Add `factor` times S to a contiguous matrix, in place."""
        entries = matrix.view(-1)
        for places, values in zip(self.positions.split(SAMPLE), self.values.split(SAMPLE), strict=True):
            entries[places] += factor * values

    def within(self, start: int, length: int) -> Sparse:
        """The entries at positions from `start` up to `start + length`, relative to `start`."""
        here = _within(self.positions, start, length)
        return Sparse(self.positions[here] - start, self.values[here])


def _within(positions: Integer[Tensor, " count"], start: int, length: int) -> slice:
    """The slice of the increasing positions that lie between `start` and `start + length`."""
    ends = torch.tensor([start, start + length - 1], dtype=positions.dtype, device=positions.device)
    first, end = torch.searchsorted(positions, ends[:1]), torch.searchsorted(positions, ends[1:], right=True)
    return slice(int(first.item()), int(end.item()))


def clear(piece: Float[Tensor, "_ cols"], positions: Integer[Tensor, " count"], start: int) -> None:
    """Zero the entries at these matrix positions in `piece`, a contiguous chunk that begins at position `start`."""
    here = _within(positions, start, piece.numel())
    piece.view(-1)[positions[here] - start] = 0


def largest_entries(matrix: Float[Tensor, "rows cols"], count: int) -> Integer[Tensor, " count"]:
    """Positions of the `count` entries of largest magnitude, in increasing order."""
    entries = matrix.reshape(-1)
    return largest_of(lambda: entries.split(SAMPLE), matrix, count).positions


def largest_of(pieces: Pieces, like: Float[Tensor, "rows cols"], count: int) -> Sparse:
    """The `count` entries of largest magnitude of a matrix in chunks; among equal ones, the first.

    `like` is a matrix of the same shape on the same device. The smallest selected magnitude is determined first, among the few
    candidates that pass a threshold estimated from a sample. This avoids the time and memory of sorting all entries.
    """
    kind = torch.int32 if like.numel() <= SHORT else torch.int64
    positions = torch.zeros(count, dtype=kind, device=like.device)
    values = torch.zeros(count, device=like.device)
    if count == 0:
        return Sparse(positions, values)
    least, ties = _least(pieces, like.numel(), count)
    give_back_free_memory()
    start = filled = 0
    for piece in pieces():
        entries = piece.reshape(-1)
        magnitudes = entries.abs()
        chosen = magnitudes > least
        if ties:
            equal = (magnitudes == least).nonzero()[:ties, 0]
            chosen[equal] = True
            ties -= len(equal)
        found = chosen.nonzero()[: count - filled, 0]
        positions[filled : filled + len(found)] = found + start
        values[filled : filled + len(found)] = entries[found].float()
        start, filled = start + len(entries), filled + len(found)
    return Sparse(positions[:filled], values[:filled])


def _least(pieces: Pieces, total: int, count: int) -> tuple[float, int]:
    """The `count`-th largest magnitude, and how many of the selected entries are equal to it."""
    sample = _sampled(pieces, max(1, total // SAMPLE))
    found = sample[:0]
    for excess in (1.1, 2.0):
        wanted = int(excess * count / total * len(sample)) + 64
        if wanted >= len(sample):
            break
        threshold = float(sample.topk(wanted, sorted=False).values.min())
        found = torch.cat([piece[piece.abs() >= threshold] for piece in pieces()])
        if len(found) >= count:
            break
    if len(found) < count:
        found = torch.cat([piece.reshape(-1) for piece in pieces()])
    magnitudes = found.abs_().cpu().numpy()
    magnitudes.partition(len(magnitudes) - count)
    least = float(magnitudes[len(magnitudes) - count])
    return least, count - int((magnitudes > least).sum())


def _sampled(pieces: Pieces, stride: int) -> Tensor:
    """The magnitude of every `stride`-th entry."""
    parts, start = [], 0
    for piece in pieces():
        parts.append(piece.reshape(-1)[-start % stride :: stride].abs())
        start += piece.numel()
    return torch.cat(parts)


def best_entries(error: Float[Tensor, "rows cols"], before: Sparse, count: int, weights: SideWeights) -> Sparse:
    """The sparse matrix of `count` entries for an error, starting from `before`. Modifies `error`."""
    if weights.plain:
        entries = error.view(-1)
        return largest_of(lambda: entries.split(SAMPLE), error, count)
    before.add_to(error, -1.0)
    step = weights.weighted(error)  # half the negative gradient
    weights.scale(step, -0.5)
    gain = squared_norm(step)
    weights.scale(step, -0.5)  # the optimal step of each entry alone; the joint step goes almost twice its optimum
    step *= OVER_RELAXATION * gain / max(weights.roughly_squared(step), sys.float_info.min)
    before.add_to(step)
    before.add_to(error)
    weights.scale(step, 0.5)  # square root of each entry's gain
    positions = largest_entries(step, count)
    values = step.view(-1)[positions] / weights.diagonal_at(positions, error.shape[1]).sqrt()
    del step
    return _solved(error, Sparse(positions, values), weights)


def _solved(error: Tensor, start: Sparse, weights: SideWeights) -> Sparse:
    """The best values at the positions of `start`, by conjugate gradients, diagonally preconditioned. Overwrites `error`."""
    places = start.positions
    inverse = 1 / weights.diagonal_at(places, error.shape[1])
    start.add_to(error, -1.0)
    values, residual = start.values, _weighted_at(error, places, weights)
    scaled = inverse * residual
    direction, energy = scaled, (residual * scaled).sum()
    for _ in range(SOLVER_STEPS):
        error.zero_().view(-1)[places] = direction
        image = _weighted_at(error, places, weights)
        length = energy / (direction * image).sum().clamp_min(torch.finfo(torch.float32).tiny)
        values, residual = values + length * direction, residual - length * image
        scaled = inverse * residual
        energy, old = (residual * scaled).sum(), energy
        direction = scaled + (energy / old.clamp_min(torch.finfo(torch.float32).tiny)) * direction
    return Sparse(places, values)


def _weighted_at(error: Float[Tensor, "rows cols"], positions: Tensor, weights: SideWeights) -> Float[Tensor, " count"]:
    """The entries of R E C at increasing positions."""
    found = torch.empty(len(positions), device=error.device)  # a list of small tensors would fragment the heap
    for top, piece in weights.weighted_pieces(error):
        start = top * error.shape[1]
        here = _within(positions, start, piece.numel())
        found[here] = piece.reshape(-1)[positions[here] - start]
    return found
