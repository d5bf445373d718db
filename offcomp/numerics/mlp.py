"""Small fully connected networks that are applied to the rows of a matrix, with a hand-written backward pass.

For batches of only 16 rows, the overhead of autograd is as large as the cost of the arithmetic. Computing gradients explicitly
and writing them to preallocated buffers reduces the time per step by about a third. Networks of the same widths can also be
stacked, so that one batched product computes a layer of all of them. `tests/numerics/test_mlp.py` checks the gradients against
autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

SLOPE = 0.01  # negative slope of LeakyReLU, PyTorch's default
ACTIVATIONS = ("identity", "leaky_relu", "tanh")


@dataclass(frozen=True)
class Network:
    """Linear layers with LeakyReLU between them; `last`, one of ACTIVATIONS, is applied after the final layer.

    layers      weight (out, in) and bias (out,) of each layer; for a stack of networks, (networks, out, in) and (networks, out)

    A stack maps inputs (networks, rows, width) to outputs (networks, rows, width_out); each network processes its own inputs.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    last: str

    @staticmethod
    def new(widths: Sequence[int], last: str, generator: Generator, device: torch.device) -> Network:
        """Create random layers between consecutive widths, initialised like `torch.nn.Linear`: uniform in ±1/√fan_in."""
        layers = []
        for fan_in, fan_out in pairwise(widths):
            bound = 1 / sqrt(fan_in)
            weight = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator).to(device)
            bias = torch.empty(fan_out).uniform_(-bound, bound, generator=generator).to(device)
            weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
            layers.append((weight, bias))
        return Network(tuple(layers), last)

    def stacked(self, count: int) -> Network:
        """A stack of `count` copies of this network."""
        layers = []
        for layer in self.layers:
            weight, bias = (tensor.repeat(count, *(1,) * tensor.ndim) for tensor in layer)
            weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
            layers.append((weight, bias))
        return Network(tuple(layers), self.last)

    def __getitem__(self, index: int) -> Network:
        """One network of a stack, as views."""
        return Network(tuple((weight[index], bias[index]) for weight, bias in self.layers), self.last)

    @property
    def parameters(self) -> list[Tensor]:
        """Weights and biases, layer by layer."""
        return [tensor for layer in self.layers for tensor in layer]

    def outputs(self, inputs: Float[Tensor, "*networks rows width"]) -> list[Tensor]:
        """The inputs, followed by the output of each layer after its activation."""
        outputs = [inputs]
        for index, (weight, bias) in enumerate(self.layers):
            hidden = _affine(outputs[-1], weight, bias)
            outputs.append(_activate(hidden, self._activation(index)))
        return outputs

    def __call__(self, inputs: Float[Tensor, "*networks rows width"]) -> Float[Tensor, "*networks rows width_out"]:
        """The output of the final layer."""
        return self.outputs(inputs)[-1]

    def backward(self, outputs: Sequence[Tensor], gradient: Tensor, *, to_inputs: bool) -> Tensor | None:
        """Write the gradients of all parameters, given the gradient at the output.

        If `to_inputs` is true, also compute and return the gradient at the inputs.
        """
        for index in reversed(range(len(self.layers))):
            weight, bias = self.layers[index]
            gradient = _through_activation(gradient, outputs[index + 1], self._activation(index))
            product = torch.mm if weight.ndim == 2 else torch.bmm
            product(gradient.mT, outputs[index], out=weight.grad)
            torch.sum(gradient, -2, out=bias.grad)
            if index == 0 and not to_inputs:
                return None
            gradient = product(gradient, weight)
        return gradient

    def _activation(self, index: int) -> str:
        return self.last if index == len(self.layers) - 1 else "leaky_relu"


def _affine(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Inputs (rows, in) -> (rows, out), or the same for a stack."""
    if weight.ndim == 2:
        return functional.linear(inputs, weight, bias)
    return torch.baddbmm(bias[:, None], inputs, weight.mT)


def _activate(hidden: Tensor, activation: str) -> Tensor:
    if activation == "identity":
        return hidden
    return hidden.tanh_() if activation == "tanh" else functional.leaky_relu_(hidden, SLOPE)


def _through_activation(gradient: Tensor, output: Tensor, activation: str) -> Tensor:
    """Backpropagate through an activation, given its output and the gradient with respect to its output."""
    if activation == "identity":
        return gradient
    if activation == "tanh":
        return torch.ops.aten.tanh_backward(gradient, output)
    return torch.ops.aten.leaky_relu_backward(gradient, output, SLOPE, True)
