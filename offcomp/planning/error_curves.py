"""Error curves: the sizes at which a group can be stored, and the squared error at each size.

Any method with an error curve can be used in an allocation. For SVD, the spectrum gives the error at every rank in closed form.
For other methods, it is measured at a few sizes (`measured_curve`), between which `interpolated_curve` interpolates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import inf

import numpy as np
from numpy.typing import NDArray

from offcomp.errors import InputError
from offcomp.methods import SVD
from offcomp.methods.base import Method, dense_shapes
from offcomp.numerics.accounting import Size, stored_size
from offcomp.planning.spectrum import MatrixSpectrum

MAX_SIZES = 500
"""An interpolated curve has at most this many points."""
BEYOND = 2.0
"""An interpolated curve extends beyond the measured sizes by up to this factor."""


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """The possible stored sizes of a group, and the squared error at each size. Use `error_curve` to create one.

    name        group name
    sizes       stored sizes in the unit of the budget, increasing
    errors      squared error ‖W-Ŵ‖² at each size, decreasing
    energy      ‖W‖²
    original    size of the uncompressed group in the same unit
    is_dense    whether the last point is the dense matrix
    """

    name: str
    sizes: NDArray[np.int64]
    errors: NDArray[np.float64]
    energy: float
    original: int
    is_dense: bool = False

    @cached_property
    def hull(self) -> NDArray[np.int64]:
        """Indices of the points on the lower convex hull, from the smallest size to the largest."""
        hull: list[int] = []
        sizes, errors = self.sizes.tolist(), self.errors.tolist()
        for index, (size, error) in enumerate(zip(sizes, errors, strict=True)):
            while len(hull) > 1:
                last, before = hull[-1], hull[-2]
                fall = (errors[before] - errors[last]) * (size - sizes[last])
                if fall > (errors[last] - error) * (sizes[last] - sizes[before]):
                    break
                hull.pop()
            hull.append(index)
        return np.array(hull)

    @cached_property
    def without_dense(self) -> ErrorCurve:
        """The curve without its dense point; unchanged if it has no other points."""
        if not self.is_dense or len(self.sizes) == 1:
            return self
        return replace(self, sizes=self.sizes[:-1], errors=self.errors[:-1], is_dense=False)

    def largest_within(self, size: float) -> int:
        """Index of the largest stored size that is at most `size`, or -1 if all are larger."""
        return int(np.searchsorted(self.sizes, size, side="right")) - 1


def error_curve(
    name: str, sizes: Sequence[float], errors: Sequence[float], *, energy: float, original: int, dense: float = inf
) -> ErrorCurve:
    """Build a curve from points in any order, dropping points that are larger than another point but no more accurate.

    A point for the dense matrix, of size `dense`, is added unless it is larger than the original. Raises InputError if there
    are no points, or if a value is negative or not finite.
    """
    fits = dense <= original
    if fits:
        sizes, errors = [*sizes, dense], [*errors, 0.0]
    points = np.array([sizes, errors, range(len(sizes))], dtype=np.float64)
    if not points.size or not np.isfinite(points).all() or (points < 0).any():
        raise InputError(f"the error curve of {name!r} needs at least one point; all values must be finite and non-negative")
    order = np.lexsort((points[1], points[0]))
    points = points[:, order]
    best_before = np.minimum.accumulate(np.append(np.inf, points[1][:-1]))
    kept = points[:, points[1] < best_before]
    is_dense = fits and int(kept[2, -1]) == len(sizes) - 1
    return ErrorCurve(name, kept[0].astype(np.int64), kept[1], float(energy), int(original), is_dense)


def interpolated_curve(
    name: str,
    method: Method,
    shape: tuple[int, int],
    points: Sequence[tuple[float, float]],
    *,
    unit: str,
    dtype: str,
    energy: float,
    original: int,
) -> ErrorCurve:
    """The error curve of any method on a matrix of this shape (rows, cols), from measured points (stored size, squared error).

    The logarithm of the error is interpolated linearly in the size, and extrapolated down to half the smallest measured size
    and up to twice the largest. This follows the distortion-rate function of a Gaussian source, E ∝ 2^(-2R) at R bits per entry
    (Cover and Thomas 2006, section 10.3), so it best suits methods that store codes. A single point is not extrapolated. Raises
    InputError; see `error_curve`.
    """
    dense = stored_size(dense_shapes(*shape), dtype).in_unit(unit)
    exact = {size: error for size, error in sorted(points) if error > 0}
    if len(exact) < 2:
        return error_curve(name, *_columns(points), energy=energy, original=original, dense=dense)
    known, logs = np.array([*exact]), np.log([*exact.values()])
    sizes = _some_sizes(method, shape, unit, dtype)
    sizes = sizes[(sizes >= known[0] / BEYOND) & (sizes <= min(known[-1] * BEYOND, dense - 1))]
    slopes = np.diff(logs) / np.diff(known)
    segment = np.clip(np.searchsorted(known, sizes) - 1, 0, len(slopes) - 1)
    errors = np.minimum(energy, np.exp(logs[segment] + slopes[segment] * (sizes - known[segment])))
    sizes, errors = np.append(sizes, known), np.append(errors, np.exp(logs))
    return error_curve(name, sizes.tolist(), errors.tolist(), energy=energy, original=original, dense=dense)


@lru_cache(maxsize=256)
def _some_sizes(method: Method, shape: tuple[int, int], unit: str, dtype: str) -> NDArray[np.int64]:
    """Stored sizes of a method on a matrix of this shape, at most `MAX_SIZES` of them, evenly spaced."""
    possible = method.sizes(*shape)
    indices = np.unique(np.linspace(0, len(possible) - 1, min(MAX_SIZES, len(possible))).round().astype(int))
    sizes = [stored_size(method.tensor_shapes(*shape, possible[i]), dtype).in_unit(unit) for i in indices.tolist()]
    return np.array(sizes, dtype=np.int64)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [size for size, _ in points], [error for _, error in points]


def with_floor(curve: ErrorCurve, kept_fraction: float) -> ErrorCurve:
    """Drop points smaller than this fraction of the original size, but always keep the largest point.

    Raises InputError if the fraction is not between 0 and 1.
    """
    if not 0 <= kept_fraction <= 1:
        raise InputError(f"the floor is a fraction of the original and must be between 0 and 1, not {kept_fraction:g}")
    first = min(int(np.searchsorted(curve.sizes, kept_fraction * curve.original)), len(curve.sizes) - 1)
    return replace(curve, sizes=curve.sizes[first:], errors=curve.errors[first:])


def svd_curve(
    name: str, spectrum: MatrixSpectrum, *, unit: str = "parameters", dtype: str = "float32", original_bytes: int | None = None
) -> ErrorCurve:
    """The error curve of plain SVD, with every rank that needs less storage than the dense matrix, and the dense matrix itself.

    Points larger than the original are omitted. Errors are exact up to rounding in the storage dtype.
    `original_bytes` is the size of the original weights; by default, their size in float32.
    """
    rows, cols = spectrum.shape
    whole = Size(rows * cols, 4 * rows * cols if original_bytes is None else original_bytes)
    original = whole.in_unit(unit)
    low_rank = svd_sizes(spectrum.shape, unit, dtype)
    dense = stored_size(dense_shapes(rows, cols), dtype).in_unit(unit)
    ranks = int(np.searchsorted(low_rank, min(dense, original + 1)))
    energy, *errors = spectrum.squared_errors[: ranks + 1].tolist()
    return error_curve(name, low_rank[:ranks].tolist(), errors, energy=energy, original=original, dense=dense)


@lru_cache(maxsize=256)
def svd_sizes(shape: tuple[int, int], unit: str, dtype: str) -> NDArray[np.int64]:
    """Stored sizes of plain SVD at ranks 1, 2, ..., min(rows, cols)."""
    method = SVD()
    sizes = [stored_size(method.tensor_shapes(*shape, rank), dtype).in_unit(unit) for rank in method.sizes(*shape)]
    return np.array(sizes, dtype=np.int64)
