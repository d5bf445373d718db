"""The weight for changed inputs, computed from moments, equals the solution by least squares from the inputs themselves."""

from __future__ import annotations

import pytest
import torch

from offcomp.numerics.changed_inputs import weight_for_changed_inputs


@pytest.mark.parametrize("damping", [1e-9, 0.3, 2.0])
def test_it_solves_the_regularised_least_squares_problem(damping: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    changed = inputs @ torch.randn(6, 6, generator=generator, dtype=torch.float64) + 0.1
    weight = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    moment, cross = changed.T @ changed / 40, inputs.T @ changed / 40
    found = weight_for_changed_inputs(weight, moment, cross, damping)
    penalty = (40 * damping * moment.diagonal().mean()).sqrt() * torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.lstsq(torch.cat([changed, penalty]), torch.cat([inputs @ weight.T, penalty @ weight.T])).solution.T
    torch.testing.assert_close(found, expected)
    assert (found - weight).norm() > 1e-2 * weight.norm()


def test_unchanged_inputs_leave_the_weight_as_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 6, generator=generator, dtype=torch.float64)  # fewer tokens than features
    weight = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    moment = inputs.T @ inputs / 3
    torch.testing.assert_close(weight_for_changed_inputs(weight, moment, moment), weight)
    assert torch.equal(weight_for_changed_inputs(weight, 0 * moment, 0 * moment), weight)
