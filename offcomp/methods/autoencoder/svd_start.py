"""Initialise a network so that it computes a given linear map.

Since LeakyReLU(x) - LeakyReLU(-x) = (1 + slope) x, a pair of hidden units can pass a number through unchanged. A network of any
depth can therefore start as x -> A (B x + b) if its hidden layers are at least twice as wide as the vector B x. Training then
makes the network nonlinear: the output weights of all other units start at zero, but their gradients do not vanish.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from offcomp.numerics.mlp import SLOPE, Network

LARGEST_OUTPUT = 0.3  # up to this value, tanh is within 3 % of linear


def start_linear(
    network: Network,
    outer: Float[Tensor, "out carried"],
    inner: Float[Tensor, "carried width"],
    shift: Float[Tensor, " carried"],
) -> None:
    """Set the parameters so that the network computes outer @ (inner @ x + shift) before its final activation."""
    (weight, bias), *later = network.layers
    if not later:
        weight.copy_(outer @ inner)
        bias.copy_(outer @ shift)
        return
    carried = len(inner)
    weight[: 2 * carried] = torch.cat([inner, -inner])
    bias[: 2 * carried] = torch.cat([shift, -shift])
    join = torch.eye(carried, device=inner.device) / (1 + SLOPE)
    for weight, bias in later[:-1]:
        weight[: 2 * carried] = 0
        weight[:carried, : 2 * carried] = torch.cat([join, -join], 1)
        weight[carried : 2 * carried, : 2 * carried] = torch.cat([-join, join], 1)
        bias[: 2 * carried] = 0
    weight, bias = later[-1]
    weight.zero_()
    weight[:, : 2 * carried] = outer @ torch.cat([join, -join], 1)
    bias.zero_()


def start_as_svd(encoder: Network, decoder: Network, samples: Float[Tensor, "rows cols"], directions: bool) -> None:
    """Initialise the encoder and decoder so that together they project onto the samples' leading right singular vectors.

    With `directions`, these are the singular vectors of the rows scaled to unit length, which maximise the mean squared cosine.
    The output norm is then irrelevant, so the output is kept small enough for a final tanh to be nearly linear. If the encoder
    ends in a LeakyReLU, a shift makes every latent positive, where LeakyReLU is the identity.
    """
    from offcomp.numerics.svd import low_rank_factors

    latent = encoder.layers[-1][0].shape[0]
    rows = torch.nn.functional.normalize(samples, dim=1) if directions else samples
    left, right = low_rank_factors(rows, latent)
    basis = torch.nn.functional.normalize(right, dim=1)  # (latent, cols)
    scale = (left.square().sum(0) / len(left) * right.square().sum(1)).sqrt()
    scale = torch.where(scale > 1e-6 * scale.max(), scale, 1.0)  # (latent,) RMS of each latent
    inner = basis / scale[:, None]
    shift = torch.zeros_like(scale)
    if encoder.last != "identity":
        shift = shift + 1.1 * (samples @ inner.T).abs().amax(0) + 1
    outer = (basis * scale[:, None]).T  # (cols, latent)
    if directions and decoder.last == "tanh":
        outer = outer * min(1.0, LARGEST_OUTPUT / max(float((samples @ basis.T @ basis).abs().max()), LARGEST_OUTPUT))
    start_linear(encoder, torch.eye(latent, device=inner.device), inner, shift)
    start_linear(decoder, outer, torch.eye(latent, device=inner.device), -shift)
