"""Find the stored tensors from which transformers builds each parameter, and build a single parameter from them.

When loading a model, transformers may rename tensors, and merge or divide them (Mixtral's experts, for example).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from offcomp.models.safetensors_files import StoredTensor

Sources = list[tuple[str, StoredTensor]]
"""The (key, tensor) pairs that make up one parameter."""


class Recipe(NamedTuple):
    """How a parameter is built: from one tensor as it is or, if there is a `converter`, from the converted `sources`.

    patterns    the pattern of the converter that matches each source
    """

    sources: Sources
    patterns: list[str]
    converter: WeightConverter | None

    def build(self, path: str, network: PreTrainedModel, read: Callable[[StoredTensor], Tensor]) -> Tensor | None:
        """The parameter with this path; None if its tensors do not yield it. `read` returns the values of a stored tensor.

        `network` is the model, which may be on the meta device.
        """
        if self.converter is None:
            return read(self.sources[0][1]) if len(self.sources) == 1 else None
        converter = deepcopy(self.converter)
        for (key, tensor), pattern in zip(self.sources, self.patterns, strict=True):
            converter.add_tensor(path, key, pattern, read(tensor))
        built = converter.convert(path, model=network, config=network.config).get(path)
        return built[0] if isinstance(built, list) else built


def recipes_of(network: PreTrainedModel, tensors: Mapping[str, StoredTensor]) -> dict[str, Recipe]:
    """Map each parameter path to how transformers builds the parameter from the stored tensors, in the order it uses."""
    transforms = get_model_conversion_mapping(network)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    converter_of = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    state = network.state_dict()
    recipes: dict[str, Recipe] = {}
    for key in sorted(tensors, key=dot_natural_key):
        path, pattern = rename_source_key(key, renamings, converters, network.base_model_prefix, state)
        converter = converter_of[pattern] if pattern else None
        recipe = recipes.setdefault(path, Recipe([], [], converter))
        recipe.sources.append((key, tensors[key]))
        recipe.patterns.append(pattern or "")
        first, *others = converter.target_patterns if converter else [""]
        recipes |= {path.replace(first, other): recipe for other in others}  # one tensor yields several parameters
    return recipes
