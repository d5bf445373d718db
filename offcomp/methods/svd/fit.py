"""Compute the truncated SVD under row and column metrics, and decode it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.methods.svd.group_metrics import group_metrics
from offcomp.methods.svd.method import SVD
from offcomp.numerics.accounting import Budget
from offcomp.numerics.changed_inputs import weight_for_changed_inputs
from offcomp.numerics.metrics import Metric
from offcomp.numerics.progress import Report
from offcomp.numerics.storage import pack
from offcomp.numerics.svd import low_rank_factors

Metrics = tuple[Metric | None, Metric | None]
"""Row metric and column metric; None stands for the identity."""


def fit(
    method: SVD, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Truncate to rank `size`. The result is unique, so the seed is not used."""
    metrics: Metrics = (None, None)
    if hints is not None and method.calibrated:
        if method.follows:
            hints.use_compressed_predecessors(keep_original=method.toward_original, one_by_one=False)
            if method.toward_original:
                matrix = adapted(matrix, hints)
        metrics = group_metrics(hints, method.sources, method.shrinkage, matrix.device)
    report(0.3)
    return truncated(method, metrics, matrix, size, budget.dtype)


def adapted(matrix: Tensor, hints: Hints) -> Tensor:
    """The stacked matrix (rows, cols) with each member replaced by the weight that makes up for its changed inputs.

    Embeddings stay as they are, and so does every member if the original model is not kept.
    """
    members = list(matrix.split(hints.heights))
    for index, part in enumerate(members):
        statistics = hints.statistics(index)
        moment, cross = statistics.column_moment, statistics.cross_moment
        if moment is not None and cross is not None:
            swapped = hints.transposed[index]
            weight = (part.T if swapped else part).double()
            target = weight_for_changed_inputs(weight, moment.to(weight), cross.to(weight)).float()
            members[index] = target.T if swapped else target
    return torch.cat(members)


def truncated(method: SVD, metrics: Metrics, matrix: Tensor, rank: int, dtype: str) -> CompressedMatrix:
    """Compute and store the best approximation of the given rank under the metrics."""
    target, extra, decode = matrix.float(), {}, low_rank
    if method.preset == "direction":
        norms = torch.linalg.vector_norm(target, dim=1, dtype=torch.float64).float()  # tiny squares underflow in float32
        target, extra, decode = target / norms.where(norms > 0, torch.inf)[:, None], {"row_norms": norms}, low_rank_directions
    left, right = low_rank_factors(target, rank, *metrics)
    stored = pack({"left": left, "right": right} | extra, dtype)
    return CompressedMatrix(stored, decode, rank, diagnostics=_diagnostics(metrics, method.shrinkage))


def _diagnostics(metrics: tuple[Metric | None, Metric | None], shrinkage: float) -> dict[str, float]:
    """Condition numbers of all metrics other than the identity, and the shrinkage."""
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
