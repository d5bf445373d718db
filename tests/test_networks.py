"""The written-out gradients are those of automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from offcomp.numerics.networks import ACTIVATIONS, Network, RowLoss, rescale_rows, through_rescaling

CPU = torch.device("cpu")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_autograd(network: Network, inputs: Tensor, weight: Tensor) -> list[Tensor]:
    """Gradients of sum(weight * output) by the inputs and every parameter."""
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


@pytest.mark.parametrize(
    "loss", [RowLoss(1.0, 0.0, 0.0), RowLoss(0.0, 1.0, 0.0), RowLoss(0.0, 0.0, 1.0, 0.7), RowLoss(0.9, 0.1, 0.3)], ids=str
)
def test_loss_and_gradient_equal_autograd(loss: RowLoss) -> None:
    output, target = randn(6, 9).requires_grad_(), randn(6, 9, seed=1)
    difference = output - target
    expected = (
        loss.cosine * (1 - functional.cosine_similarity(output, target, dim=1, eps=1e-6)).mean()
        + loss.rmse * difference.square().mean().sqrt()
        + loss.l1 * (difference.abs() + 1e-10).pow(loss.power).mean()
    )
    (gradient,) = torch.autograd.grad(expected, output)
    value, written = loss.with_gradient(output.detach(), target)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(written, gradient)


def test_the_gradient_through_rescaling_equals_autograd() -> None:
    output, norms, weight = randn(6, 9).requires_grad_(), randn(6, seed=1).abs(), randn(6, 9, seed=2)
    rescaled = rescale_rows(output, norms)
    torch.testing.assert_close(rescaled.norm(dim=1), norms)
    (gradient,) = torch.autograd.grad((weight * rescaled).sum(), output)
    torch.testing.assert_close(through_rescaling(weight, output.detach(), norms), gradient)


def test_an_exact_copy_and_a_zero_row_have_a_finite_gradient() -> None:
    target = randn(4, 5)
    target[1] = 0
    for output in (target.clone(), torch.zeros(4, 5)):
        loss, gradient = RowLoss(1.0, 1.0, 1.0, 0.1).with_gradient(output, target)
        assert loss.isfinite()
        assert gradient.isfinite().all()
