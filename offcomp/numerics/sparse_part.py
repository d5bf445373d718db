"""The k entries by which a sparse matrix S takes most of an error E away: minimise tr((E - S)ᵀ R (E - S) C).

Without metrics these are the k largest entries, as they are. With metrics the places follow from a step of each entry towards
its own optimum, all others given (normalised iterative hard thresholding, Blumensath and Davies 2010, scaled by the diagonal);
the values at these places are then solved for by conjugate gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from offcomp.numerics.side_weights import SideWeights

SAMPLE = 1 << 18
SOLVER_STEPS = 6
OVER_RELAXATION = 1.8
"""Of the step that is best for all entries together; the error still falls below 2, and the places settle sooner."""


@dataclass(frozen=True)
class Sparse:
    """Values at increasing positions (row · cols + column) of a matrix that is zero elsewhere."""

    positions: Int64[Tensor, " count"]
    values: Float[Tensor, " count"]

    @staticmethod
    def empty(device: torch.device) -> Sparse:
        """No entries."""
        return Sparse(torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, device=device))

    def add_to(self, matrix: Float[Tensor, "rows cols"], factor: float = 1.0) -> None:
        """Add `factor` times S to a contiguous matrix, in place."""
        matrix.view(-1)[self.positions] += factor * self.values


def largest_entries(matrix: Float[Tensor, "rows cols"], count: int) -> Int64[Tensor, " count"]:
    """Positions of the `count` entries of largest magnitude, increasing.

    A threshold from a sample leaves few candidates, so that neither time nor memory is that of sorting all entries.
    """
    entries = matrix.reshape(-1)
    if count == 0:
        return torch.zeros(0, dtype=torch.int64, device=matrix.device)
    candidates = _candidates(entries, count)
    order = entries[candidates].abs().topk(count, sorted=False).indices
    return candidates[order].sort().values


def _candidates(entries: Tensor, count: int) -> Tensor:
    """Positions of at least `count` entries that include the largest ones."""
    sample = entries[:: max(1, len(entries) // SAMPLE)].abs()
    share = count / len(entries)
    for excess in (1.1, 2.0):
        wanted = int(excess * share * len(sample)) + 64
        if wanted >= len(sample):
            break
        threshold = sample.topk(wanted, sorted=False).values.min()
        found = torch.cat(
            [piece.abs().ge(threshold).nonzero()[:, 0] + SAMPLE * number for number, piece in enumerate(entries.split(SAMPLE))]
        )
        if len(found) >= count:
            return found
    return torch.arange(len(entries), device=entries.device)


def best_entries(error: Float[Tensor, "rows cols"], before: Sparse, count: int, weights: SideWeights) -> Sparse:
    """The sparse matrix of `count` entries for an error; `before` is the one to start from. Changes `error`."""
    if weights.plain:
        positions = largest_entries(error, count)
        return Sparse(positions, error.view(-1)[positions])
    before.add_to(error, -1.0)
    diagonal = weights.diagonal(error)
    gradient = weights.weighted(error).contiguous()
    step = gradient / diagonal  # where each entry alone would go; all together go almost twice as far as is best
    step *= (
        OVER_RELAXATION
        * (gradient * step).sum()
        / (step * weights.weighted(step)).sum().clamp_min(torch.finfo(torch.float32).tiny)
    )
    before.add_to(step)
    positions = largest_entries(step * diagonal.sqrt(), count)
    start = Sparse(positions, step.view(-1)[positions])
    before.add_to(error)
    return _solved(error, start, diagonal.expand_as(error), weights)


def _solved(error: Tensor, start: Sparse, diagonal: Tensor, weights: SideWeights) -> Sparse:
    """The best values at the places of `start`, by conjugate gradients preconditioned with the diagonal. Overwrites `error`."""
    places = start.positions
    inverse = 1 / diagonal[places // error.shape[1], places % error.shape[1]]
    start.add_to(error, -1.0)
    values, residual = start.values, weights.weighted(error).reshape(-1)[places]
    scaled = inverse * residual
    direction, energy = scaled, (residual * scaled).sum()
    for _ in range(SOLVER_STEPS):
        error.zero_().view(-1)[places] = direction
        image = weights.weighted(error).reshape(-1)[places]
        length = energy / (direction * image).sum().clamp_min(torch.finfo(torch.float32).tiny)
        values, residual = values + length * direction, residual - length * image
        scaled = inverse * residual
        energy, old = (residual * scaled).sum(), energy
        direction = scaled + (energy / old.clamp_min(torch.finfo(torch.float32).tiny)) * direction
    return Sparse(places, values)
