"""Predict the sizes of a plan before running it: rank or latent width, stored sizes, ratios, and infeasible budgets. No torch.

Predictions use the same shapes and layouts as the methods themselves, so predicted sizes match those of the finished run.
Results that depend only on method, shape and budget are cached, because the app's sliders request them repeatedly and many
modules have the same shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from offcomp.errors import BudgetTooSmall, InputError
from offcomp.methods import make_method
from offcomp.methods.base import Method, choose_size, dense_shapes, rank_budget, smallest_size
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.numerics.accounting import STORED, Budget, Size, budget_for_ratio, largest_size_within, storage_dtype, stored_size
from offcomp.planning.grouping import group_shape
from offcomp.planning.model_sizes import ModelSizes, model_sizes
from offcomp.planning.plan import Group, Plan, members
from offcomp.planning.size_notes import size_notes


@dataclass(frozen=True)
class GroupPrediction:
    """Predicted sizes of one group.

    form                "compressed", "dense" (the uncompressed matrix fits the budget) or "infeasible"
    size                rank or latent width; 0 if dense or infeasible
    break_even_size     the largest rank or latent width that takes up less than the original, measured in the group's unit
    largest_ratio       the largest ratio that can be requested, usually that of rank or latent width 1
    dtype               dtype of the stored weights; never "stored", which is resolved to the dtype of these modules
    original_dtypes     dtypes of the modules in the checkpoint
    bytes_in_own_dtype  what `num_bytes` would be in the checkpoint's own dtype
    seconds             approximate time on two cores
    """

    name: str
    method: str
    rows: int
    cols: int
    unit: str
    dtype: str
    original_dtypes: str
    form: str
    size_name: str
    size: int
    budget: int
    num_parameters: int
    num_bytes: int
    bytes_in_own_dtype: int
    original_parameters: int
    original_bytes: int
    requested_ratio: float
    compression_ratio: float
    break_even_size: int
    largest_ratio: float
    seconds: float
    note: str

    @property
    def relative_error(self) -> None:
        """Not known before the run."""
        return None


@dataclass(frozen=True)
class Prediction:
    """Predicted sizes of a plan."""

    groups: tuple[GroupPrediction, ...]
    model: ModelSizes
    seconds: float

    @property
    def feasible(self) -> bool:
        """Whether every group fits its budget."""
        return all(group.form != "infeasible" for group in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"model": self.model.to_dict(), "feasible": self.feasible, "notes": self.notes}

    @property
    def notes(self) -> list[str]:
        """Caveats about these sizes, one sentence each."""
        return size_notes(self.groups)


def original_size(specs: Iterable[ModuleSpec]) -> Size:
    """Size of modules as stored in the checkpoint, each in its own dtype."""
    return sum((Size(spec.num_parameters, spec.num_bytes) for spec in specs), Size(0, 0))


def dtype_of(group: Group, info: ModelInfo) -> str:
    """The dtype in which a group is stored, with "stored" resolved to the dtype of its modules in the checkpoint."""
    return storage_dtype(group.dtype, (spec.dtype for spec in members(group, info)))


def resolved(plan: Plan, info: ModelInfo) -> Plan:
    """A copy of the plan with each group's dtype resolved to its actual storage dtype."""
    return plan.replace(groups=tuple(group.replace(dtype=dtype_of(group, info)) for group in plan.groups))


def original_dtypes(specs: Sequence[ModuleSpec]) -> str:
    """The dtypes of these modules in the checkpoint, such as "bfloat16" or "bfloat16 and float32"."""
    return " and ".join(sorted({spec.dtype for spec in specs}))


def bytes_in_own_dtype(method: Method, specs: Sequence[ModuleSpec], rows: int, cols: int, size: int) -> int:
    """Bytes that a compressed (rows, cols) stack of modules would take up in the checkpoint's own dtype.

    Comparing the result with the bytes actually stored separates the savings due to the method from those due to a narrower
    dtype. A `size` of 0 means dense.
    """
    return _stored(method, rows, cols, size, storage_dtype(STORED, (spec.dtype for spec in specs))).num_bytes


def _stored(method: Method, rows: int, cols: int, size: int, dtype: str) -> Size:
    """Stored size at this rank or latent width; a `size` of 0 means dense."""
    return stored_size(method.tensor_shapes(rows, cols, size) if size else dense_shapes(rows, cols), dtype)


def size_in_dtype(group: Group, size: int, info: ModelInfo, dtype: str) -> Size:
    """The stored size of a group in this dtype, at this rank, latent width or number of bits. A `size` of 0 means dense."""
    rows, cols = group_shape(members(group, info), group.stack)
    return _stored(make_method(group.method, group.options), rows, cols, size, dtype)


def group_budget(group: Group, info: ModelInfo) -> Budget:
    """The maximum stored size of a group. Raises InputError if its rank is not known yet, or does not suit its matrix."""
    specs, dtype = members(group, info), dtype_of(group, info)
    if group.rank is None and group.energy is not None:
        raise InputError(f"group {group.name!r} requests a share of the energy; determine its rank first (`with_known_ranks`)")
    if group.rank is None:
        return budget_for_ratio(original_size(specs), group.ratio, group.unit, dtype, group.multiple)
    method = make_method(group.method, group.options)
    return rank_budget(method, *group_shape(specs, group.stack), group.rank, unit=group.unit, dtype=dtype)


def predict(plan: Plan, info: ModelInfo) -> Prediction:
    """Predict the sizes of every group and of the model. The plan must be valid (see `plan.validate`)."""
    groups = tuple(predict_group(group, info) for group in plan.groups)
    stored = [
        (Size(group.original_parameters, group.original_bytes), Size(group.num_parameters, group.num_bytes)) for group in groups
    ]
    return Prediction(groups, model_sizes(stored, info), sum(group.seconds for group in groups))


def predict_group(group: Group, info: ModelInfo) -> GroupPrediction:
    """Sizes of one group."""
    method = make_method(group.method, group.options)
    specs = members(group, info)
    rows, cols = group_shape(specs, group.stack)
    original = original_size(specs)
    budget = group_budget(group, info)
    form, size, stored, note = _fitted(method, rows, cols, budget)
    return GroupPrediction(
        name=group.name,
        method=group.method,
        rows=rows,
        cols=cols,
        unit=group.unit,
        dtype=budget.dtype,
        original_dtypes=original_dtypes(specs),
        form=form,
        size_name=method.size_name,
        size=size,
        budget=budget.limit,
        num_parameters=stored.num_parameters,
        num_bytes=stored.num_bytes,
        bytes_in_own_dtype=bytes_in_own_dtype(method, specs, rows, cols, size),
        original_parameters=original.num_parameters,
        original_bytes=original.num_bytes,
        requested_ratio=group.ratio,
        compression_ratio=ratio_of(original, stored, group.unit),
        break_even_size=break_even_size(method, rows, cols, original, budget),
        largest_ratio=ratio_of(original, _smallest(method, rows, cols, budget.dtype, group.unit), group.unit),
        seconds=method.seconds(rows, cols, size),
        note=note,
    )


@lru_cache(maxsize=8192)
def _fitted(method: Method, rows: int, cols: int, budget: Budget) -> tuple[str, int, Size, str]:
    """The (form, size, stored, note) of a method fitted to a budget."""
    try:
        size = choose_size(method, rows, cols, budget)
    except BudgetTooSmall as error:
        return "infeasible", 0, smallest_size(method, rows, cols, budget.dtype), str(error)
    stored = _stored(method, rows, cols, size, budget.dtype)
    if size:
        return "compressed", size, stored, ""
    return "dense", 0, stored, "the dense matrix fits the budget, so it is not compressed"


@lru_cache(maxsize=8192)
def break_even_size(method: Method, rows: int, cols: int, original: Size, budget: Budget) -> int:
    """The largest rank or latent width that takes up less space than the original matrix."""
    below = Budget(original.in_unit(budget.unit) - 1, budget.unit, budget.dtype)
    return largest_size_within(below, lambda size: method.tensor_shapes(rows, cols, size), method.sizes(rows, cols)) or 0


@lru_cache(maxsize=8192)
def _smallest(method: Method, rows: int, cols: int, dtype: str, unit: str) -> Size:
    """The smallest possible stored size, compressed or dense."""
    sizes = smallest_size(method, rows, cols, dtype), _stored(method, rows, cols, 0, dtype)
    return min(sizes, key=lambda size: size.in_unit(unit))


def ratio_of(original: Size, stored: Size, unit: str) -> float:
    """The original size divided by the stored size."""
    return original.in_unit(unit) / stored.in_unit(unit)
