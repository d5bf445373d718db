"""Cache the statistics gathered for modules, within a budget in bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import accumulate
from typing import Any

from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec

FLOAT32_BYTES = 4
Gather = Callable[[list[ModuleSpec]], Callable[[ModuleSpec], Any]]
"""Gathers a statistic for some modules. Returns a function to look it up, which is called once for each module."""


class StatisticsCache:
    """Statistics by module and name, in `values`. They are gathered within `model_loaded`, which keeps the model in memory."""

    def __init__(self, model_loaded: Callable[[], AbstractContextManager[None]]) -> None:
        self.values: dict[tuple[ModuleSpec, str], Any] = {}
        self._model_loaded = model_loaded

    def clear(self) -> None:
        """Drop all statistics."""
        self.values.clear()

    def keep(self, is_valid: Callable[[ModuleSpec, str], bool]) -> None:
        """Drop all statistics except those for which `is_valid` returns True."""
        self.values = {key: value for key, value in self.values.items() if is_valid(*key)}

    def first(self, specs: Sequence[ModuleSpec], name: str, cache_bytes: int, gather: Gather) -> Any:
        """A statistic of the first module. If it is not cached, gather it now, with as many others as fit in the cache."""
        if (specs[0], name) not in self.values:
            missing = [spec for spec in dict.fromkeys(specs) if (spec, name) not in self.values]
            sizes = accumulate(_num_bytes(spec, name) for spec in missing)
            wanted = [spec for spec, size in zip(missing, sizes, strict=True) if spec == specs[0] or size <= cache_bytes]
            needed = sum(_num_bytes(spec, name) for spec in wanted)
            if sum(_num_bytes(*key) for key in self.values) + needed > cache_bytes:
                self.values.clear()
            with self._model_loaded():
                means = gather(wanted)
            found = {(specs[0], name): means(specs[0])}
            for spec in wanted[1:]:
                with suppress(InputError):  # the error is raised later if the statistic is requested
                    found[spec, name] = means(spec)
            if needed > cache_bytes:
                return found[specs[0], name]
            self.values |= found
        return self.values[specs[0], name]


def _num_bytes(spec: ModuleSpec, name: str) -> int:
    """Approximate size of a statistic in bytes."""
    sizes = {"inputs": 8 * spec.cols**2, "cross": 16 * spec.cols**2, "magnitude": 8 * spec.cols, "row_moment": 8 * spec.rows**2}
    return sizes.get(name, FLOAT32_BYTES * spec.num_parameters)
