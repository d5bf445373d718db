"""Turn gradients on calibration text into coefficients for the rows or entries of a stacked matrix in the autoencoder's losses.

Follows Banaei et al. (arXiv 2302.04045); in the official code, see `coefficients_utils.py` and, for the norms, `ae_train.py`.

The statistics of transposed members are transposed too. The mean coefficient over the whole matrix is 1, so that the loss
weights keep their meaning. The "sum" norm of the official code instead divides the coefficients of each batch by their sum, so
that every batch has equal weight and its coefficients sum to 1. Its Fisher coefficient of a row is the square root of the row's
sum, ours is the row's mean; it squares the gradient of a batch, whereas we average the squared gradients of individual texts.
Its norms "sum_log", "pow" and "sum_pow" are not available.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offcomp.errors import InputError
from offcomp.methods.autoencoder.method import SOURCES
from offcomp.methods.base import Hints


def group_coefficients(hints: Hints, option: str) -> Tensor:
    """Coefficients (rows, 1) or (rows, cols), float32, with mean 1; all ones if the statistic is zero everywhere.

    Raises InputError if the hints lack the statistic.
    """
    statistic, of = SOURCES[option]
    parts = []
    for index, transposed in enumerate(hints.transposed):
        known = getattr(hints.statistics(index), statistic)
        if known is None:
            raise InputError(f"the hints have no {statistic}, which {option!r} needs; provide calibration text")
        upright = known.T if transposed else known
        parts.append(upright.mean(1, keepdim=True, dtype=torch.float64).float() if of == "rows" else upright.float())
    hints.release()
    stacked = torch.cat(parts)
    mean = float(stacked.mean(dtype=torch.float64))
    return stacked / mean if mean > 0 else torch.ones_like(stacked)
