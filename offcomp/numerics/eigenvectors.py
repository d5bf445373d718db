"""Eigendecompositions of symmetric matrices in float64: small ones by torch on one thread, large ones by SciPy (LAPACK).

Up to a side of about 1000, torch on one thread takes about as long as SciPy on two, and SciPy takes several times as long once
another process needs a core, because its threads spin while they wait for each other. For larger matrices, with threads that
wait passively as in a worker (`OMP_WAIT_POLICY=passive`), SciPy takes 0.25 to 0.95 of torch's time, and less memory if only the
leading eigenvectors are needed (`benchmarks/eigenvectors.py`). Matrices on any device but the CPU
are decomposed by torch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from scipy.linalg import eigh
from torch import Tensor

from offcomp.numerics.grams import SMALL_SIDE
from offcomp.numerics.training import one_thread_if


def eigenvectors(
    symmetric: Float64[Tensor, "side side"],
) -> tuple[Float64[Tensor, " side"], Float64[Tensor, "side side"]]:
    """All eigenvalues, in increasing order, and their eigenvectors as columns."""
    if _uses_torch(symmetric):
        with one_thread_if(len(symmetric) <= SMALL_SIDE):
            return torch.linalg.eigh(symmetric)
    values, vectors = eigh(symmetric.numpy(), driver="evd")
    return torch.from_numpy(values), torch.from_numpy(vectors)


def leading_eigenvectors(symmetric: Float64[Tensor, "side side"], rank: int) -> Float64[Tensor, "side rank"]:
    """Eigenvectors for the `rank` largest eigenvalues, in decreasing order of eigenvalue."""
    first = len(symmetric) - rank
    if _uses_torch(symmetric):
        return eigenvectors(symmetric)[1][:, first:].flip(1)
    vectors = eigh(symmetric.numpy(), subset_by_index=(first, len(symmetric) - 1))[1]
    return torch.from_numpy(vectors).flip(1)


def _uses_torch(symmetric: Tensor) -> bool:
    """Whether torch decomposes the matrix, rather than SciPy."""
    return symmetric.device.type != "cpu" or len(symmetric) <= SMALL_SIDE
