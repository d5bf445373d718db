"""Decoders for the stored residual autoencoder, Z D + φ(Z F + b) G + S, in which the pivot rows of Z are unit vectors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from offcomp.methods.residual.method import pivot_bits
from offcomp.methods.residual.pivots import with_pivots
from offcomp.numerics.bits import unpack_bits
from offcomp.numerics.mlp import SLOPE
from offcomp.numerics.positions import decode_positions


def residual_rows(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: restore the pivot rows of the latents, apply the shared decoder, and add the sparse entries."""
    rank, others = tensors["latents"].shape
    pivots = unpack_bits(tensors["pivots"], pivot_bits(others + rank), rank)
    latents = with_pivots(tensors["latents"].T, pivots)
    matrix = latents @ tensors["decoder"]
    if "hidden.bias" in tensors:
        units = torch.addmm(tensors["hidden.bias"], latents, tensors["hidden.inner"].T)
        matrix.addmm_(functional.leaky_relu_(units, SLOPE), tensors["hidden.outer"])
    if "sparse.values" in tensors:
        values = tensors["sparse.values"][0]
        positions = decode_positions(tensors["sparse.low"], tensors["sparse.high"], len(values), matrix.numel())
        matrix.view(-1)[positions] += values
    return matrix


def residual_columns(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder for a wide matrix, which is stored as its transpose."""
    return residual_rows(tensors).T
