"""Singular values of a random matrix, for comparison with those of a weight matrix: noise cannot be compressed.

The squared singular values of a (rows, cols) matrix with independent entries of equal variance, divided by the larger side and
the variance, follow the Marchenko–Pastur law (1967, "Distribution of eigenvalues for some sets of random matrices",
Mathematics of the USSR-Sbornik 1). With λ = smaller side / larger side, the density between (1 - √λ)² and (1 + √λ)² is

    f(x) = sqrt(((1 + √λ)² - x) (x - (1 - √λ)²)) / (2 π λ x)

The j-th of k singular values is taken at the quantile (j - ½) / k, so the curve is deterministic and no matrix is sampled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEPS = 20_000


def random_spectrum(rows: int, cols: int, norm: float) -> NDArray[np.float64]:
    """Singular values, in decreasing order, of a Gaussian matrix with this shape and Frobenius norm."""
    side = min(rows, cols)
    quantiles = (np.arange(side, 0, -1) - 0.5) / side
    squares = np.interp(quantiles, *_distribution(side / max(rows, cols)))
    return np.asarray(norm * np.sqrt(squares / squares.sum()), dtype=np.float64)


def _distribution(ratio: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of the cumulative distribution function on a grid of points, and the points themselves.

    With x = 1 + λ - 2 √λ cos θ, the density becomes 2 sin² θ / (π x), which is smooth at both ends.
    """
    angles = (np.arange(STEPS) + 0.5) * np.pi / STEPS
    points = 1 + ratio - 2 * np.sqrt(ratio) * np.cos(angles)
    sums = np.cumsum(np.sin(angles) ** 2 / points)
    return sums / sums[-1], points
