"""Plans that request a rank, or a share of the energy, instead of a compression ratio.

A group with a rank is compressed at exactly that rank (latent width, number of terms). A group with a share of the energy is
compressed at the smallest rank at which the truncated SVD keeps that share of the squared singular values,

    Σ_{j ≤ rank} σ_j² ≥ energy · Σ_j σ_j²

so its rank is only known once the singular values are. With a `multiple`, ranks chosen from a ratio are rounded down to a
multiple of it, and ranks chosen from a share of the energy are rounded up. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from offcomp.errors import InputError
from offcomp.methods import make_method
from offcomp.methods.base import dense_shapes
from offcomp.models.catalogue import ModelInfo
from offcomp.numerics.accounting import stored_size
from offcomp.planning.grouping import group_shape
from offcomp.planning.plan import Group, Plan, members
from offcomp.planning.sizes import dtype_of, original_size, ratio_of
from offcomp.planning.spectra import compute, find, missing
from offcomp.planning.spectrum import Spectrum, energy_rank

Singular = Callable[[Group], Spectrum | None]
"""Returns the singular values of a group, or None if they are not known."""


def with_ranks(plan: Plan, info: ModelInfo, singular_values: Singular) -> Plan:
    """Fill in the rank of each group that requests a share of the energy, and the ratio of each group that has a rank.

    Raises InputError if singular values are needed but not known, or if a rank does not suit its matrix.
    """
    return plan.replace(groups=tuple(_with_rank(group, info, singular_values) for group in plan.groups))


def with_known_ranks(plan: Plan, info: ModelInfo, home: Path) -> Plan:
    """Apply `with_ranks` with singular values that are bundled with offcomp or cached in the home folder."""
    return with_ranks(plan, info, lambda group: find(info, members(group, info), group.stack, home))


def with_computed_ranks(plan: Plan, info: ModelInfo, home: Path) -> Plan:
    """Apply `with_ranks` with known singular values; missing ones are computed (which requires torch) and cached."""
    unknown = plan.replace(groups=tuple(group for group in plan.groups if group.energy is not None and group.rank is None))
    if missing(unknown, info, home):
        compute(unknown, home)
    return with_known_ranks(plan, info, home)


def _with_rank(group: Group, info: ModelInfo, singular_values: Singular) -> Group:
    if group.energy is not None and group.rank is None:
        values = singular_values(group)
        if values is None:
            raise InputError(
                f"group {group.name!r} requests a share of the energy, but its singular values are not known; compute them "
                "with 'offcomp spectra', or request a rank"
            )
        group = group.replace(rank=energy_rank(values, group.energy, group.multiple))
    if group.rank is None:
        return group
    method = make_method(group.method, group.options)
    specs = members(group, info)
    rows, cols = group_shape(specs, group.stack)
    shapes = method.tensor_shapes(rows, cols, group.rank)
    original, stored = original_size(specs), stored_size(shapes, dtype_of(group, info))
    dense = stored_size(dense_shapes(rows, cols), dtype_of(group, info))
    smaller = min(stored, dense, key=lambda size: size.in_unit(group.unit))
    return group.replace(ratio=max(1.0, float(f"{ratio_of(original, smaller, group.unit):.6g}")))
