"""Fit and store the residual autoencoder: the full model, Z D alone or the SVD, whichever has the least error when stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import sqrt

import torch
from torch import Tensor

from offcomp.methods.base import CompressedMatrix, Hints, choose_size
from offcomp.methods.residual.alternation import Decoder, Target, fit_linear
from offcomp.methods.residual.decoder import ROWS_A_TIME, decoded_pieces, residual_columns, residual_rows
from offcomp.methods.residual.method import ResidualAutoencoder, pivot_bits
from offcomp.methods.residual.pivots import interpolate, other_rows
from offcomp.methods.residual.sparse import Sparse, best_entries, largest_of
from offcomp.methods.residual.training import train
from offcomp.methods.svd.fit import truncated
from offcomp.methods.svd.group_metrics import group_metrics
from offcomp.methods.svd.method import PRESETS, SVD
from offcomp.numerics.accounting import Budget, code_counts
from offcomp.numerics.bits import pack_bits
from offcomp.numerics.memory import give_back_free_memory
from offcomp.numerics.positions import encode_positions
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.numerics.storage import pack, unpack
from offcomp.numerics.svd import singular_values
from offcomp.numerics.weighted_norm import SideWeights, squared_norm


def fit(
    method: ResidualAutoencoder, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Fit at this latent width; keep Z D alone or the SVD instead if that is better."""
    return _best(method, matrix, size, budget, _weights(method, matrix, hints), seed=seed, report=report)


def _best(
    method: ResidualAutoencoder, matrix: Tensor, size: int, budget: Budget, weights: SideWeights, *, seed: int, report: Report
) -> CompressedMatrix:
    """The best of the full model, Z D alone and the SVD. The spectrum bounds the last two, so they are rarely fitted."""
    rows, cols = matrix.shape
    best = _fitted(method, matrix, size, budget, weights, seed=seed, report=report)
    give_back_free_memory()
    report(0.95)
    linear, svd = replace(method, sparse_share=0.0, hidden_share=0.0), SVD(preset=method.metric)
    rank = choose_size(linear, rows, cols, budget)
    spectrum = singular_values(matrix.detach().float(), weights.rows, weights.columns)
    give_back_free_memory()
    least = _error(matrix, best, weights)
    if least < float(spectrum[rank:].square().sum()):
        return best
    others = [lambda: _fitted(linear, matrix, rank, budget, weights, seed=0, report=ignore_progress)]
    if budget.admits(svd.tensor_shapes(rows, cols, 1)):
        others.append(lambda: _svd(svd, matrix, budget, weights))
    for fit in others:
        other = fit()
        best, least = min((best, least), (other, _error(matrix, other, weights)), key=lambda pair: pair[1])
        del other  # before the next one is fitted
    return best


def _svd(svd: SVD, matrix: Tensor, budget: Budget, weights: SideWeights) -> CompressedMatrix:
    """The SVD in these metrics, with the same budget."""
    rows, cols = matrix.shape
    rank = choose_size(svd, rows, cols, budget)
    return truncated(svd, (weights.rows, weights.columns), matrix, rank, budget.dtype)


def _weights(method: ResidualAutoencoder, matrix: Tensor, hints: Hints | None) -> SideWeights:
    """The metrics of the matrix: those of the SVD preset that `metric` names."""
    if hints is None or not method.calibrated:
        return SideWeights()
    weights = SideWeights.of(*group_metrics(hints, PRESETS[method.metric], 0.0, matrix.device))
    hints.release()
    return weights


def _fitted(
    method: ResidualAutoencoder, matrix: Tensor, size: int, budget: Budget, weights: SideWeights, *, seed: int, report: Report
) -> CompressedMatrix:
    """Fit and store all parts at this size. The longer side becomes the rows, scaled so that no square underflows."""
    rows, cols = matrix.shape
    transposed = rows < cols
    upright = matrix.detach().T if transposed else matrix.detach()
    scale = _scale(upright)
    hidden, entries = method.counts(rows, cols, size)
    sides = weights.transposed if transposed else weights
    target = Target(upright.float(), entries, sides, scale)
    share = 0.2 if hidden else 0.9
    latents, linear, sparse = fit_linear(target, size, method.rounds, lambda done: report(share * done))
    if sides.plain:
        sparse = Sparse.empty(matrix.device)  # training chooses it anew, and so does storing
    decoder = Decoder.new(linear, hidden, torch.Generator().manual_seed(seed))
    history: list[float] = []
    if hidden:
        latents, decoder, history = train(
            target, latents, decoder, steps=method.steps, report=lambda done: report(0.2 + 0.7 * done)
        )
    tensors = _stored(target, latents, decoder, sparse, scale=scale, dtype=budget.dtype)
    return CompressedMatrix(
        tensors,
        residual_columns if transposed else residual_rows,
        size,
        tuple(scale * loss for loss in history),
        code_counts(method.tensor_shapes(rows, cols, size)),
        {"hidden_units": float(hidden), "sparse_entries": float(entries)},
    )


def _scale(matrix: Tensor) -> float:
    """The root mean square of the entries; 1 for a zero matrix."""
    return sqrt(squared_norm(matrix.float()) / matrix.numel()) or 1.0


def _error(matrix: Tensor, compressed: CompressedMatrix, weights: SideWeights) -> float:
    """The squared error of the stored matrix in the metric, or in chunks of rows if there is none."""
    exact = matrix.detach()
    if not weights.plain:
        return weights.squared(exact, compressed.reconstruct().to(matrix.device))
    if compressed.decode in (residual_rows, residual_columns):
        exact = exact.T if compressed.decode is residual_columns else exact
        pieces = decoded_pieces(unpack(compressed.tensors))
    else:
        pieces = zip(range(0, len(exact), ROWS_A_TIME), compressed.reconstruct().split(ROWS_A_TIME), strict=True)
    return sum(float((piece.to(exact.device).double() - exact[top : top + len(piece)]).square().sum()) for top, piece in pieces)


def _stored(
    target: Target, latents: Tensor, decoder: Decoder, sparse: Sparse, *, scale: float, dtype: str
) -> dict[str, Tensor]:
    """Pack all parts in the storage dtype. The sparse part comes last and also corrects the rounding of the others."""
    give_back_free_memory()
    pivots, coefficients = interpolate(latents)
    pivots, order = pivots.sort()
    coefficients = coefficients.float()[:, order.to(latents.device)]
    based = decoder.in_basis(latents[pivots.to(latents.device)].double())
    kept = other_rows(pivots, len(latents)).to(latents.device)
    give_back_free_memory()
    parts = {
        "latents": coefficients[kept].T,
        "decoder": scale * based.linear,
        "pivots": pack_bits(pivots, pivot_bits(len(latents))),
    }
    if decoder.hidden:
        parts |= {"hidden.inner": based.inner.T, "hidden.bias": based.bias, "hidden.outer": scale * based.outer}
    tensors = pack(parts, dtype)
    if target.entries:
        del coefficients, based, parts, pivots, order, kept
        give_back_free_memory()
        unpacked, device = unpack(tensors), latents.device
        if target.weights.plain:
            best = largest_of(lambda: _left_over(target, unpacked, scale), target.matrix, target.entries)
        else:
            rows = residual_rows(unpacked).to(device).div_(scale)
            best = best_entries(target.left_over(rows), sparse, target.entries, target.weights)
            del rows
        del unpacked
        give_back_free_memory()
        places = encode_positions(best.positions, target.matrix.numel())
        named = {"sparse.values": scale * best.values[None], **{f"sparse.{name}": code for name, code in places.items()}}
        tensors |= pack(named, dtype)
    return tensors


def _left_over(target: Target, tensors: Mapping[str, Tensor], scale: float) -> Iterator[Tensor]:
    """W minus the decoded tensors, at the scale of the target, in chunks of rows."""
    for start, piece in decoded_pieces(tensors):
        rows = target.piece(start, start + len(piece))
        yield rows.sub_(piece.to(rows.device).div_(scale))
