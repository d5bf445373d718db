"""Hold a model's layers in the dtype of its files, and convert each to float32 only while it computes.

The layers of a transformer contain most of its weights. In a half-precision checkpoint they take half the memory of float32
and, as transformers maps the files of a model instead of reading them, none of their own until they are modified: the system
can drop mapped pages at any time. The conversion is exact, so a held model computes what a float32 model does, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

HALVES = (torch.float16, torch.bfloat16)
CONVERTED = "_offcomp_converted"
Converted = dict[tuple[int, torch.Size, torch.device], Tensor]
"""The float32 weights of the layer that computes, by number in the layer, shape and device."""


def holding(architecture: type[PreTrainedModel], dtypes: dict[str, torch.dtype]) -> type[PreTrainedModel]:
    """A subclass of a model class; `from_pretrained` loads the weights of its layers in these dtypes, by path, if shorter."""

    @wraps(architecture.__init__)
    def init(self: PreTrainedModel, *arguments: Any, **options: Any) -> None:
        architecture.__init__(self, *arguments, **options)
        paths: dict[int, list[str]] = {}
        for path, parameter in self.named_parameters(remove_duplicate=False):
            paths.setdefault(id(parameter), []).append(path)
        for layer in _layers(self):
            for parameter in layer.parameters():
                dtype = dtypes.get(paths[id(parameter)][0])
                if dtype in HALVES:
                    parameter.data = parameter.data.to(dtype)

    held = type(architecture.__name__, (architecture,), {"__init__": init, "__module__": architecture.__module__})
    return cast(type[PreTrainedModel], held)


def hold(network: PreTrainedModel) -> None:
    """Have each layer with weights in half precision convert them to float32 whenever it computes.

    The layers share the memory of the converted weights: fresh memory would take the system longer than the conversion.
    """
    converted: Converted = {}
    for layer in _layers(network):
        if any(parameter.dtype in HALVES for parameter in layer.parameters()):
            layer.__dict__[CONVERTED] = converted
            layer.__dict__["forward"] = MethodType(_forward, layer)  # hooks would miss models that call it by this name


def is_held(network: PreTrainedModel) -> bool:
    """Whether any layer of a network converts its weights when it computes."""
    return any(CONVERTED in layer.__dict__ for layer in _layers(network))


def in_float32(network: PreTrainedModel) -> None:
    """Convert a held model to float32 for good, for code that uses the weights of layers outside their forward passes."""
    for layer in _layers(network):
        if layer.__dict__.pop(CONVERTED, None) is not None:
            del layer.__dict__["forward"]
        for parameter in layer.parameters():
            parameter.data = parameter.data.float()


def _layers(network: PreTrainedModel) -> Iterator[nn.Module]:
    """The outermost repeated modules of a network whose weights are not used outside of them."""
    uses: dict[int, int] = {}
    for _, parameter in network.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    for layer in _entries(network):
        own = [parameter for _, parameter in layer.named_parameters(remove_duplicate=False)]
        if all(uses[id(parameter)] == sum(parameter is other for other in own) for parameter in own):
            yield layer


def _entries(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, nn.ModuleList):
        for entry in module:
            yield from _entries(entry) if isinstance(entry, (nn.ModuleList, nn.ModuleDict)) else [entry]
    else:
        for child in module.children():
            yield from _entries(child)


def _forward(layer: nn.Module, *arguments: Any, **options: Any) -> Any:
    """The forward pass of a layer, with its weights in float32."""
    stored: list[tuple[nn.Parameter, Tensor]] = []
    _convert(layer, stored, layer.__dict__[CONVERTED])
    try:
        return type(layer).forward(layer, *arguments, **options)
    finally:
        _restore(stored)


def _convert(layer: nn.Module, stored: list[tuple[nn.Parameter, Tensor]], converted: Converted) -> None:
    for number, parameter in enumerate(layer.parameters()):
        if parameter.dtype in HALVES:
            values = parameter.data
            key = (number, values.shape, values.device)
            if key not in converted:
                converted[key] = torch.empty_like(values, dtype=torch.float32)
            stored.append((parameter, values))
            parameter.data = converted[key].copy_(values)


def _restore(stored: list[tuple[nn.Parameter, Tensor]]) -> None:
    while stored:
        parameter, values = stored.pop()
        parameter.data = values
