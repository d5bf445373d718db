"""Rounding with error feedback: the weights of later inputs compensate for the rounding errors of earlier inputs.

Let V = Wᵀ (inputs, outputs), and let H (inputs, inputs) be the second moment of the inputs. The rows of V are rounded one by
one, and after each step the remaining rows are moved to their least-squares optimum. This greedily minimises tr((V-V̂)ᵀ H
(V-V̂)). If H⁻¹ = UᵀU with an upper triangular U, the correction after step b is

    V_rest -= (U_bb⁻¹ U_b,rest)ᵀ (V_b - V̂_b)

See Frantar et al., GPTQ, ICLR 2023, algorithm 1, and van Baalen et al., GPTVQ, 2024, for several inputs per step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float64, Integer
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri
from torch import Tensor

from offcomp.errors import InputError

PANEL = 96
"""Number of inputs processed between updates of all remaining weights; a multiple of all common step sizes."""

Rounding = Callable[[Integer[Tensor, " step"], Tensor, Tensor], Tensor]
"""(inputs, their weights (step, outputs), U_bb (step, step)) -> the rounded weights (step, outputs)."""


def damped_order_and_factor(
    moment: Float64[Tensor, "inputs inputs"], damping: float, step: int
) -> tuple[Integer[Tensor, " inputs"], Float64[Tensor, "inputs inputs"]]:
    """The order in which to round the inputs, and the factor U for this order.

    Blocks of `step` adjacent inputs are sorted by total second moment, largest first. `damping` times the mean of the diagonal
    is added to the diagonal, so that U always exists. A zero moment is treated as the identity. U is computed on the CPU.
    """
    strength = moment.diagonal().reshape(-1, step).sum(1)
    steps = strength.argsort(descending=True, stable=True)
    order = (steps[:, None] * step + torch.arange(step, device=steps.device)).reshape(-1)
    return order.cpu(), damped_factor(moment, order, damping)


def damped_factor(
    moment: Float64[Tensor, "inputs inputs"], order: Integer[Tensor, " inputs"], damping: float
) -> Float64[Tensor, "inputs inputs"]:
    """The factor U, on the CPU, for the inputs in this order; the moment is damped as in `damped_order_and_factor`."""
    level = moment.diagonal().mean()
    moment = moment[order][:, order]
    if level > 0:
        moment.div_(level).diagonal().add_(damping)
    else:
        moment.zero_().diagonal().add_(1 + damping)
    return _inverse_factor(moment.cpu().numpy())


def _inverse_factor(matrix: NDArray[np.float64]) -> Float64[Tensor, "inputs inputs"]:
    """The upper triangular U such that matrix⁻¹ = UᵀU.

    The matrix must be positive definite and is overwritten. Its transpose is passed to LAPACK to avoid a copy.
    """
    factor, failed = dpotrf(matrix.T, lower=False, overwrite_a=True)
    inverse, missed = dpotri(factor, lower=False, overwrite_c=True)
    upper, lost = dpotrf(inverse, lower=False, clean=True, overwrite_a=True)
    if failed or missed or lost:
        raise InputError("the second moment of the inputs cannot be factorised; increase the damping or provide more text")
    return torch.from_numpy(upper)


def round_with_feedback(
    weights: Float[Tensor, "inputs outputs"],
    order: Integer[Tensor, " inputs"],
    factor: Float[Tensor, "inputs inputs"],
    step: int,
    rounding: Rounding,
) -> Float[Tensor, "inputs outputs"]:
    """Round the weights with error feedback. `rounding` is called once per step, in the given order."""
    rest = weights[order]  # overwritten with the rounded weights, from top to bottom
    panel = max(step, PANEL // step * step)
    for first in range(0, len(rest), panel):
        last = min(first + panel, len(rest))
        upper = factor[first:last, first:].to(rest)
        errors = torch.empty_like(rest[first:last])
        for start in range(first, last, step):
            stop = min(start + step, last)
            here, later = slice(start - first, stop - first), slice(stop - first, last - first)
            corner = upper[here, here]
            rounded = rounding(order[start:stop], rest[start:stop], corner)
            difference = rest[start:stop] - rounded
            rest[start:stop] = rounded
            error = torch.linalg.solve_triangular(corner.T, difference, upper=False)  # U_bbᵀ⁻¹ (V_b - V̂_b)
            errors[here] = error
            rest[stop:last] -= upper[here, later].T @ error
        rest[last:] -= upper[:, last - first :].T @ errors
    result = torch.empty_like(rest)
    result[order] = rest
    return result
