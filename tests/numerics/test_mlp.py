"""The explicit gradients of a network equal those of automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from offcomp.methods.autoencoder.svd_start import start_as_svd, start_linear
from offcomp.numerics.mlp import ACTIVATIONS, Network
from offcomp.numerics.svd import low_rank_factors

CPU = torch.device("cpu")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_autograd(network: Network, inputs: Tensor, weight: Tensor) -> list[Tensor]:
    """Gradients of sum(weight * output) with respect to the inputs and every parameter."""
    leaves = [inputs.clone().requires_grad_(), *(p.detach().clone().requires_grad_() for p in network.parameters)]
    hidden = leaves[0]
    last = {"identity": lambda z: z, "tanh": torch.tanh, "leaky_relu": functional.leaky_relu}[network.last]
    pairs = list(zip(leaves[1::2], leaves[2::2], strict=True))
    for index, (matrix, bias) in enumerate(pairs):
        hidden = functional.linear(hidden, matrix, bias)
        hidden = last(hidden) if index == len(pairs) - 1 else functional.leaky_relu(hidden)
    return list(torch.autograd.grad((weight * hidden).sum(), leaves))


@pytest.mark.parametrize("last", ACTIVATIONS)
@pytest.mark.parametrize("widths", [(5, 7), (5, 8, 3), (4, 9, 6, 5)])
def test_network_gradients_equal_autograd(widths: tuple[int, ...], last: str) -> None:
    network = Network.new(widths, last, torch.Generator().manual_seed(1), CPU)
    inputs, weight = randn(6, widths[0]), randn(6, widths[-1], seed=2)
    to_inputs = network.backward(network.outputs(inputs), weight, to_inputs=True)
    expected = by_autograd(network, inputs, weight)
    torch.testing.assert_close([to_inputs, *(p.grad for p in network.parameters)], expected)
    assert network.backward(network.outputs(inputs), weight, to_inputs=False) is None


def test_a_new_network_is_drawn_like_torch_linear_layers() -> None:
    state = torch.random.get_rng_state()
    torch.manual_seed(7)
    reference = [torch.nn.Linear(5, 8), torch.nn.Linear(8, 3)]
    torch.random.set_rng_state(state)
    network = Network.new((5, 8, 3), "tanh", torch.Generator().manual_seed(7), CPU)
    for (weight, bias), layer in zip(network.layers, reference, strict=True):
        assert torch.equal(weight, layer.weight)
        assert torch.equal(bias, layer.bias)


# Starting as a linear map


@pytest.mark.parametrize("last", ["identity", "leaky_relu"])
@pytest.mark.parametrize("widths", [(9, 5), (9, 8, 5), (9, 12, 7, 5)])
def test_a_network_starts_as_a_linear_map(widths: tuple[int, ...], last: str) -> None:
    network = Network.new(widths, last, torch.Generator().manual_seed(1), CPU)
    outer, inner, shift, inputs = randn(5, 3), randn(3, 9, seed=1), randn(3, seed=2), randn(20, 9, seed=3)
    start_linear(network, outer, inner, shift)
    expected = (inputs @ inner.T + shift) @ outer.T
    expected = functional.leaky_relu(expected) if last == "leaky_relu" else expected
    torch.testing.assert_close(network(inputs), expected, rtol=1e-4, atol=1e-4)
    network.backward(network.outputs(inputs), randn(20, 5, seed=4), to_inputs=False)
    assert network.parameters[-2].grad.abs().amax(0).gt(0).all()  # every hidden unit can be trained to contribute


@pytest.mark.parametrize("kinds", [("linear", "linear"), ("nonlinear", "linear"), ("linear", "nonlinear"), ("nonlinear",) * 2])
def test_an_autoencoder_starts_at_the_svd(kinds: tuple[str, str]) -> None:
    samples = 0.02 * randn(60, 3) @ randn(3, 20, seed=1) + 0.002 * randn(60, 20, seed=2)
    samples[7] = 0
    encoder_hidden, decoder_hidden = ([24, 12] * (kinds[0] == "nonlinear"), [6, 12] * (kinds[1] == "nonlinear"))
    generator = torch.Generator().manual_seed(0)
    encoder = Network.new([20, *encoder_hidden, 3], "leaky_relu" if encoder_hidden else "identity", generator, CPU)
    decoder = Network.new([3, *decoder_hidden, 20], "tanh" if decoder_hidden else "identity", generator, CPU)
    start_as_svd(encoder, decoder, samples, directions=False)
    left, right = low_rank_factors(samples, 3)
    projected = torch.tanh(left @ right) if decoder.last == "tanh" else left @ right
    torch.testing.assert_close(decoder(encoder(samples)), projected, rtol=1e-3, atol=1e-4)
    start_as_svd(encoder, decoder, samples, directions=True)
    left, right = low_rank_factors(functional.normalize(samples, dim=1), 3)
    found = functional.cosine_similarity(decoder(encoder(samples)), samples)[samples.any(1)]
    expected = functional.cosine_similarity(left @ right, samples)[samples.any(1)]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
