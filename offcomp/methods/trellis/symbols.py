"""The costs and values of the integers of a matrix, learned from previously chosen integers.

The price of an integer is the length of its code, and its value is the mean of the entries for which it is chosen. Prices and
values depend on the chosen integers and vice versa, so the two are updated alternately, starting with the prices of a Gaussian
and Laplacian mixture and with values on the grid (Chou, Lookabaugh, Gray, "Entropy-constrained vector quantization", 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from offcomp.methods.trellis.entropy import CONTEXT_OFFSET, EXPONENTS_PER_OCTAVE, NUM_CONTEXTS, Tables
from offcomp.methods.trellis.latents import NUM_VALUES, count_magnitudes, row_chunks, value_table
from offcomp.methods.trellis.machine import Machine, Prices, machine, quantizers_along, shortest_path

PRICE_PER_BIT = 0.6
"""Price of one bit, in squared steps."""
MAX_CODE_LENGTH = 40.0
"""Price in bits of an integer that has never occurred."""
LAPLACIAN_SHARE = 0.2
EVIDENCE = 8.0
"""Number of pseudo-observations on the grid that are added when the value of an integer is estimated."""
ROUNDS = 4
MAX_MAGNITUDES = 1 << 14
ENTRIES_AT_ONCE = 1 << 19
"""Number of entries whose integers are chosen at a time."""


class Coded(NamedTuple):
    """Targets (rows, cols), in units of the step, with the context and the integer of each."""

    targets: Tensor
    contexts: NDArray[np.uint8]
    symbols: Tensor


@dataclass(frozen=True)
class SymbolModel:
    """Counts of magnitudes (2 · contexts, magnitudes), and values (2, NUM_VALUES) float16, for a machine."""

    num_states: int
    counts: NDArray[np.float64]
    values: NDArray[np.float16]

    @staticmethod
    def initial(num_states: int) -> SymbolModel:
        """The model before any integer is known."""
        grid = value_table(np.zeros(0, np.float16), NUM_VALUES).astype(np.float16)
        return SymbolModel(num_states, np.zeros((2 * NUM_CONTEXTS, 0)), grid)

    @property
    def machine(self) -> Machine:
        """The state machine."""
        return machine(self.num_states)

    def prices(self, largest: float) -> Prices:
        """Prices and values of all magnitudes that targets up to `largest` (in units of the step) may need."""
        number = min(2 * int(largest / 4) + 4, MAX_MAGNITUDES)
        counts = expected_shares(number)
        known = self.counts[:, :number]
        counts[:, : known.shape[1]] += known
        bits = np.minimum(-np.log2(counts / counts.sum(1, keepdims=True)), MAX_CODE_LENGTH) + (np.arange(number) > 0)
        priced = torch.from_numpy(bits.astype(np.float32)).reshape(NUM_CONTEXTS, 2, number)
        return Prices(self.machine, priced, torch.from_numpy(value_table(self.values, number)), PRICE_PER_BIT)

    def choose(self, targets: Float[Tensor, "rows cols"], contexts: NDArray[np.uint8]) -> Coded:
        """The cheapest integers for targets in units of the step."""
        prices = self.prices(float(torch.linalg.vector_norm(targets, torch.inf)))
        height = max(1, ENTRIES_AT_ONCE // targets.shape[1])
        parts = zip(targets.split(height), torch.from_numpy(contexts).split(height), strict=True)
        found = [shortest_path(rows, classes, prices) for rows, classes in parts]
        return Coded(targets, contexts, torch.cat(found))

    def refined(self, targets: Float[Tensor, "rows cols"], contexts: NDArray[np.uint8], *, values: bool = True) -> SymbolModel:
        """The model after a few rounds of choosing integers for these targets and learning from them.

        If `values` is False, the values stay as they are and only the prices are learned. Call this on an initial model: with
        prices learned for a different step, the search would keep choosing the integers of that step, and their values would
        drift off the grid.
        """
        model = self
        for _ in range(ROUNDS):
            learned = model.learned([model.choose(targets, contexts)])
            model = learned if values else replace(learned, values=self.values)
        return model

    def num_bits(self) -> float:
        """Length in bits, including the tables, of the code for the integers from which the model was learned."""
        tables = Tables.of_counts(self.counts)
        used = self.counts > 0
        return float((self.counts * tables.bits(self.counts.shape[1]))[used].sum()) + 8 * len(tables.to_bytes())

    def learned(self, coded: Sequence[Coded]) -> SymbolModel:
        """The model learned from these integers."""
        quantizers = [quantizers_along(each.symbols, self.machine).numpy() for each in coded]
        tables = [2 * each.contexts.astype(np.int16) + found for each, found in zip(coded, quantizers, strict=True)]
        counts = count_magnitudes([each.symbols.numpy() for each in coded], tables).astype(np.float64)
        return SymbolModel(self.num_states, counts, _mean_values(coded, quantizers))


def expected_shares(number: int) -> NDArray[np.float64]:
    """For each table, the expected share of entries with each magnitude (2 · contexts, number)."""
    scale = np.exp2((np.arange(NUM_CONTEXTS) - CONTEXT_OFFSET) * 2 / EXPONENTS_PER_OCTAVE)[:, None]
    shares = np.zeros((NUM_CONTEXTS, 2, number))
    for quantizer in (0, 1):
        centres = np.maximum(2.0 * np.arange(number) - quantizer, 0)
        edges = np.append(np.insert((centres[1:] + centres[:-1]) / 2, 0, 0.0), centres[-1] + 1)
        gaussian = 2 * ndtr(-edges / scale)
        laplacian = np.exp(-np.sqrt(2) * edges / scale)
        beyond = (1 - LAPLACIAN_SHARE) * gaussian + LAPLACIAN_SHARE * laplacian
        shares[:, quantizer] = beyond[:, :-1] - beyond[:, 1:]
    return shares.reshape(-1, number) + 1e-9


def _mean_values(coded: Sequence[Coded], quantizers: Sequence[NDArray[np.uint8]]) -> NDArray[np.float16]:
    """The mean absolute target of each small magnitude, by quantizer; 0 stays 0."""
    counts, sums = np.zeros(2 * NUM_VALUES), np.zeros(2 * NUM_VALUES)
    for each, found in zip(coded, quantizers, strict=True):
        for rows in row_chunks(found):
            symbols = each.symbols[rows].numpy()
            small = np.abs(symbols) < NUM_VALUES
            places = (found[rows].astype(np.int64) * NUM_VALUES + np.abs(symbols))[small]
            counts += np.bincount(places, minlength=2 * NUM_VALUES)
            sums += np.bincount(places, (each.targets[rows].numpy() * np.sign(symbols))[small], minlength=2 * NUM_VALUES)
    grid = value_table(np.zeros(0, np.float16), NUM_VALUES).reshape(-1)
    values = ((sums + EVIDENCE * grid) / (counts + EVIDENCE)).reshape(2, -1)
    values[:, 0] = 0.0
    return values.astype(np.float16)
