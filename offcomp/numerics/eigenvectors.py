"""Eigendecompositions of symmetric matrices in float64, using SciPy (LAPACK) on the CPU and torch on other devices.

With threads that wait passively, as in a worker (`OMP_WAIT_POLICY=passive`), SciPy takes 0.25 to 0.95 of torch's time for sides
from 128 to 3,072, and it can compute the leading eigenvectors only (`benchmarks/eigenvectors.py`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from scipy.linalg import eigh
from torch import Tensor


def eigenvectors(
    symmetric: Float64[Tensor, "side side"],
) -> tuple[Float64[Tensor, " side"], Float64[Tensor, "side side"]]:
    """All eigenvalues, in increasing order, and their eigenvectors as columns."""
    if symmetric.device.type != "cpu":
        return torch.linalg.eigh(symmetric)
    values, vectors = eigh(symmetric.numpy(), driver="evd")
    return torch.from_numpy(values), torch.from_numpy(vectors)


def leading_eigenvectors(symmetric: Float64[Tensor, "side side"], rank: int) -> Float64[Tensor, "side rank"]:
    """Eigenvectors for the `rank` largest eigenvalues, in decreasing order of eigenvalue."""
    first = len(symmetric) - rank
    if symmetric.device.type != "cpu":
        return torch.linalg.eigh(symmetric)[1][:, first:].flip(1)
    vectors = eigh(symmetric.numpy(), subset_by_index=(first, len(symmetric) - 1))[1]
    return torch.from_numpy(vectors).flip(1)
