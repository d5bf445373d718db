"""Trellis-coded quantization: the integers of a row drive a state machine, and the state selects one of two quantizers.

Two quantizers cover the line, each with steps of 2 (in units of the step size):

    q = 0       0, ±2, ±4, ...      value 2k for the integer k
    q = 1       0, ±1, ±3, ...      value 2k - sign(k)

The lowest bit of the state selects the quantizer, and the parity of k selects the next state. Together, the paths through the
machine form a dense packing in many dimensions, although each entry is coded at the rate of a quantizer with steps of 2. The
Viterbi algorithm finds the path with the lowest cost, the squared error plus a price per bit.

The machines are the rate-1/2 codes of Ungerboeck (1982, table I); the union of quantizers is that of JPEG 2000 part 2 and
of dependent quantization in VVC (Schwarz et al. 2019). See Marcellin and Fischer, "Trellis coded quantization of memoryless and
Gauss-Markov sources", 1990, and Fischer and Wang, "Entropy-constrained trellis-coded quantization", 1992.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import torch
from jaxtyping import Float, Integer
from torch import Tensor

PARITY_CHECKS = {4: (0o5, 0o2), 8: (0o13, 0o04), 16: (0o23, 0o04), 32: (0o45, 0o10), 64: (0o103, 0o024)}
"""Number of states -> (h0, h1), the parity-check polynomials of the code in octal notation."""


TARGETS_AT_ONCE = 1 << 14
"""Number of targets for which magnitudes are chosen at a time, small enough for the cache."""


@dataclass(frozen=True)
class Machine:
    """A state machine whose inputs are parities.

    successors      (states, 2): the next state for each state and parity
    edges           (2, states): the two edges that lead into each state, as 2 · state + parity
    """

    successors: Tensor
    edges: Tensor

    @property
    def num_states(self) -> int:
        """Number of states."""
        return len(self.successors)


@cache
def machine(num_states: int) -> Machine:
    """The machine of Ungerboeck's code, in observer form: state bit 0 is the coded bit and selects the quantizer."""
    h0, h1 = PARITY_CHECKS[num_states]
    memory = num_states.bit_length() - 1
    states = torch.arange(num_states)[:, None]
    parities, coded = torch.arange(2)[None, :], states & 1
    successors = torch.zeros(num_states, 2, dtype=torch.int64)
    for bit in range(memory):
        moved = (states >> (bit + 1)) & 1
        successors |= (moved ^ (coded & (h0 >> (bit + 1) & 1)) ^ (parities & (h1 >> (bit + 1) & 1))) << bit
    edges = successors.reshape(-1).argsort(stable=True).reshape(num_states, 2).T.contiguous()
    return Machine(successors, edges)


def grid_values(quantizers: Integer[Tensor, "*shape"], magnitudes: Integer[Tensor, "*shape"]) -> Integer[Tensor, "*shape"]:
    """The absolute value that a magnitude |k| represents on the grid of its quantizer, in units of the step."""
    return (2 * magnitudes - quantizers).clamp_min(0)


@dataclass(frozen=True)
class Prices:
    """The cost and the value of each magnitude in a given state machine.

    machine     the state machine
    bits        (contexts, 2, magnitudes): code length of an integer, with its sign, by context and quantizer
    values      (2, magnitudes): the absolute value that it represents, by quantizer, in units of the step
    per_bit     cost of one bit, in squared steps
    """

    machine: Machine
    bits: Float[Tensor, "contexts two magnitudes"]
    values: Float[Tensor, "two magnitudes"]
    per_bit: float

    @property
    def num_magnitudes(self) -> int:
        """Number of magnitudes, which is even."""
        return self.values.shape[1]

    @cached_property
    def flat_values(self) -> Float[Tensor, " entries"]:
        """The values at index quantizer · num_magnitudes + magnitude."""
        return self.values.reshape(-1)

    @cached_property
    def flat_costs(self) -> Float[Tensor, " entries"]:
        """The costs of code lengths, in squared steps, at index (2 · context + quantizer) · num_magnitudes + magnitude."""
        return self.bits.reshape(-1) * self.per_bit


def best_magnitudes(
    targets: Float[Tensor, "*shape"],
    contexts: Integer[Tensor, "*shape"],
    prices: Prices,
    quantizers: Integer[Tensor, "*shape"],
    parities: Integer[Tensor, "*shape"],
) -> tuple[Float[Tensor, "*shape"], Integer[Tensor, "*shape"]]:
    """For each target |x|, in units of the step: the cost of the cheapest magnitude, and its index in `Prices.flat_values`.

    `quantizers` and `parities` (int32) are those that the magnitude must have; all shapes are broadcast. Only the
    nearest such magnitude and the next smaller one are compared.
    """
    number = prices.num_magnitudes
    nearest = (targets + quantizers).mul_(0.25).sub(parities, alpha=0.5).round_().mul_(2).add_(parities)
    magnitudes = nearest.clamp_(parities, number - 2 + parities).int()
    start, own = 2 * number * contexts, number * quantizers

    def cost(places: Tensor) -> Tensor:
        values = prices.flat_values.index_select(0, places.view(-1)).view(places.shape)
        return (
            (targets - values).square_().add_(prices.flat_costs.index_select(0, (places + start).view(-1)).view(places.shape))
        )

    best = magnitudes + own
    smaller = (magnitudes - 2).clamp_(parities) + own
    first, second = cost(best), cost(smaller)
    return torch.minimum(first, second), torch.where(second < first, smaller, best)


def shortest_path(
    targets: Float[Tensor, "rows cols"], contexts: Integer[Tensor, "rows cols"], prices: Prices
) -> Integer[Tensor, "rows cols"]:
    """For each row of targets, in units of the step, the integers (int16) with the lowest total cost. Rows start in state 0."""
    automaton, (rows, cols) = prices.machine, targets.shape
    quantizers, parities = torch.arange(2, dtype=torch.int32).view(1, 2, 1), torch.arange(2, dtype=torch.int32).view(2, 1, 1, 1)
    edges = automaton.edges.reshape(-1)
    sources, kinds = edges // 2, 2 * (edges % 2) + (edges // 2 & 1)
    totals = torch.full((automaton.num_states, rows), torch.inf)
    totals[0] = 0.0
    choices = torch.empty(cols, automaton.num_states, rows, dtype=torch.bool)
    places = torch.empty(2, cols, 2, rows, dtype=torch.int32)
    sizes, by_column = targets.abs().T.unsqueeze(1).contiguous(), contexts.T.int().unsqueeze(1).contiguous()
    at_once = max(1, TARGETS_AT_ONCE // rows)
    for first in range(0, cols, at_once):
        block = slice(first, first + at_once)
        costs, places[:, block] = best_magnitudes(sizes[block], by_column[block], prices, quantizers, parities)
        for column, four in enumerate(costs.transpose(0, 1).reshape(-1, 4, rows), first):
            arriving = totals.index_select(0, sources).add_(four.index_select(0, kinds)).view(2, -1, rows)
            torch.lt(arriving[1], arriving[0], out=choices[column])
            totals = torch.minimum(arriving[0], arriving[1])
    states, numbers, edges = totals.argmin(0).int(), torch.arange(rows, dtype=torch.int32), edges.int()
    taken = torch.empty(cols, rows, dtype=torch.int32)  # edges, as 2 · state + parity
    everywhere = choices.view(cols, -1)
    for column in range(cols - 1, -1, -1):
        came = everywhere[column].index_select(0, states * rows + numbers)
        taken[column] = edges.index_select(0, came * automaton.num_states + states)
        states = taken[column] >> 1
    columns = torch.arange(cols, dtype=torch.int32)[:, None]
    index = (((taken & 1) * cols + columns) * 2 + ((taken >> 1) & 1)) * rows + numbers
    path = (places.view(-1).index_select(0, index.view(-1)) % prices.num_magnitudes).short().view(cols, rows).T
    return torch.where(targets < 0, -path, path)


def quantizers_along(symbols: Integer[Tensor, "rows cols"], automaton: Machine) -> Integer[Tensor, "rows cols"]:
    """The quantizer (uint8) of each entry, found by following the parities of the integers from state 0."""
    states, successors = torch.zeros(len(symbols), dtype=torch.int32), automaton.successors.int().view(-1)
    by_column = (symbols.T & 1).to(torch.uint8, memory_format=torch.contiguous_format)
    for parities in by_column:
        quantizers = (states & 1).byte()
        states = successors.index_select(0, 2 * states + parities)
        parities.copy_(quantizers)
    return by_column.T
