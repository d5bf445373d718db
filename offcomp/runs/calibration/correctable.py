"""The modules of a model whose biases and gains can be corrected, and how; see `corrections`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from offcomp.models.catalogue import ModuleSpec
from offcomp.models.weights import MATRIX_MODULES
from offcomp.runs.calibration.experts import is_expert
from offcomp.runs.calibration.forward import is_embedding, modules_of

DEAD_GAIN = 1e-4
"""Channels with at most this gain are left alone: their outputs are nearly constant, so ratios of spreads are meaningless."""
PRIOR_TOKENS = 32
"""Corrections are shrunk as if this many additional tokens had needed no correction, so that a short text does no harm."""
WIDEST_RATIO = 2.0
"""Gains change by at most this factor."""


@dataclass
class Moments:
    """Sums over tokens, in float64: weights, their squares and, per channel, weighted outputs and weighted squared outputs."""

    weight: float = 0.0
    squared_weight: float = 0.0
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0

    def add(self, outputs: Tensor, weights: Tensor) -> None:
        """Add outputs (tokens, channels) with weights (tokens,)."""
        outputs = outputs.double()
        self.weight += float(weights.sum())
        self.squared_weight += float(weights.square().sum())
        self.first = self.first + weights @ outputs
        self.second = self.second + weights @ outputs.square()

    @property
    def mean(self) -> Tensor:
        """Mean (channels,)."""
        return torch.as_tensor(self.first) / self.weight

    def spread(self, centre: Tensor | float) -> Tensor:
        """Mean square minus the square of `centre` (channels,): the variance if `centre` is the mean."""
        return (torch.as_tensor(self.second) / self.weight - centre**2).clamp_min(0)

    @property
    def num_tokens(self) -> float:
        """Number of equally weighted tokens whose mean would be equally precise: (Σ w)² / Σ w²."""
        return self.weight**2 / self.squared_weight if self.squared_weight else 0.0


@dataclass
class Target:
    """A module to be corrected.

    path          path of the module in the model
    rows          (channels,) bool: the channels to be corrected; for a fused weight, only those of its compressed parts
    is_norm       whether the module is a normalisation
    rescaled      whether its gain is corrected as well
    num_uses      how often the module is used in a forward pass
    weights       for each use, the weights of its tokens, as determined in the original model
    original      moments of the outputs in the original model
    """

    path: str
    module: nn.Module
    rows: Tensor
    is_norm: bool
    rescaled: bool = False
    num_uses: int = 0
    weights: list[Tensor] = field(default_factory=list)
    original: Moments = field(default_factory=Moments)

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias, if the module has one."""
        return bias_of(self.module)

    @property
    def vectors(self) -> dict[str, Tensor]:
        """The parameters to be corrected, by their full path."""
        vectors = {} if self.bias is None else {"bias": self.bias}
        vectors |= {"weight": self.module.get_parameter("weight")} if self.rescaled else {}
        return {f"{self.path}.{name}": vector.detach() for name, vector in vectors.items()}

    def correct(self, seen: Moments) -> None:
        """Change the vectors so that the outputs, whose moments are now `seen`, match those of the original model."""
        trust = seen.num_tokens / (seen.num_tokens + PRIOR_TOKENS)
        shift = trust * (self.original.mean - seen.mean)
        if self.rescaled:
            gain, ratio = self.module.get_parameter("weight"), self._ratio(seen) ** trust
            ratio = torch.where(self.rows, ratio.clamp(1 / WIDEST_RATIO, WIDEST_RATIO), 1.0)
            gain.data.mul_(ratio)
            if self.bias is not None:
                shift = shift + (1 - ratio) * (seen.mean - self.bias.double())
        if self.bias is not None:
            self.bias.data.add_(torch.where(self.rows, shift, 0.0))

    def _ratio(self, seen: Moments) -> Tensor:
        """Ratio (channels,) of the original standard deviation to that in `seen`; without a bias, of root mean squares."""
        exact, found = (moments.spread(0.0 if self.bias is None else moments.mean) for moments in (self.original, seen))
        return torch.where((exact > 0) & (found > 0), exact / found, 1.0).sqrt()


def targets_in(model: PreTrainedModel, specs: Iterable[ModuleSpec]) -> list[Target]:
    """The normalisations, and the modules other than embeddings that have a bias and use one of these weights.

    Biases of experts are left as they are, since different tokens may reach an expert in the compressed model.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    found: dict[str, Target] = {}
    for spec in specs:
        for module in () if is_expert(spec) else modules_of(model, spec):
            bias = bias_of(module)
            if bias is not None and not is_embedding(module):
                path = paths[id(module)]
                target = found.setdefault(path, Target(path, module, torch.zeros_like(bias, dtype=torch.bool), is_norm=False))
                target.rows[spec.outputs] = True
    for path, module in model.named_modules():
        if is_norm(module):
            found[path] = Target(path, module, module.get_parameter("weight").abs() > DEAD_GAIN, is_norm=True)
    return list(found.values())


def is_norm(module: nn.Module) -> bool:
    """Whether the outputs of a module are proportional to its `weight` per channel, apart from its `bias`."""
    weight = module._parameters.get("weight")
    if weight is None or weight.ndim != 1 or isinstance(module, MATRIX_MODULES) or any(True for _ in module.children()):
        return False
    inputs = torch.linspace(-1, 1, weight.numel(), dtype=weight.dtype, device=weight.device).expand(2, 3, -1)
    with torch.no_grad(), suppress(TypeError, ValueError, RuntimeError):
        outputs = functional_call(module, {"weight": torch.zeros_like(weight)}, (inputs,))
        bias = bias_of(module)
        expected = torch.zeros_like(inputs) if bias is None else bias.expand_as(inputs)
        return isinstance(outputs, Tensor) and torch.equal(outputs, expected)
    return False


def bias_of(module: nn.Module) -> nn.Parameter | None:
    """The bias of a module, if it has one."""
    return module._parameters.get("bias")
