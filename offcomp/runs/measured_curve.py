"""The error curve of a group, measured by fitting its method at a few ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from offcomp.errors import BudgetTooSmall, InputError
from offcomp.methods.base import dense_shapes
from offcomp.numerics.accounting import stored_size
from offcomp.planning.error_curves import ErrorCurve, error_curve
from offcomp.planning.grouping import group_shape
from offcomp.planning.plan import Group, members
from offcomp.planning.sizes import dtype_of, original_size
from offcomp.runs.compress import compress_group

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from offcomp.models.catalogue import ModelInfo
    from offcomp.models.offloading import StoredMatrices


def measured_curve(
    model: PreTrainedModel | StoredMatrices,
    info: ModelInfo,
    group: Group,
    ratios: Sequence[float],
    *,
    unit: str,
    seed: int = 0,
) -> ErrorCurve:
    """Measure a group's error curve by fitting its method at the given ratios, skipping ratios that cannot be reached.

    The dense matrix is included as a point unless it is larger than the original. Raises InputError if no ratio can be reached.
    """
    sizes, errors, energy = [], [], 0.0
    for ratio in ratios:
        try:
            figures = compress_group(model, info, group.at_ratio(float(ratio), unit), seed=seed).figures
        except BudgetTooSmall:
            continue
        energy = figures.squared_norm
        sizes.append(figures.stored.in_unit(unit))
        errors.append(figures.relative_error**2 * energy)
    if not sizes:
        raise InputError(f"group {group.name!r} cannot reach any of the ratios {', '.join(f'{r:g}' for r in ratios)}")
    specs = members(group, info)
    original = original_size(specs).in_unit(unit)
    dense = stored_size(dense_shapes(*group_shape(specs, group.stack)), dtype_of(group, info)).in_unit(unit)
    return error_curve(group.name, sizes, errors, energy=energy, original=original, dense=dense)
