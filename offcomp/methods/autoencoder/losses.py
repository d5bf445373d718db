"""Losses over the rows of a matrix, with hand-written gradients that a test checks against autograd.

Each row or entry may have a coefficient c. With e = output - target, the loss of a batch of rows is

    cosine · mean(c̄ (1 - cos)) + rmse · √mean(c e²) + l1 · mean(c |e|^power)

Here, c̄ is the mean coefficient of a row, since the cosine term cannot weight individual entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

TINY = 1e-12
COSINE_EPSILON = 1e-6  # as in the official loss
BATCH = (-2, -1)
"""The dimensions of a batch of rows."""


def rescale_rows(
    output: Float[Tensor, "*stack rows cols"], norms: Float[Tensor, "*stack rows 1"]
) -> Float[Tensor, "*stack rows cols"]:
    """Rescale each row to the given norm."""
    return output * (norms / output.norm(dim=-1, keepdim=True).clamp_min(TINY))


def through_rescaling(
    gradient: Float[Tensor, "*stack rows cols"],
    output: Float[Tensor, "*stack rows cols"],
    norms: Float[Tensor, "*stack rows 1"],
) -> Float[Tensor, "*stack rows cols"]:
    """Backpropagate through `rescale_rows`: only the gradient component orthogonal to each row remains."""
    lengths = output.norm(dim=-1, keepdim=True).clamp_min(TINY)
    unit = output / lengths
    along = (unit * gradient).sum(-1, keepdim=True)
    return (gradient - unit * along) * (norms / lengths)


@dataclass(frozen=True)
class RowLoss:
    """Weights of the three loss terms, and the exponent of the power-L1 term.

    The loss is computed for a batch of rows or, if batches are stacked, for each batch separately.
    """

    cosine: float
    rmse: float
    l1: float
    power: float = 1.0

    def with_gradient(
        self,
        output: Float[Tensor, "*stack rows cols"],
        target: Float[Tensor, "*stack rows cols"],
        coefficients: Float[Tensor, "*stack rows _"] | None = None,
    ) -> tuple[Float[Tensor, "*stack"], Float[Tensor, "*stack rows cols"]]:
        """The loss of a batch and its gradient with respect to the output; coefficients are (rows, 1) or (rows, cols)."""
        rows, cols = output.shape[-2:]
        lengths = output.norm(dim=-1, keepdim=True)
        clamped = lengths.clamp_min(COSINE_EPSILON)
        scale = 1 / (clamped * target.norm(dim=-1, keepdim=True).clamp_min(COSINE_EPSILON))
        cosine = (output * target).sum(-1, keepdim=True) * scale
        share = self.cosine / rows if coefficients is None else coefficients.mean(-1, keepdim=True) * (self.cosine / rows)
        loss = (share * (1 - cosine)).sum(BATCH, keepdim=True)
        along = cosine * (lengths > COSINE_EPSILON) / clamped.square()
        gradient = (along * output - scale * target) * share
        difference = output - target
        if self.rmse:
            weighted = difference if coefficients is None else difference * coefficients
            rmse = ((weighted * difference).mean(BATCH, keepdim=True) + TINY**2).sqrt()
            loss = loss + self.rmse * rmse
            gradient += weighted * (self.rmse / (rows * cols * rmse))
        if self.l1:
            size = difference.abs() + 1e-10
            slope = (self.l1 * self.power / (rows * cols)) * size.pow(self.power - 1) * difference.sign()
            powered = size.pow(self.power)
            loss = loss + self.l1 * (powered if coefficients is None else coefficients * powered).mean(BATCH, keepdim=True)
            gradient += slope if coefficients is None else coefficients * slope
        return loss[..., 0, 0], gradient

    def of_rescaled(
        self,
        output: Float[Tensor, "*stack rows cols"],
        target: Float[Tensor, "*stack rows cols"],
        norms: Float[Tensor, "*stack rows 1"],
        coefficients: Float[Tensor, "*stack rows _"] | None = None,
    ) -> tuple[Float[Tensor, "*stack"], Float[Tensor, "*stack rows cols"]]:
        """The loss of `rescale_rows(output, norms)` and its gradient with respect to `output`, given the target's norms."""
        if not self.l1 and (coefficients is None or coefficients.shape[-1] == 1):
            return self._of_directions(output, target, norms, coefficients)
        loss, gradient = self.with_gradient(rescale_rows(output, norms), target, coefficients)
        return loss, through_rescaling(gradient, output, norms)

    def _of_directions(
        self, output: Tensor, target: Tensor, norms: Tensor, coefficients: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Like `of_rescaled` for losses that have no L1 term, but with fewer operations.

        If u and t are the output and target rows scaled to unit length, then 1 - cos = |u - t|² / 2. The squared error of a row
        w is |w|² |u - t|², so both terms depend on a single number per row. Rows whose norm is too small to define a
        direction get a cosine of 0.
        """
        rows, cols = output.shape[-2:]
        short = norms <= COSINE_EPSILON
        lengths = torch.linalg.vector_norm(output, dim=-1, keepdim=True).clamp_min_(TINY)
        unit = output / lengths
        difference = torch.addcdiv(unit, target, norms.clamp_min(COSINE_EPSILON), value=-1)
        apart = torch.linalg.vector_norm(difference, dim=-1, keepdim=True).square_().mul_(0.5)  # (rows, 1)
        weights = torch.full_like(norms, 1 / rows) if coefficients is None else coefficients / rows
        energies = weights * norms * norms * (2 / cols)  # (rows, 1)
        rmse = ((energies * apart).sum(-2, keepdim=True) + TINY**2).sqrt()
        loss = self.cosine * (weights * apart.masked_fill(short, 1.0)).sum(-2, keepdim=True) + self.rmse * rmse
        factor = (self.cosine * weights.masked_fill(short, 0.0) + energies * (0.5 * self.rmse / rmse)) / lengths
        return loss[..., 0, 0], difference.addcmul_(apart, unit, value=-1).mul_(factor)
