"""Find the weight matrices among the parameters of an instantiated model, which may be on the meta device."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from offcomp.models.catalogue import StoredWeight
from offcomp.models.pieces import Heads

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
OUT_NAMES = ("down", "out", "output", "w2", "wo")
"""Words in the path of a tensor of experts that say that its matrices write to the residual stream."""


def matrix_parameters(model: PreTrainedModel) -> list[StoredWeight]:
    """All tensors of a model that contain weight matrices, in model order, each once.

    These are the weights of linear layers, embeddings and routers, tensors of experts, and other parameters with two or more
    dimensions that are neither convolutions nor biases; of the latter, those that a family knows are matrices.
    """
    found: dict[int, tuple[list[str], StoredWeight]] = {}
    width = getattr(model.config.get_text_config(), "hidden_size", 0)
    for module_path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            path = f"{module_path}.{name}" if module_path else name
            if weight := _stored_weight(module, path, parameter, width):
                found.setdefault(id(parameter), ([], weight))[0].extend(weight.paths)
    return [replace(weight, paths=tuple(paths)) for paths, weight in found.values()]


def _stored_weight(module: nn.Module, path: str, parameter: nn.Parameter, width: int) -> StoredWeight | None:
    """Describe a parameter that contains weight matrices; None for any other. `width` is that of the residual stream."""
    name = path.rpartition(".")[2]
    if parameter.ndim < 2 or "bias" in name or isinstance(module, CONVOLUTIONS):
        return None
    shape, is_bare = tuple(parameter.shape), name != "weight"
    paths = (path if is_bare else path.rpartition(".")[0],)
    if _is_expert_tensor(module, parameter):
        transposed = _has_transposed_experts(module, path, shape, width)
        alternating = getattr(module, "is_concatenated", True) is False
        return StoredWeight(paths, shape, transposed, alternating, experts=shape[0], is_bare=is_bare)
    if parameter.ndim == 2 and min(shape) == 1 and not isinstance(module, nn.Linear | nn.Embedding | Conv1D):
        return None
    return StoredWeight(
        paths, shape, isinstance(module, Conv1D), is_bare=is_bare, is_embedding=isinstance(module, nn.Embedding)
    )


def _is_expert_tensor(module: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether a parameter stacks one matrix for each expert along its first dimension."""
    counts = {value for name, value in vars(module).items() if "expert" in name and isinstance(value, int)}
    return parameter.ndim == 3 and parameter.shape[0] in counts


def _has_transposed_experts(module: nn.Module, path: str, shape: tuple[int, ...], width: int) -> bool:
    """Whether experts are stored as (in_features, out_features): as the module says, or if only that fits the width."""
    if isinstance(stated := getattr(module, "is_transposed", None), bool):
        return stated
    writes = any(word in OUT_NAMES for word in re.split(r"[._]", path))
    return shape[1] != shape[2] and width in shape[1:] and (shape[2] == width) == writes


def heads_of(model: PreTrainedModel) -> Heads:
    """The attention heads according to the config."""
    config = model.config.get_text_config()
    number, size = (getattr(config, name, None) for name in ("num_attention_heads", "head_dim"))
    return Heads(number if isinstance(number, int) else 0, size if isinstance(size, int) else 0)
