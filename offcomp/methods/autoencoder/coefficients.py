"""Loss coefficients for the rows or entries of a stacked matrix, computed from gradients on calibration text.

This follows Banaei et al. (arXiv 2302.04045). The corresponding official code is in `coefficients_utils.py` and, for the norms,
in `ae_train.py`.

The statistics of transposed members are transposed as well. Coefficients are normalised to have a mean of 1 over the whole
matrix, so they do not change the scale of the loss terms.

The "sum" norm of the official code instead normalises the coefficients of each batch to sum to 1, so all batches have equal
weight. For row-wise Fisher coefficients, the official code takes the square root of each row's sum, whereas we take the row's
mean. The official code also squares the gradient of a whole batch, whereas we average the squared gradients of individual
texts. The official norms "sum_log", "pow" and "sum_pow" are not implemented.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offcomp.errors import InputError
from offcomp.methods.autoencoder.method import SOURCES
from offcomp.methods.base import Hints


def group_coefficients(hints: Hints, option: str) -> Tensor:
    """Float32 coefficients of shape (rows, 1) or (rows, cols) with a mean of 1; all ones if the statistic is zero everywhere.

    Raises InputError if the hints lack the statistic.
    """
    statistic, of = SOURCES[option]
    parts = []
    for index, transposed in enumerate(hints.transposed):
        known = getattr(hints.statistics(index), statistic)
        if known is None:
            raise InputError(f"the hints have no {statistic} statistics, which {option!r} needs; provide calibration text")
        upright = known.T if transposed else known
        parts.append(upright.mean(1, keepdim=True, dtype=torch.float64).float() if of == "rows" else upright.float())
    hints.release()
    stacked = torch.cat(parts)
    mean = float(stacked.mean(dtype=torch.float64))
    return stacked / mean if mean > 0 else torch.ones_like(stacked)
