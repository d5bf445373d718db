"""Constrained least squares in numpy agrees with SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import isotonic_regression as scipy_isotonic
from scipy.optimize import nnls

from offcomp.numerics.least_squares import isotonic_regression, non_negative_least_squares


@pytest.mark.parametrize("seed", range(6))
def test_non_negative_least_squares_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = np.vstack([rng.normal(size=(60, 40)) * rng.lognormal(size=40), 0.1 * np.eye(40)])
    target = matrix @ np.maximum(rng.normal(size=40), 0.0) + 0.3 * rng.normal(size=100)
    found, (expected, norm) = non_negative_least_squares(matrix, target), nnls(matrix, target)
    assert (found >= 0).all()
    assert np.linalg.norm(matrix @ found - target) == pytest.approx(norm, rel=1e-9)
    np.testing.assert_allclose(found, expected, atol=1e-6 * expected.max())


@pytest.mark.parametrize("seed", range(6))
def test_isotonic_regression_is_that_of_scipy(seed: int) -> None:
    values = np.cumsum(np.random.default_rng(seed).normal(0.1, 1.0, 200))
    np.testing.assert_allclose(isotonic_regression(values), scipy_isotonic(values).x, atol=1e-12)
    assert isotonic_regression(np.array([1.0, 2.0, 3.0])).tolist() == [1.0, 2.0, 3.0]
