"""A stand-in for a GPU on a machine without one: tensors with real values, on a device whose name is `meta`.

Inside `StandIn()`, moving a tensor to `meta` keeps its values, and operations on it compute them on the CPU. As on a GPU,
tensors of different devices cannot be combined (except for scalars and for indices on the CPU), random numbers cannot be drawn
there with a generator of the CPU, and numpy cannot read a tensor before it is moved to the CPU. This shows that tensors are
where they should be. It says nothing about the speed or the rounding of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")


class Elsewhere(Tensor):
    """A tensor on the stand-in; `values` are on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Elsewhere:
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        made = Tensor._make_wrapper_subclass(cls, values.size(), device=DEVICE, **layout)  # type: ignore[attr-defined]
        made.values = values
        return made

    @property  # type: ignore[override]
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, new: Tensor) -> None:
        assert isinstance(new, Elsewhere), "data on the CPU for a tensor on the GPU"
        Tensor.data.__set__(self, new)  # type: ignore[attr-defined]
        self.values = new.values

    def data_ptr(self) -> int:
        return self.values.data_ptr()

    def item(self) -> Any:
        return self.values.item()

    def __bool__(self) -> bool:
        return bool(self.values)

    def __float__(self) -> float:
        return float(self.values)

    def __int__(self) -> int:
        return int(self.values)

    def tolist(self) -> Any:
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _computed(operation, args, kwargs or {})


class StandIn(TorchDispatchMode):
    """Within this context, the stand-in can be used."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _computed(operation, args, kwargs or {})


def outside_stand_in(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, computed outside the context."""

    def outside(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return function(*args, **kwargs)

    return outside


def _with_values(leaf: Any) -> Any:
    """An empty tensor that `torch.tensor` made on `meta`, where it makes tensors without values; anything else as it is."""
    if isinstance(leaf, Tensor) and leaf.device == DEVICE and not isinstance(leaf, Elsewhere) and not leaf.numel():
        return Elsewhere(torch.empty(leaf.shape, dtype=leaf.dtype))
    return leaf


def _computed(operation: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Carry out an operation on the values of its arguments, after checking where they are."""
    name = operation.__name__.partition(".")[0]
    args, kwargs = tree_map(_with_values, (args, dict(kwargs)))
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    asked = kwargs.get("device")
    is_there = bool(there) if asked is None else torch.device(asked) == DEVICE
    if name in INDEXING:
        is_there = isinstance(args[0], Elsewhere)
        assert is_there or not there, f"{name}: an index on the GPU for a tensor on the CPU"
    elif name == "copy_":
        is_there = isinstance(args[0], Elsewhere)
    elif name != "_to_copy" and there:
        shapes = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.ndim]
        assert not shapes, f"{name}: tensors on the CPU, of shapes {shapes}, and on the GPU"
        assert len(there) == len(tensors) or any(tensor.ndim for tensor in there) or name == "where", (
            f"{name}: different devices"
        )
    if is_there:
        generators = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Generator)]
        assert not generators, f"{name}: a generator of the CPU on the GPU"
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    known = {id(tensor.values): tensor for tensor in there}

    def inside(leaf: Any) -> Any:
        return leaf.values if isinstance(leaf, Elsewhere) else leaf

    def outside(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not is_there:
            return leaf
        return known[id(leaf)] if id(leaf) in known else Elsewhere(leaf)

    return tree_map(outside, operation(*tree_map(inside, args), **tree_map(inside, kwargs)))


def move(model: nn.Module, device: torch.device) -> None:
    """Like `model.to(device)`, which cannot keep the ties of weights that move to the stand-in."""
    moved: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                key = id(parameter)
                if key not in moved:
                    moved[key] = nn.Parameter(parameter.data.to(device), requires_grad=False)
                module._parameters[name] = moved[key]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
