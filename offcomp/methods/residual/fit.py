"""Fit the residual autoencoder and store the full model, Z D alone or the SVD, whichever has the smallest error."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import torch
from torch import Tensor

from offcomp.methods.base import CompressedMatrix, Hints, choose_size
from offcomp.methods.residual.alternation import fit_linear
from offcomp.methods.residual.decoder import residual_columns, residual_rows
from offcomp.methods.residual.method import ResidualAutoencoder, pivot_bits
from offcomp.methods.residual.pivots import interpolate, other_rows
from offcomp.methods.residual.sparse import Sparse, best_entries
from offcomp.methods.residual.training import Decoder, train
from offcomp.methods.svd.fit import truncated
from offcomp.methods.svd.group_metrics import group_metrics
from offcomp.methods.svd.method import PRESETS, SVD
from offcomp.numerics.accounting import Budget, code_counts
from offcomp.numerics.bits import pack_bits
from offcomp.numerics.chunks import squared_norm
from offcomp.numerics.positions import encode_positions
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.numerics.storage import pack, unpack
from offcomp.numerics.svd import singular_values
from offcomp.numerics.weighted_norm import SideWeights


def fit(
    method: ResidualAutoencoder, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Fit the full model with latent width `size`, and return the best of this model, Z D alone and the SVD.

    The spectrum gives a lower bound on the errors of Z D and the SVD, so these rarely need to be fitted. Errors are compared
    after rounding to the storage dtype.
    """
    rows, cols = matrix.shape
    weights = _weights(method, matrix, hints)
    best = _fitted(method, matrix, size, budget, weights, seed=seed, report=report)
    report(0.95)
    linear, svd = replace(method, sparse_share=0.0, hidden_share=0.0), SVD(preset=method.metric)
    rank = choose_size(linear, rows, cols, budget)
    spectrum = singular_values(matrix.float(), weights.rows, weights.columns)
    least = _error(matrix, best, weights)
    if least < float(spectrum[rank:].square().sum()):
        return best
    others = [_fitted(linear, matrix, rank, budget, weights, seed=0, report=ignore_progress)]
    if budget.admits(svd.tensor_shapes(rows, cols, 1)):
        rank = choose_size(svd, rows, cols, budget)
        others.append(truncated(svd, (weights.rows, weights.columns), matrix, rank, budget.dtype))
    return min((best, *others), key=lambda each: _error(matrix, each, weights))


def _weights(method: ResidualAutoencoder, matrix: Tensor, hints: Hints | None) -> SideWeights:
    """The row and column metrics of the SVD preset named by the option `metric`."""
    if hints is None or not method.calibrated:
        return SideWeights()
    weights = SideWeights.of(*group_metrics(hints, PRESETS[method.metric], 0.0, matrix.device))
    hints.release()
    return weights


def _fitted(
    method: ResidualAutoencoder, matrix: Tensor, size: int, budget: Budget, weights: SideWeights, *, seed: int, report: Report
) -> CompressedMatrix:
    """Fit and store all parts of a model with latent width `size`.

    A wide matrix is transposed. The matrix is scaled to prevent its squared entries from underflowing.
    """
    rows, cols = matrix.shape
    transposed = rows < cols
    upright, sides = (matrix.T, weights.transposed) if transposed else (matrix, weights)
    scale = sqrt(squared_norm(matrix) / matrix.numel()) or 1.0  # the root mean square of the entries
    target = (upright.float() / scale).contiguous()
    hidden, entries = method.counts(rows, cols, size)
    share = 0.2 if hidden else 0.9
    latents, linear, sparse = fit_linear(
        target, size, entries, method.rounds, weights=sides, report=lambda done: report(share * done)
    )
    decoder = Decoder.new(linear, hidden, torch.Generator().manual_seed(seed))
    history: list[float] = []
    if hidden:
        latents, decoder, history = train(
            target, entries, latents, decoder, steps=method.steps, report=lambda done: report(0.2 + 0.7 * done)
        )
    tensors = _stored_dense_parts(latents, decoder, scale, budget.dtype)
    if entries:
        error = target - residual_rows(unpack(tensors)).to(target.device) / scale
        tensors |= _stored_sparse_part(best_entries(error, sparse, entries, sides), target.numel(), scale, budget.dtype)
    return CompressedMatrix(
        tensors,
        residual_columns if transposed else residual_rows,
        size,
        tuple(scale * loss for loss in history),
        code_counts(method.tensor_shapes(rows, cols, size)),
        {"hidden_units": float(hidden), "sparse_entries": float(entries)},
    )


def _error(matrix: Tensor, compressed: CompressedMatrix, weights: SideWeights) -> float:
    """The squared error of the compressed matrix under the metrics."""
    return weights.squared(matrix.float() - compressed.reconstruct().to(matrix.device))


def _stored_dense_parts(latents: Tensor, decoder: Decoder, scale: float, dtype: str) -> dict[str, Tensor]:
    """Pack the latents and decoder in the basis in which the pivot latents are unit vectors."""
    pivots, coefficients = interpolate(latents)
    pivots, order = pivots.sort()
    based = decoder.in_basis(latents[pivots.to(latents.device)].double())
    others = other_rows(pivots, len(latents)).to(latents.device)
    parts = {
        "latents": coefficients[others][:, order.to(latents.device)].T,
        "decoder": scale * based.linear,
        "pivots": pack_bits(pivots, pivot_bits(len(latents))),
    }
    if decoder.hidden:
        parts |= {"hidden.inner": based.inner.T, "hidden.bias": based.bias, "hidden.outer": scale * based.outer}
    return pack(parts, dtype)


def _stored_sparse_part(sparse: Sparse, total: int, scale: float, dtype: str) -> dict[str, Tensor]:
    """Pack the sparse part of a matrix with `total` entries.

    The sparse part is fitted last, so it also corrects rounding errors in the other parts.
    """
    codes = {f"sparse.{name}": code for name, code in encode_positions(sparse.positions, total).items()}
    return pack({"sparse.values": scale * sparse.values[None], **codes}, dtype)
