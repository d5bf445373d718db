"""Small least-squares problems with constraints, solved with NumPy alone.

SciPy solves them as well, but importing `scipy.optimize` takes 40 MB and half a second, which is too much in the app's process
for problems with fifty unknowns. Tests compare the results with those of SciPy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
TOLERANCE = 1e-10
MAX_SWEEPS = 20_000


def non_negative_least_squares(matrix: Vector, target: Vector) -> Vector:
    """The x >= 0 that minimises ‖matrix x - target‖ by coordinate descent on the normal equations (Franc et al., 2005).

    matrix      (rows, unknowns), of full column rank
    target      (rows,)
    """
    gram, product = matrix.T @ matrix, matrix.T @ target
    x = np.zeros(len(product))
    gradient = -product
    for _ in range(MAX_SWEEPS):
        largest = 0.0
        for index in range(len(x)):
            value = max(0.0, x[index] - gradient[index] / gram[index, index])
            change = value - x[index]
            if change:
                gradient += change * gram[index]
                x[index] = value
                largest = max(largest, abs(change) * gram[index, index] ** 0.5)
        if largest <= TOLERANCE * max(float(np.linalg.norm(target)), 1e-30):
            break
    return x


def isotonic_regression(values: Vector) -> Vector:
    """The non-decreasing sequence closest to `values` in squared error, by pooling adjacent violators (Ayer et al., 1955)."""
    means: list[float] = []
    counts: list[int] = []
    for value in values.tolist():
        means.append(value)
        counts.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            count = counts[-2] + counts[-1]
            means[-2:] = [(means[-2] * counts[-2] + means[-1] * counts[-1]) / count]
            counts[-2:] = [count]
    return np.repeat(means, counts)
