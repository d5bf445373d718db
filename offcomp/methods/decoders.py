"""All decoders: functions that turn stored tensors back into a matrix.

`CompressedMatrix.decoder` is the name of one of these functions.
"""

from __future__ import annotations

from offcomp.methods.autoencoder.fit import decoded_latents
from offcomp.methods.base import Decode, dense
from offcomp.methods.codebook.fit import decoded_codes
from offcomp.methods.kronecker.fit import kronecker_sum
from offcomp.methods.pruning.fit import kept_entries
from offcomp.methods.quantization.fit import grid_levels
from offcomp.methods.residual.decoder import residual_columns, residual_rows
from offcomp.methods.svd.fit import low_rank, low_rank_directions
from offcomp.methods.tucker.fit import tucker_product

DECODERS: tuple[Decode, ...] = (
    dense,
    low_rank,
    low_rank_directions,
    decoded_latents,
    residual_rows,
    residual_columns,
    decoded_codes,
    kronecker_sum,
    tucker_product,
    kept_entries,
    grid_levels,
)
