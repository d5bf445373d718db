"""Find the sparse matrix S with k entries that best approximates an error E: minimise tr((E - S)ᵀ R (E - S) C).

Without metrics, S consists of the k largest entries of E, unchanged. With metrics, the positions are chosen by a step of
normalised iterative hard thresholding (Blumensath and Davies 2010), scaled by the diagonal: each entry moves towards the
value that would be optimal if all others stayed fixed. The values at these positions are then computed by conjugate gradients.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from offcomp.numerics.chunks import squared_norm
from offcomp.numerics.top_k import largest_entries
from offcomp.numerics.weighted_norm import SideWeights

SOLVER_STEPS = 6
OVER_RELAXATION = 1.8
"""Step size relative to the optimal joint step. Values below 2 decrease the error; values above 1 speed up convergence."""
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Sparse:
    """A sparse matrix, given by values at increasing positions (row · cols + column)."""

    positions: Integer[Tensor, " count"]
    values: Float[Tensor, " count"]

    @staticmethod
    def empty(device: torch.device) -> Sparse:
        """A sparse matrix with no entries."""
        return Sparse(torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, device=device))

    def add_to(self, matrix: Float[Tensor, "rows cols"], factor: float = 1.0) -> Float[Tensor, "rows cols"]:
        """Add `factor` times S to a contiguous matrix, in place."""
        matrix.view(-1)[self.positions] += factor * self.values
        return matrix


def best_entries(error: Float[Tensor, "rows cols"], before: Sparse, count: int, weights: SideWeights) -> Sparse:
    """Find the best sparse matrix with `count` entries for a contiguous `error`, starting from `before`. Overwrites `error`."""
    if weights.plain:
        positions = largest_entries(error, count)
        return Sparse(positions, error.view(-1)[positions])
    before.add_to(error, -1.0)
    step = weights.weighted(error).contiguous()  # half the negative gradient
    weights.scale(step, -0.5)
    gain = squared_norm(step)
    weights.scale(step, -0.5)  # optimal step for each entry on its own; next, scaled for a joint step
    step *= OVER_RELAXATION * gain / max(weights.squared_in_float32(step), sys.float_info.min)
    before.add_to(step)
    before.add_to(error)
    weights.scale(step, 0.5)  # square root of each entry's gain
    positions = largest_entries(step, count)
    values = step.view(-1)[positions] / weights.diagonal_at(positions, error.shape[1]).sqrt()
    return _solved(error, Sparse(positions, values), weights)


def _solved(error: Float[Tensor, "rows cols"], start: Sparse, weights: SideWeights) -> Sparse:
    """Optimise the values at the positions of `start` by preconditioned conjugate gradients. Overwrites `error`."""
    positions = start.positions
    inverse = 1 / weights.diagonal_at(positions, error.shape[1])
    values, residual = start.values, weights.weighted(start.add_to(error, -1.0)).reshape(-1)[positions]
    scaled = inverse * residual
    direction, energy = scaled, (residual * scaled).sum()
    for _ in range(SOLVER_STEPS):
        error.zero_().view(-1)[positions] = direction
        image = weights.weighted(error).reshape(-1)[positions]
        length = energy / (direction * image).sum().clamp_min(TINY)
        values, residual = values + length * direction, residual - length * image
        scaled = inverse * residual
        energy, old = (residual * scaled).sum(), energy
        direction = scaled + (energy / old.clamp_min(TINY)) * direction
    return Sparse(positions, values)
