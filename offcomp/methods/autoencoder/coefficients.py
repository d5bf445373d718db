"""Turn gradients on calibration text into coefficients for the rows or entries of a stacked matrix in the autoencoder's losses.

Banaei et al. (arXiv 2302.04045); in the official code `coefficients_utils.py` and, for the norms, `ae_train.py`.

The statistics of transposed members are transposed too. The mean coefficient over the whole matrix is 1, so that the loss
weights keep their meaning. The "sum" norm of the official code instead divides the coefficients of each batch by their sum, so
that every batch has equal weight and its coefficients sum to 1. Its Fisher coefficient of a row is the square root of the row's
sum, ours the row's mean; it squares the gradient of a batch, we average the squared gradients of the individual texts. Its
norms "sum_log", "pow" and "sum_pow" are not available.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offcomp.errors import InputError
from offcomp.methods.autoencoder.method import SOURCES
from offcomp.methods.base import Hints

ROWS_AT_ONCE = 1024


def group_coefficients(hints: Hints, option: str) -> Tensor:
    """Coefficients (rows, 1) or (rows, cols), float32, with mean 1; all ones if the statistic is zero everywhere.

    Raises InputError if the hints lack the statistic.
    """
    statistic, of = SOURCES[option]
    top, total = 0, 0.0
    for index, transposed in enumerate(hints.transposed):
        known = getattr(hints.statistics(index), statistic)
        if known is None:
            raise InputError(f"the hints have no {statistic}, which coefficients {option!r} need; calibrate with text")
        upright = known.T if transposed else known
        if index == 0:
            shape = sum(hints.heights), 1 if of == "rows" else upright.shape[1]
            stacked = torch.empty(shape, device=known.device)
        for piece in upright.split(ROWS_AT_ONCE):
            wide = piece.double().mean(1, keepdim=True) if of == "rows" else piece.double()
            total += float(wide.sum())
            stacked[top : top + len(piece)] = wide
            top += len(piece)
        del known, upright, piece  # before the next one is requested
    hints.release()
    mean = total / stacked.numel()
    for piece in stacked.split(ROWS_AT_ONCE):
        piece.copy_(piece.double() / mean if mean > 0 else torch.ones_like(piece))
    return stacked
