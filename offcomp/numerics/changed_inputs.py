"""The weight that makes up for changed inputs, so that outputs stay close to those for the original inputs."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

DAMPING = 0.3
"""Default damping: λ relative to the mean second moment of the inputs."""


def weight_for_changed_inputs(
    weight: Float64[Tensor, "rows cols"],
    moment: Float64[Tensor, "cols cols"],
    cross: Float64[Tensor, "cols cols"],
    damping: float = DAMPING,
) -> Float64[Tensor, "rows cols"]:
    """The minimiser W* of E ‖W x - W* x'‖² + λ ‖W* - W‖² for inputs x that have become x'.

    W* = (W C + λ W) (H + λ I)⁻¹ with H = E x' x'ᵀ (`moment`), C = E x x'ᵀ (`cross`) and λ = damping · mean diagonal of H. If
    λ is zero, W is returned unchanged.
    """
    penalty = damping * float(moment.diagonal().mean())
    if penalty <= 0:
        return weight
    damped = moment.clone()
    damped.diagonal().add_(penalty)
    return torch.linalg.solve(damped, (weight @ cross).add_(weight, alpha=penalty).T).T
