"""Find the weight matrices among the parameters of an instantiated model, which may be on the meta device."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from offcomp.models.pieces import Sizes, StoredWeight

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
OUT_NAMES = ("down", "out", "output", "w2", "wo")
"""Words in the path of a tensor of experts that say that its matrices write to the residual stream."""


def matrix_parameters(model: PreTrainedModel) -> list[StoredWeight]:
    """All tensors of a model that contain weight matrices, in model order, each once.

    These are the weights of linear layers, embeddings and routers, tensors of experts, and other parameters with two or more
    dimensions that are neither convolutions nor biases; of the latter, those that a family knows are matrices.
    """
    found: dict[int, list[StoredWeight]] = {}
    width = getattr(model.config.get_text_config(), "hidden_size", 0)
    for module_path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            path = f"{module_path}.{name}" if module_path else name
            if weight := _stored_weight(module, path, parameter, width):
                found.setdefault(id(parameter), []).append(weight)
    return [
        replace(uses[0], paths=tuple(use.paths[0] for use in uses), is_embedding=any(use.is_embedding for use in uses))
        for uses in found.values()
    ]


def _stored_weight(module: nn.Module, path: str, parameter: nn.Parameter, width: int) -> StoredWeight | None:
    """Describe a parameter that contains weight matrices; None for any other. `width` is that of the residual stream."""
    name = path.rpartition(".")[2]
    if parameter.ndim < 2 or "bias" in name or isinstance(module, CONVOLUTIONS):
        return None
    shape, is_bare = tuple(parameter.shape), name != "weight"
    paths = (path if is_bare else path.rpartition(".")[0],)
    if stacked := _stacked_experts(module, shape, is_bare):
        transposed = _has_transposed_experts(module, path, stacked, width)
        alternating = getattr(module, "is_concatenated", True) is False
        return StoredWeight(paths, stacked, transposed, alternating, experts=stacked[0], is_bare=is_bare)
    if sum(side > 1 for side in shape) < 2 and not isinstance(module, nn.Linear | nn.Embedding | Conv1D):
        return None
    return StoredWeight(
        paths, shape, isinstance(module, Conv1D), is_bare=is_bare, is_embedding=isinstance(module, nn.Embedding)
    )


def _stacked_experts(module: nn.Module, shape: tuple[int, ...], is_bare: bool) -> tuple[int, ...]:
    """The shape (experts, ., .) of a parameter with one matrix for each expert of a module; empty for any other.

    The parameter has this shape itself, or has the matrices one above the other.
    """
    numbers = {name: value for name, value in vars(module).items() if isinstance(value, int) and value > 0}
    counts = {value for name, value in numbers.items() if "expert" in name}
    if len(shape) == 3 and shape[0] in counts:
        return shape
    heights = set(numbers.values()) - counts
    fitting = (count for count in counts if shape[0] % count == 0 and shape[0] // count in heights)
    count = next(fitting, 0) if len(shape) == 2 and is_bare else 0
    return (count, shape[0] // count, shape[1]) if count > 1 else ()


def _has_transposed_experts(module: nn.Module, path: str, shape: tuple[int, ...], width: int) -> bool:
    """Whether experts are stored as (in_features, out_features): as the module says, or if only that fits the width."""
    if isinstance(stated := getattr(module, "is_transposed", None), bool):
        return stated
    writes = any(word in OUT_NAMES for word in re.split(r"[._]", path))
    return shape[1] != shape[2] and width in shape[1:] and (shape[2] == width) == writes


def sizes_of(model: PreTrainedModel) -> Sizes:
    """The sizes according to the config and to those nested in it."""
    text = model.config.get_text_config()
    configs = [model.config, text, *(getattr(model.config, name, None) for name in model.config.sub_configs)]
    widths = {getattr(config, "hidden_size", None) for config in configs}
    heads, head_size, vocabulary = (_number(text, name) for name in ("num_attention_heads", "head_dim", "vocab_size"))
    return Sizes(heads, head_size, vocabulary, tuple(width for width in widths if isinstance(width, int)))


def _number(config: PreTrainedConfig, name: str) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else 0
