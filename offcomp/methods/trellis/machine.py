"""Trellis-coded quantization: the integers of a row drive a state machine, and the state selects one of two quantizers.

Two quantizers cover the line, each with steps of 2 (in units of the step size):

    q = 0       0, ±2, ±4, ...      value 2k for the integer k
    q = 1       0, ±1, ±3, ...      value 2k - sign(k)

The lowest bit of the state selects the quantizer, and the parity of k selects the next state. Together, the paths through the
machine form a dense packing of many dimensions, although each entry is coded at the rate of a quantizer with steps of 2. The
Viterbi algorithm finds the path with the lowest cost, the squared error plus a price per bit.

The machines are the rate-1/2 codes of Ungerboeck (1982, table I); the union of quantizers is that of JPEG 2000 part 2 and
of dependent quantization in VVC (Schwarz et al. 2019). See Marcellin and Fischer, "Trellis coded quantization of memoryless and
Gauss-Markov sources", 1990, and Fischer and Wang, "Entropy-constrained trellis-coded quantization", 1992.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Integer
from torch import Tensor

PARITY_CHECKS = {4: (0o5, 0o2), 8: (0o13, 0o04), 16: (0o23, 0o04), 32: (0o45, 0o10), 64: (0o103, 0o024)}
"""Number of states -> (h0, h1), the parity-check polynomials of the code in octal notation."""


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
    """The absolute value that a magnitude |k| represents on the grid of its quantizer, in steps."""
    return (2 * magnitudes - quantizers).clamp_min(0)


@dataclass(frozen=True)
class Prices:
    """The cost and the value of each magnitude in a given state machine.

    machine     the state machine
    bits        (contexts, 2, magnitudes): code length of an integer, with its sign, by context and quantizer
    values      (2, magnitudes): the absolute value that it represents, in steps, by quantizer
    per_bit     cost of one bit, in squared steps
    """

    machine: Machine
    bits: Float[Tensor, "contexts two magnitudes"]
    values: Float[Tensor, "two magnitudes"]
    per_bit: float


def best_magnitudes(
    targets: Float[Tensor, "*shape"],
    rows_of_bits: Integer[Tensor, "*shape"],
    prices: Prices,
    quantizer: int,
    parity: int,
) -> tuple[Float[Tensor, "*shape"], Integer[Tensor, "*shape"]]:
    """The cheapest magnitude of one parity in one quantizer for each target |x|, in steps, and its cost.

    Compares the nearest magnitude of that parity, the next smaller one, and the smallest. `rows_of_bits` is
    2 · context + quantizer.
    """
    largest = prices.values.shape[1] - 1
    largest -= (largest - parity) % 2
    nearest = ((targets + quantizer).mul_(0.25).sub_(0.5 * parity)).round_().mul_(2).add_(parity).clamp_(parity, largest)
    values, bits = prices.values[quantizer], prices.bits.reshape(-1)
    first = rows_of_bits * prices.values.shape[1]

    def cost(magnitudes: Tensor) -> Tensor:
        distance = targets - values[magnitudes]
        return distance.square_().add_(bits[first + magnitudes], alpha=prices.per_bit)

    best = nearest.int()
    lowest = cost(best)
    for other in ((best - 2).clamp_min_(parity), torch.full_like(best, parity)):
        there = cost(other)
        better = there < lowest
        lowest, best = torch.where(better, there, lowest), torch.where(better, other, best)
    return lowest, best


def shortest_path(
    targets: Float[Tensor, "rows cols"], contexts: Integer[Tensor, "rows cols"], prices: Prices
) -> Integer[Tensor, "rows cols"]:
    """The integers (int16) with the lowest total cost for each row of targets, in steps. Every row starts in state 0."""
    automaton, (rows, cols) = prices.machine, targets.shape
    sizes, by_column = targets.abs().T.contiguous(), contexts.T.int().contiguous()
    found = [best_magnitudes(sizes, 2 * by_column + q, prices, q, p) for q in (0, 1) for p in (0, 1)]
    costs = torch.stack([cost for cost, _ in found], 1)  # (cols, 4, rows)
    magnitudes = torch.stack([best.short() for _, best in found], 1)
    edges = automaton.edges.reshape(-1)
    sources, kinds = edges // 2, 2 * (edges // 2 & 1) + edges % 2
    totals = torch.full((automaton.num_states, rows), torch.inf)
    totals[0] = 0.0
    choices = torch.empty(cols, automaton.num_states, rows, dtype=torch.bool)
    for column in range(cols):
        arriving = totals[sources].add_(costs[column][kinds]).reshape(2, -1, rows)
        torch.lt(arriving[1], arriving[0], out=choices[column])
        totals = torch.minimum(arriving[0], arriving[1])
    states = totals.argmin(0)
    path = torch.empty(cols, rows, dtype=torch.int16)
    for column in range(cols - 1, -1, -1):
        which = choices[column].gather(0, states[None])[0].long()
        edge = automaton.edges[which, states]
        states = edge // 2
        path[column] = magnitudes[column].gather(0, (2 * (states & 1) + edge % 2)[None])[0]
    return torch.where(targets < 0, -path.T, path.T)


def quantizers_along(symbols: Integer[Tensor, "rows cols"], automaton: Machine) -> Integer[Tensor, "rows cols"]:
    """The quantizer (uint8) of each entry, found by following the parities of the integers from state 0."""
    states = torch.zeros(len(symbols), dtype=torch.int64)
    by_column = (symbols.T & 1).long()
    found = torch.empty(by_column.shape, dtype=torch.uint8)
    for column, parities in enumerate(by_column):
        found[column] = states & 1
        states = automaton.successors[states, parities]
    return found.T
