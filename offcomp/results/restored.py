"""Converts measurements made in float32 to the sizes that they would have in half precision.

Rounding stored tensors to half precision hardly changes the error, but it does change the size in bytes. The bundled sweeps
store float32, so without this conversion, nothing could be estimated for plans that keep the half precision of their
checkpoint.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from offcomp.models.catalogue import ModelInfo
from offcomp.numerics.accounting import Size
from offcomp.planning.model_sizes import SizeChange
from offcomp.planning.plan import members
from offcomp.planning.sizes import original_size, size_in_dtype
from offcomp.results.known_errors import Measured
from offcomp.results.runs import model_of, plan_as_stored, result_of

FULL, HALVES = "float32", ("float16", "bfloat16")


@dataclass(frozen=True)
class _Question:
    """A measurement to convert; equal to others with the same `key`."""

    key: tuple[str, str, str]
    m: Measured = field(compare=False)
    dtype: str = field(compare=False)
    info: ModelInfo = field(compare=False)


def in_dtype(measured: Sequence[Measured], dtype: str, info: ModelInfo) -> list[Measured]:
    """The measurements, with those in float32 converted if `dtype` is a half-precision type. Conversions are cached."""
    if dtype not in HALVES:
        return list(measured)
    return [
        _converted(_Question((m.run.id, dtype, info.fingerprint), m, dtype, info))
        if m.settings is not None and m.settings[3] == FULL
        else m
        for m in measured
    ]


@lru_cache(maxsize=4096)
def _converted(question: _Question) -> Measured:
    m, dtype, info = question.m, question.dtype, question.info
    plan = plan_as_stored(m.run).replace(groups=tuple(g.replace(dtype=dtype) for g in plan_as_stored(m.run).groups))
    sizes = {group.name: group.size for group in result_of(m.run).groups}
    before = sum((original_size(members(group, info)) for group in plan.groups), Size(0, 0))
    after = sum((size_in_dtype(group, sizes[group.name], info, dtype) for group in plan.groups), Size(0, 0))
    model = model_of(m.run)
    chosen = model.sizes.model_copy(update={"chosen": SizeChange.between(before, after)})
    groups = tuple(group.model_copy(update={"dtype": dtype}) for group in result_of(m.run).groups)
    result = result_of(m.run).model_copy(update={"model": model.model_copy(update={"sizes": chosen}), "groups": groups})
    return Measured(replace(m.run, plan=plan, result=result), m.relative_error)
