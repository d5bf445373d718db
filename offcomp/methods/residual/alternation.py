"""Alternating fits of the linear part Z D and the sparse part S of the residual autoencoder.

Each round computes the best low-rank approximation of W - S, then the best k entries of W - Z D (Zhou and Tao, "GoDec", ICML
2011).
"""

from __future__ import annotations

from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from offcomp.methods.residual.sparse import Sparse, best_entries
from offcomp.numerics.progress import Report
from offcomp.numerics.svd import low_rank_factors
from offcomp.numerics.weighted_norm import SideWeights

Parts = tuple[Float[Tensor, "rows rank"], Float[Tensor, "rank cols"], Sparse]
"""Z, D and S."""


def fit_linear(
    target: Float[Tensor, "rows cols"], rank: int, entries: int, rounds: int, *, weights: SideWeights, report: Report
) -> Parts:
    """Alternately fit Z D and S to a contiguous `target` matrix W. Returns the best parts found in `rounds` rounds."""
    sparse, least = Sparse.empty(target.device), inf
    for number in range(rounds if entries else 1):
        report(number / rounds)
        latents, linear = low_rank_factors(sparse.add_to(target.clone(), -1.0), rank, weights.rows, weights.columns)
        sparse = best_entries(torch.addmm(target, latents, linear, alpha=-1), sparse, entries, weights)
        error = weights.squared_in_float32(sparse.add_to(torch.addmm(target, latents, linear, alpha=-1), -1.0))
        if number == 0 or error < least:
            least, best = error, (latents, linear, sparse)
    return best
