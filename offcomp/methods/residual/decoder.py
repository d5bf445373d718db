"""Decoder for the stored residual autoencoder, Z D + φ(Z F + b) G + S with unit vectors at the pivot rows of Z."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from offcomp.methods.residual.method import pivot_bits
from offcomp.methods.residual.pivots import with_pivots
from offcomp.methods.residual.sparse import Sparse
from offcomp.numerics.bits import unpack_bits
from offcomp.numerics.mlp import SLOPE
from offcomp.numerics.positions import decode_positions

ROWS_A_TIME = 256


def residual_rows(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: latents with unit vectors at the pivots, mapped by the shared decoder, plus the sparse entries."""
    rank, cols = tensors["decoder"].shape
    pieces = decoded_pieces(tensors)
    matrix = torch.empty(tensors["latents"].shape[1] + rank, cols)
    for start, piece in pieces:
        matrix[start : start + len(piece)] = piece
    return matrix


def decoded_pieces(tensors: Mapping[str, Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Decode the matrix in chunks of rows, from top to bottom: (first row, rows)."""
    rank, cols = tensors["decoder"].shape
    rows = tensors["latents"].shape[1] + rank
    pivots = unpack_bits(tensors["pivots"], pivot_bits(rows), rank)
    sparse = _sparse_part(tensors, rows * cols) if "sparse.values" in tensors else Sparse.empty(torch.device("cpu"))
    start = 0
    for latents in with_pivots(tensors["latents"], pivots, ROWS_A_TIME):
        piece = latents @ tensors["decoder"]
        if "hidden.bias" in tensors:
            units = torch.addmm(tensors["hidden.bias"], latents, tensors["hidden.inner"].T)
            piece.addmm_(torch.nn.functional.leaky_relu_(units, SLOPE), tensors["hidden.outer"])
        sparse.within(start * cols, piece.numel()).add_to(piece)
        yield start, piece
        start += len(piece)


def _sparse_part(tensors: Mapping[str, Tensor], total: int) -> Sparse:
    """The sparse part of a matrix with `total` entries."""
    values = tensors["sparse.values"][0]
    return Sparse(decode_positions(tensors["sparse.low"], tensors["sparse.high"], len(values), total), values)


def residual_columns(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder of a wide matrix, stored as its transpose."""
    return residual_rows(tensors).T
