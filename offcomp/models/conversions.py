"""How transformers builds parameters from the tensors in a model's files: most by a new name, some by rearranging values.

Experts, for example, may be stored one by one and stacked when the model is loaded, or a fused weight may be divided. Instead
of undoing each operation, `Conversion.numbers` performs it on the numbers of the stored values, which shows where each ends up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from offcomp.errors import ModelError
from offcomp.models.checkpoint import LIBRARY_FAULTS
from offcomp.models.safetensors_files import StoredTensor

STACKING = ((MergeModulelist, 0), (Concatenate, 1))
"""Operations, with their dimension, that treat the experts of a stack (experts, rows, cols) alike."""
Sources = list[tuple[str, StoredTensor]]
"""The (key, tensor) pairs that make up one parameter."""


@dataclass
class Conversion:
    """An operation that turns stored tensors into one or more parameters.

    path       of the first parameter
    sources    the stored tensors, in the order in which transformers reads them
    patterns   for each of them, the pattern that its key matches
    """

    network: PreTrainedModel
    converter: WeightConverter
    path: str
    sources: Sources = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)

    def parameters(self) -> dict[str, Tensor]:
        """All parameters that the operation produces, without values, by path; only the first if it needs values to tell."""
        try:
            return self._convert(lambda tensor, _: torch.empty(tensor.shape, device="meta"))
        except LIBRARY_FAULTS:
            return {self.path: self.network.get_parameter(self.path)}

    def numbers(self) -> dict[str, Tensor]:
        """For each parameter, by path, the numbers of its values among those of all sources, counted one source after another.

        Raises ModelError if the operation changes values instead of only moving them.
        """
        total = sum(tensor.num_parameters for _, tensor in self.sources)
        dtype = torch.int32 if total < 2**31 else torch.int64

        def numbered(tensor: StoredTensor, start: int) -> Tensor:
            return torch.arange(start, start + tensor.num_parameters, dtype=dtype).view(tensor.shape)

        found = self._convert(numbered)
        if any(numbers.dtype != dtype or numbers.min() < 0 or numbers.max() >= total for numbers in found.values()):
            raise ModelError(
                f"transformers computes '{self.path}' from the values in the model's files; export without --dense."
            )
        return found

    def build(self, read: Callable[[StoredTensor], Tensor]) -> dict[str, Tensor]:
        """All parameters that the operation produces, by path; `read` returns the values of a stored tensor."""
        return self._convert(lambda tensor, _: read(tensor))

    def of_expert(self, number: int, experts: int) -> Conversion | None:
        """The operation for one of several experts, which gives stacks of one; None if experts have no tensors of their own."""
        chosen = {
            pattern: [index for index, other in enumerate(self.patterns) if other == pattern] for pattern in self.patterns
        }
        stacks = all((type(step), getattr(step, "dim", None)) in STACKING for step in self.converter.operations)
        if not stacks or any(len(indices) != experts for indices in chosen.values()):
            return None
        indices = sorted(indices[number] for indices in chosen.values())
        return replace(
            self, sources=[self.sources[index] for index in indices], patterns=[self.patterns[index] for index in indices]
        )

    def starts(self) -> list[int]:
        """The number of the first value of each source."""
        return list(accumulate((tensor.num_parameters for _, tensor in self.sources), initial=0))[:-1]

    def _convert(self, make: Callable[[StoredTensor, int], Tensor]) -> dict[str, Tensor]:
        converter = deepcopy(self.converter)
        for (key, tensor), pattern, start in zip(self.sources, self.patterns, self.starts(), strict=True):
            converter.add_tensor(self.path, key, pattern, make(tensor, start))
        found: Mapping[str, Any] = converter.convert(self.path, model=self.network, config=self.network.config)
        return {path: value[0] if isinstance(value, list) else value for path, value in found.items()}


def conversions_of(
    network: PreTrainedModel, tensors: Mapping[str, StoredTensor]
) -> tuple[dict[str, Sources], list[Conversion]]:
    """The stored tensor of each parameter that only gets a new name, by path, and the operations that build all others."""
    transforms = get_model_conversion_mapping(network)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    state = network.state_dict()
    renamed: dict[str, Sources] = {}
    converted: dict[str, Conversion] = {}
    for key in sorted(tensors, key=dot_natural_key):
        path, pattern = rename_source_key(key, renamings, converters, network.base_model_prefix, state)
        if pattern is None:
            renamed.setdefault(path, []).append((key, tensors[key]))
            continue
        conversion = converted.setdefault(path, Conversion(network, by_pattern[pattern], path))
        conversion.sources.append((key, tensors[key]))
        conversion.patterns.append(pattern)
    return renamed, list(converted.values())


def sources_in(renamed: Mapping[str, Sources], conversions: list[Conversion]) -> Iterator[tuple[str, Sources]]:
    """Each parameter's path and the stored tensors from which it is built."""
    yield from renamed.items()
    for conversion in conversions:
        yield from ((path, conversion.sources) for path in conversion.parameters())
