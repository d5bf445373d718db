"""Rate and distortion of the trellis on six weight matrices: `python -m benchmarks.rate_distortion`.

Each matrix is coded without rotation at 1 to 2 bits per entry, everything included, with 8 and with 64 states. The table states
how far the squared error is above the rate-distortion bound of independent Gaussian entries of the same variance,
D = σ² 2^(-2R), in dB, where R is the number of stored bits per entry. Entries of real matrices differ in size from row to row
and from column to column, so an error below this bound is possible. The last column is the length of the stored integers,
without the tables of the code, divided by the ideal length: their empirical entropy given their contexts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offcomp.cli.text import format_table
from offcomp.methods.trellis.latents import CODES, SECTIONS, count_magnitudes, decoded_integers
from offcomp.methods.trellis.method import TrellisAutoencoder
from offcomp.methods.trellis.sections import split_sections
from offcomp.models.loading import load
from offcomp.models.weights import stored_view
from offcomp.numerics.accounting import Budget

MATRICES = {
    "minilm-l6": ("word_embeddings", "query.0", "value.3", "attention_output.2", "ffn_in.4", "ffn_out.5"),
}
BITS = (1.0, 1.3, 1.6, 2.0)
STATE_BITS = (3, 6)
MAX_ROWS = 4096
"""Taller matrices are represented by evenly spaced rows."""


def matrices() -> Iterator[tuple[str, Tensor]]:
    """The name and the entries of each matrix, and Gaussian noise for comparison."""
    for model, names in MATRICES.items():
        loaded = load(model)
        specs = {spec.name: spec for spec in loaded.info.modules}
        for name in names:
            matrix = stored_view(loaded.model, specs[name]).float()
            yield name, matrix[:: max(1, len(matrix) // MAX_ROWS)].clone()
    yield "Gaussian noise", torch.randn(1536, 384, generator=torch.Generator().manual_seed(0))


def measured(name: str, matrix: Tensor, bits: float, state_bits: int) -> dict[str, Any]:
    """A row of the table."""
    method = TrellisAutoencoder(state_bits=state_bits, rotation="off")
    budget = Budget(int(matrix.numel() * bits / 8), "bytes", "float16")
    fitted = method.fit(matrix, budget)
    used = 8 * fitted.stored.num_bytes / matrix.numel()
    distortion = float((matrix - fitted.reconstruct()).square().mean())
    variance = float(matrix.square().mean())
    return {
        "matrix": name,
        "states": method.num_states,
        "bits": used,
        "dB above the bound": 10 * math.log10(distortion / variance) + 20 * math.log10(2) * used,
        "coded / ideal": share_of_ideal(fitted.tensors["stream"]),
    }


def share_of_ideal(content: Tensor) -> float:
    """Stored bits of the integers divided by their empirical entropy, given the context and quantizer of each."""
    sections = split_sections(content.numpy(), SECTIONS)
    blocks = decoded_integers(sections, len(content))
    symbols = [block.symbols for block, _ in blocks]
    counts = count_magnitudes(symbols, [2 * block.contexts.astype(np.int64) + quantizers for block, quantizers in blocks])
    shares = np.where(counts > 0, counts / counts.sum(1, keepdims=True).clip(1), 1.0)
    ideal = -(counts * np.log2(shares)).sum() + counts[:, 1:].sum()  # every integer but 0 has a sign
    return 8 * sections[CODES].nbytes / float(ideal)


def main() -> None:
    """Print the table."""
    rows = [
        measured(name, matrix, bits, state_bits) for name, matrix in matrices() for bits in BITS for state_bits in STATE_BITS
    ]
    print(format_table(rows))


if __name__ == "__main__":
    main()
