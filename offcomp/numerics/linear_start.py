"""Networks that start as a given linear map.

LeakyReLU(x) - LeakyReLU(-x) = (1 + slope) x, so a pair of hidden units hands a number on exactly. Where hidden layers are at
least twice as wide as what they carry, a network of any depth can start as x -> A (B x + b) and bend from there: what its other
units give has no weight at first, but a gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from offcomp.numerics.networks import SLOPE, Network

LARGEST_OUTPUT = 0.3  # where tanh is still within 3 % of a line


def start_linear(
    network: Network,
    outer: Float[Tensor, "out carried"],
    inner: Float[Tensor, "carried width"],
    shift: Float[Tensor, " carried"],
) -> None:
    """Set the parameters so that before its last activation the network gives outer @ (inner @ x + shift)."""
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
    """Set encoder and decoder so that together they project on the leading right singular vectors of the samples.

    With `directions` on those of rows of length one, which maximise the mean squared cosine, and with an output so small that
    a final tanh does not bend it: its length does not matter then. A final LeakyReLU of the encoder is passed by a shift that
    makes every latent positive.
    """
    from offcomp.numerics.linalg import low_rank_factors

    latent = encoder.layers[-1][0].shape[0]
    rows = torch.nn.functional.normalize(samples, dim=1) if directions else samples
    left, right = low_rank_factors(rows, latent)
    basis = torch.nn.functional.normalize(right, dim=1)  # (latent, cols)
    scale = (left.square().sum(0) / len(left) * right.square().sum(1)).sqrt()
    scale = torch.where(scale > 1e-6 * scale.max(), scale, 1.0)  # (latent,) root mean square of each latent
    inner = basis / scale[:, None]
    shift = torch.zeros_like(scale)
    if encoder.last != "identity":
        shift = shift + 1.1 * (samples @ inner.T).abs().amax(0) + 1
    outer = (basis * scale[:, None]).T  # (cols, latent)
    if directions and decoder.last == "tanh":
        outer = outer * min(1.0, LARGEST_OUTPUT / max(float((samples @ basis.T @ basis).abs().max()), LARGEST_OUTPUT))
    start_linear(encoder, torch.eye(latent, device=inner.device), inner, shift)
    start_linear(decoder, outer, torch.eye(latent, device=inner.device), -shift)
