"""Latents as integers: all rows share a uniform grid for each of the d latents, and a row stores the indices of its levels.

The grid of a latent is the one with the smallest squared error (`numerics.grids`); its scale and lowest level are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from offcomp.methods.autoencoder.method import LAYOUT_BITS
from offcomp.numerics.bits import pack_bits, unpack_bits
from offcomp.numerics.grids import nearest_codes, searched_grid
from offcomp.numerics.storage import HALVES


@dataclass(frozen=True)
class LatentGrid:
    """The grids of all latents of one or more stacked matrices.

    bits        bits of a code, 1 to 8
    scales      (stack, latent), the distance between levels, as stored
    zeros       (stack, latent), the lowest level, as stored
    """

    bits: int
    scales: Float[Tensor, "stack latent"]
    zeros: Float[Tensor, "stack latent"]

    @staticmethod
    def of(latents: Float[Tensor, "stack rows latent"], bits: int, dtype: str) -> LatentGrid:
        """The best grids, rounded to the storage dtype."""
        stack, rows, width = latents.shape
        grids = searched_grid(latents.mT.reshape(-1, rows), bits, symmetric=False)
        scales, zeros = (part.to(HALVES.get(dtype, torch.float32)).float().view(stack, width) for part in grids)
        return LatentGrid(bits, scales, zeros)

    def codes(self, latents: Float[Tensor, "stack rows latent"]) -> Tensor:
        """The nearest levels, as uint8 of shape (stack, latent, rows)."""
        stack, rows, width = latents.shape
        columns = latents.mT.reshape(-1, rows)
        return nearest_codes(columns, self.scales.flatten(), self.zeros.flatten(), self.bits).view(stack, width, rows)

    def rounded(self, latents: Float[Tensor, "stack rows latent"]) -> Float[Tensor, "stack rows latent"]:
        """Each latent moved to its nearest level."""
        return torch.addcmul(self.zeros[..., None], self.codes(latents).float(), self.scales[..., None]).mT

    def tensors(self, latents: Float[Tensor, "stack rows latent"], index: int) -> dict[str, Tensor]:
        """The tensors to store for the latents of one matrix."""
        codes = self.codes(latents)[index]
        return {
            "latents": pack_bits(codes.flatten(), self.bits),
            "latent_scales": self.scales[index],
            "latent_zeros": self.zeros[index],
            "latent_layout": pack_bits(torch.tensor([codes.shape[1], self.bits]), LAYOUT_BITS),
        }


def stored_latents(tensors: Mapping[str, Tensor]) -> Float[Tensor, "rows latent"]:
    """The latents in the stored tensors of an autoencoder, decoded if they are codes."""
    if "latent_layout" not in tensors:
        return tensors["latents"]
    rows, bits = unpack_bits(tensors["latent_layout"], LAYOUT_BITS, 2).tolist()
    scales, zeros = tensors["latent_scales"][:, None], tensors["latent_zeros"][:, None]
    codes = unpack_bits(tensors["latents"], bits, rows * len(scales)).to(scales).view(-1, rows)
    return torch.addcmul(zeros, codes, scales).T
