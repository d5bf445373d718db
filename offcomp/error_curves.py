"""Error curves: what a group can store, and its squared error then. By them any method takes part in an allocation.

That of SVD is known in closed form from the spectrum, at every rank. Those of other methods are measured at a few ratios.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from offcomp.errors import BudgetTooSmall, InputError
from offcomp.grouping import group_shape
from offcomp.methods import SVD
from offcomp.methods.base import dense_shapes
from offcomp.numerics.accounting import Size, stored_size
from offcomp.plan import Group, members
from offcomp.prediction import dtype_of, original_size
from offcomp.spectra import MatrixSpectrum

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from offcomp.models.catalogue import ModelInfo


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """What a group stores and the squared error it then has; build it with `error_curve`.

    name        of the group
    sizes       stored sizes in the unit of the budget, increasing
    errors      squared error ‖W-Ŵ‖² at each, decreasing
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
        """The curve without its dense point, where there is one beside others."""
        if not self.is_dense or len(self.sizes) == 1:
            return self
        return replace(self, sizes=self.sizes[:-1], errors=self.errors[:-1], is_dense=False)

    def largest_within(self, size: float) -> int:
        """Index of the largest point of at most this size; -1 where there is none."""
        return int(np.searchsorted(self.sizes, size, side="right")) - 1


def error_curve(
    name: str, sizes: Sequence[int], errors: Sequence[float], *, energy: float, original: int, is_dense: bool = False
) -> ErrorCurve:
    """A curve from points in any order; those that store more than another without a smaller error are left out.

    `is_dense` says that the last point given is the dense matrix. Raises InputError where there is no point, or a value is
    negative or not finite.
    """
    points = np.array([sizes, errors, range(len(sizes))], dtype=np.float64)
    if not points.size or not np.isfinite(points).all() or (points < 0).any():
        raise InputError(f"the error curve of {name!r} needs one or more points with sizes and errors of 0 or more")
    order = np.lexsort((points[1], points[0]))
    points = points[:, order]
    best_before = np.minimum.accumulate(np.append(np.inf, points[1][:-1]))
    kept = points[:, points[1] < best_before]
    last_is_dense = is_dense and int(kept[2, -1]) == len(sizes) - 1
    return ErrorCurve(name, kept[0].astype(np.int64), kept[1], float(energy), int(original), last_is_dense)


def with_floor(curve: ErrorCurve, kept_fraction: float) -> ErrorCurve:
    """The curve without the points that store less than this fraction of the original, its largest point excepted.

    Raises InputError where the fraction is not between 0 and 1.
    """
    if not 0 <= kept_fraction <= 1:
        raise InputError(
            f"a floor of {kept_fraction:g} must lie between 0 and 1: it is the fraction of the original that is kept"
        )
    first = min(int(np.searchsorted(curve.sizes, kept_fraction * curve.original)), len(curve.sizes) - 1)
    return replace(curve, sizes=curve.sizes[first:], errors=curve.errors[first:])


def svd_curve(
    name: str,
    spectrum: MatrixSpectrum,
    *,
    unit: str = "parameters",
    dtype: str = "float32",
    original_bytes: int | None = None,
) -> ErrorCurve:
    """Every rank of plain SVD that stores less than the dense matrix, and the dense matrix, where it is not above the original.

    Exact but for the rounding of the storage dtype. `original_bytes` is what the original weights take, float32 if not given.
    """
    rows, cols = spectrum.shape
    whole = Size(rows * cols, 4 * rows * cols if original_bytes is None else original_bytes)
    original = whole.in_unit(unit)
    low_rank = svd_sizes(spectrum.shape, unit, dtype)
    dense = stored_size(dense_shapes(rows, cols), dtype).in_unit(unit)
    ranks = int(np.searchsorted(low_rank, min(dense, original + 1)))
    sizes, errors = low_rank[:ranks].tolist(), spectrum.squared_errors[1 : ranks + 1].tolist()
    fits = dense <= original
    return error_curve(
        name,
        [*sizes, dense] if fits else sizes,
        [*errors, 0.0] if fits else errors,
        energy=float(spectrum.squared_errors[0]),
        original=original,
        is_dense=fits,
    )


@lru_cache(maxsize=256)
def svd_sizes(shape: tuple[int, int], unit: str, dtype: str) -> NDArray[np.int64]:
    """What plain SVD stores at ranks 1, 2, .. min(rows, cols)."""
    method = SVD()
    sizes = [stored_size(method.tensor_shapes(*shape, rank), dtype).in_unit(unit) for rank in method.sizes(*shape)]
    return np.array(sizes, dtype=np.int64)


def measured_curve(
    model: PreTrainedModel, info: ModelInfo, group: Group, ratios: Sequence[float], *, unit: str, seed: int = 0
) -> ErrorCurve:
    """A group's curve by fitting its method at some ratios; those out of its reach are left out.

    The dense matrix is a point where it is not above the original. Raises InputError where no ratio can be reached.
    """
    from offcomp.compress import compress_group

    sizes, errors, energy = [], [], 0.0
    for ratio in ratios:
        try:
            figures = compress_group(model, info, replace(group, ratio=float(ratio), unit=unit), seed=seed).figures
        except BudgetTooSmall:
            continue
        energy = figures["squared_norm"]
        sizes.append(figures[f"num_{unit}"])
        errors.append(figures["relative_error"] ** 2 * energy)
    if not sizes:
        raise InputError(f"group {group.name!r} cannot reach any of the ratios {', '.join(f'{r:g}' for r in ratios)}")
    specs = members(group, info)
    original = original_size(specs).in_unit(unit)
    dense = stored_size(dense_shapes(*group_shape(specs, group.stack)), dtype_of(group, info)).in_unit(unit)
    if dense <= original:
        sizes, errors = [*sizes, dense], [*errors, 0.0]
    return error_curve(group.name, sizes, errors, energy=energy, original=original, is_dense=dense <= original)
