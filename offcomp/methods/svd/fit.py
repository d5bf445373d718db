"""The truncated SVD under metrics of rows and columns, and its decoders."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.methods.svd.group_metrics import group_metrics
from offcomp.methods.svd.method import SVD
from offcomp.numerics.accounting import Budget
from offcomp.numerics.metrics import Metric
from offcomp.numerics.progress import Report
from offcomp.numerics.storage import pack
from offcomp.numerics.svd import low_rank_factors

Metrics = tuple[Metric | None, Metric | None]
"""Metrics of rows and columns; None stands for the identity."""


def fit(
    method: SVD, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Truncate to this rank. The seed is not used, since the result is unique."""
    metrics: Metrics = (None, None)
    if hints is not None and method.calibrated:
        metrics = group_metrics(hints, method.sources, method.shrinkage, matrix.device)
    report(0.3)
    return truncated(method, metrics, matrix, size, budget.dtype)


def truncated(method: SVD, metrics: Metrics, matrix: Tensor, rank: int, dtype: str) -> CompressedMatrix:
    """Store the best matrix of this rank under these metrics."""
    target, extra, decode = matrix.float(), {}, low_rank
    if method.preset == "direction":
        norms = torch.linalg.vector_norm(target, dim=1, dtype=torch.float64).float()  # squares of tiny entries underflow
        target, extra, decode = target / norms.where(norms > 0, torch.inf)[:, None], {"row_norms": norms}, low_rank_directions
    left, right = low_rank_factors(target, rank, *metrics)
    stored = pack({"left": left, "right": right} | extra, dtype)
    return CompressedMatrix(stored, decode, rank, diagnostics=_diagnostics(metrics, method.shrinkage))


def _diagnostics(metrics: tuple[Metric | None, Metric | None], shrinkage: float) -> dict[str, float]:
    """Condition numbers of the metrics that are not the identity, and their shrinkage."""
    named = {"row_condition": metrics[0], "column_condition": metrics[1]}
    conditions = {name: metric.condition for name, metric in named.items() if metric is not None}
    return conditions | {"shrinkage": shrinkage} if conditions else {}


def low_rank(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: (rows, rank) times (rank, cols)."""
    return tensors["left"] @ tensors["right"]


def low_rank_directions(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: (rows, rank) times (rank, cols), with each row rescaled to its stored norm."""
    product = low_rank(tensors)
    lengths = product.norm(dim=1)
    scale = torch.where(lengths > 0, tensors["row_norms"] / lengths, 0.0)
    return product.mul_(scale[:, None])
