"""The row losses equal their formula, and their explicit gradients equal those of automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from offcomp.methods.autoencoder.losses import RowLoss, rescale_rows, through_rescaling

LOSSES = [
    RowLoss(1.0, 0.0, 0.0),
    RowLoss(0.0, 1.0, 0.0),
    RowLoss(0.0, 0.0, 1.0, 0.7),
    RowLoss(0.9, 0.1, 0.3),
    RowLoss(0.9, 0.1, 0.0),
]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reference(loss: RowLoss, output: Tensor, target: Tensor, coefficients: Tensor) -> Tensor:
    """The loss according to the formula in the docstring of the module under test."""
    difference = output - target
    cosine = functional.cosine_similarity(output, target, dim=1, eps=1e-6)
    return (
        loss.cosine * (coefficients.mean(1) * (1 - cosine)).mean()
        + loss.rmse * (coefficients * difference.square()).mean().sqrt()
        + loss.l1 * (coefficients * (difference.abs() + 1e-10).pow(loss.power)).mean()
    )


def some_coefficients(width: int) -> Tensor | None:
    return randn(6, width, seed=3).abs() if width else None


@pytest.mark.parametrize("width", [0, 1, 9], ids=["alike", "rows", "entries"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_loss_and_gradient_equal_autograd(loss: RowLoss, width: int) -> None:
    output, target, coefficients = randn(6, 9).requires_grad_(), randn(6, 9, seed=1), some_coefficients(width)
    expected = reference(loss, output, target, torch.ones(6, 1) if coefficients is None else coefficients)
    (gradient,) = torch.autograd.grad(expected, output)
    value, written = loss.with_gradient(output.detach(), target, coefficients)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(written, gradient)


@pytest.mark.parametrize("width", [0, 1, 9], ids=["alike", "rows", "entries"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_loss_and_gradient_of_rescaled_rows_equal_autograd(loss: RowLoss, width: int) -> None:
    output, target, coefficients = randn(6, 9).requires_grad_(), 0.1 * randn(6, 9, seed=1), some_coefficients(width)
    norms = target.norm(dim=1, keepdim=True)
    rescaled = output / output.norm(dim=1, keepdim=True) * norms
    expected = reference(loss, rescaled, target, torch.ones(6, 1) if coefficients is None else coefficients)
    (gradient,) = torch.autograd.grad(expected, output)
    value, written = loss.of_rescaled(output.detach(), target, norms, coefficients)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(written, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("width", [1, 9], ids=["rows", "entries"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_coefficients_of_one_are_no_coefficients(loss: RowLoss, width: int) -> None:
    output, target, ones = randn(6, 9), randn(6, 9, seed=1), torch.ones(6, width)
    torch.testing.assert_close(loss.with_gradient(output, target, ones), loss.with_gradient(output, target))
    norms = target.norm(dim=1, keepdim=True)
    torch.testing.assert_close(
        loss.of_rescaled(output, target, norms, ones), loss.of_rescaled(output, target, norms), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("width", [0, 1, 9], ids=["alike", "rows", "entries"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_stacked_batches_have_the_losses_and_gradients_of_each_alone(loss: RowLoss, width: int) -> None:
    output, target = randn(3, 6, 9), 0.1 * randn(3, 6, 9, seed=1)
    coefficients = [some_coefficients(width)] * 3 if width else None
    stacked = torch.stack(coefficients) if coefficients else None
    norms = target.norm(dim=-1, keepdim=True)
    for together, alone in (
        (
            loss.with_gradient(output, target, stacked),
            [loss.with_gradient(output[i], target[i], coefficients and coefficients[i]) for i in range(3)],
        ),
        (
            loss.of_rescaled(output, target, norms, stacked),
            [loss.of_rescaled(output[i], target[i], norms[i], coefficients and coefficients[i]) for i in range(3)],
        ),
    ):
        torch.testing.assert_close(together[0], torch.stack([value for value, _ in alone]))
        torch.testing.assert_close(together[1], torch.stack([gradient for _, gradient in alone]))


def test_the_gradient_through_rescaling_equals_autograd() -> None:
    output, norms, weight = randn(6, 9).requires_grad_(), randn(6, 1, seed=1).abs(), randn(6, 9, seed=2)
    rescaled = rescale_rows(output, norms)
    torch.testing.assert_close(rescaled.norm(dim=1, keepdim=True), norms)
    (gradient,) = torch.autograd.grad((weight * rescaled).sum(), output)
    torch.testing.assert_close(through_rescaling(weight, output.detach(), norms), gradient)


@pytest.mark.parametrize("loss", [RowLoss(1.0, 1.0, 1.0, 0.1), RowLoss(1.0, 1.0, 0.0)], ids=["with l1", "without"])
def test_an_exact_copy_and_a_zero_row_have_a_finite_gradient(loss: RowLoss) -> None:
    target = randn(4, 5)
    target[1] = 0
    norms = target.norm(dim=1, keepdim=True)
    for output in (target.clone(), torch.zeros(4, 5)):
        for value, gradient in (loss.with_gradient(output, target), loss.of_rescaled(output, target, norms)):
            assert value.isfinite()
            assert gradient.isfinite().all()


def test_a_zero_row_counts_as_a_cosine_of_zero_either_way() -> None:
    target, output = randn(4, 5), randn(4, 5, seed=1)
    target[1] = 0
    norms, loss = target.norm(dim=1, keepdim=True), RowLoss(1.0, 0.5, 0.0)
    direct, _ = loss.with_gradient(rescale_rows(output, norms), target)
    value, gradient = loss.of_rescaled(output, target, norms)
    torch.testing.assert_close(value, direct)
    assert not gradient[1].any()
