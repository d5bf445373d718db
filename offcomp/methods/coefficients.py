"""From gradients on text to coefficients of the rows or entries of a stacked matrix, for losses of the autoencoder.

Banaei et al. (arXiv 2302.04045), in the official code `coefficients_utils.py` and, for their norms, `ae_train.py`.

Members that stand transposed have their statistics transposed too. The mean coefficient of the whole matrix is 1, so that the
weights of the losses keep their meaning. The "sum" norm of the official code divides the coefficients of each batch by their
sum instead, so that every batch weighs alike and its coefficients sum to 1. Its Fisher coefficient of a row is the root of the
row's sum, ours the row's mean; it squares the gradient of a batch, ours is the mean over texts of the squared gradient of each.
Its norms "sum_log", "pow" and "sum_pow" are not offered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from offcomp.errors import InputError
from offcomp.methods.base import Hints

if TYPE_CHECKING:
    from torch import Tensor

SOURCES = {
    "none": ("", ""),
    "fisher_rows": ("fisher", "rows"),
    "fisher_entries": ("fisher", "entries"),
    "sensitivity_rows": ("sensitivity", "rows"),
    "sensitivity_entries": ("sensitivity", "entries"),
}
"""Option -> (statistic, what has a coefficient)."""
ROWS_AT_ONCE = 1024


def group_coefficients(hints: Hints, option: str) -> Tensor:
    """Coefficients (rows, 1) or (rows, cols), float32, with mean 1; all ones where the statistic is zero everywhere.

    Raises InputError where the hints lack the statistic.
    """
    import torch

    statistic, of = SOURCES[option]
    top, total = 0, 0.0
    for index, turned in enumerate(hints.turned):
        known = getattr(hints.statistics(index), statistic)
        if known is None:
            raise InputError(f"the hints have no {statistic}, which coefficients {option!r} need; calibrate with text")
        upright = known.T if turned else known
        if index == 0:
            shape = sum(hints.heights), 1 if of == "rows" else upright.shape[1]
            stacked = torch.empty(shape, device=known.device)
        for piece in upright.split(ROWS_AT_ONCE):
            wide = piece.double().mean(1, keepdim=True) if of == "rows" else piece.double()
            total += float(wide.sum())
            stacked[top : top + len(piece)] = wide
            top += len(piece)
        del known, upright, piece  # before the next one is asked for
    hints.release()
    mean = total / stacked.numel()
    for piece in stacked.split(ROWS_AT_ONCE):
        piece.copy_(piece.double() / mean if mean > 0 else torch.ones_like(piece))
    return stacked
