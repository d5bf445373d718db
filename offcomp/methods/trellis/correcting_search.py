"""A Viterbi search in which every path carries its own errors and adjusts later targets to compensate for them.

With H⁻¹ = UᵀU, the error (w_i - ŵ_i) of column i moves the target of a later column t by U_it / U_ii times that error
(`codebook.gptq`), and the error of column t after all corrections costs (target - ŵ)² / U_tt². If steps are proportional to
U_tt, a squared step costs the same in every column. A search over all columns would have to store the errors of every path, so
only the best path is kept after each block of BLOCK columns, and its errors adjust the targets of all later columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from offcomp.methods.trellis.machine import Machine, Prices, best_magnitudes

BLOCK = 64
ROWS_AT_ONCE = 512


class Found(NamedTuple):
    """Integers (int16) and what they decode to (rows, cols)."""

    symbols: Tensor
    decoded: Tensor


def correcting_search(
    weights: Float[Tensor, "rows cols"],
    factor: Float[Tensor, "cols cols"],
    steps: Float[Tensor, " cols"],
    contexts: Integer[Tensor, "rows cols"],
    prices: Prices,
) -> Found:
    """Integers for each row of weights, given the factor U and the step of each column, all in coding order."""
    pull = factor / factor.diagonal()[:, None]
    parts = [
        _search(rows, pull, steps, classes, prices)
        for rows, classes in zip(weights.split(ROWS_AT_ONCE), contexts.split(ROWS_AT_ONCE), strict=True)
    ]
    return Found(torch.cat([part.symbols for part in parts]), torch.cat([part.decoded for part in parts]))


def _search(weights: Tensor, pull: Tensor, steps: Tensor, contexts: Tensor, prices: Prices) -> Found:
    rest, by_column = weights.T.contiguous(), contexts.T.int().contiguous()
    cols, rows = rest.shape
    states = torch.zeros(rows, dtype=torch.int64)
    symbols, decoded = torch.empty(cols, rows, dtype=torch.int16), torch.empty(cols, rows)
    for first in range(0, cols, BLOCK):
        block = slice(first, min(first + BLOCK, cols))
        paths = _Paths(prices.machine, states, block.stop - first)
        for column in range(first, block.stop):
            paths.extend(rest[column], pull[block, column], steps[column], by_column[column], prices)
        states, symbols[block], decoded[block], errors = paths.best()
        rest[block.stop :] -= pull[block, block.stop :].T @ errors
    return Found(symbols.T, decoded.T)


class _Paths:
    """The best path to each state for each row, over some columns.

    totals      (states, rows): cost of the path
    errors      (columns, states, rows): its errors w - ŵ
    symbols     (columns, states, rows) int16: the last integer at each column; `second`: whether the path took the second edge
    """

    def __init__(self, automaton: Machine, states: Integer[Tensor, " rows"], num_columns: int) -> None:
        shape = (num_columns, automaton.num_states, len(states))
        self.totals = torch.full(shape[1:], torch.inf).scatter_(0, states[None], 0.0)
        self.errors, self.values = torch.zeros(shape), torch.empty(shape)
        self.symbols, self.second = torch.empty(shape, dtype=torch.int16), torch.empty(shape, dtype=torch.bool)
        self.sources, self.parities = automaton.edges // 2, automaton.edges % 2
        self.quantizers = (torch.arange(automaton.num_states) & 1)[:, None]
        self.length = 0

    def extend(self, weights: Tensor, pull: Tensor, step: Tensor, contexts: Tensor, prices: Prices) -> None:
        """Add a column: weights (rows,), corrections (columns,) by the errors of earlier columns, and contexts (rows,)."""
        done, now = slice(0, self.length), self.length
        moved = torch.einsum("csr,c->sr", self.errors[done], pull[done]) if now else torch.zeros_like(self.totals)
        targets = (weights - moved) / step  # (states, rows)
        costs, magnitudes = self._choices(targets.abs(), 2 * contexts[None], prices)
        arriving = [
            self.totals[source] + costs[parity, source] for source, parity in zip(self.sources, self.parities, strict=True)
        ]
        self.second[now] = arriving[1] < arriving[0]
        self.totals = torch.minimum(*arriving)

        def chosen(tensor: Tensor) -> Tensor:
            return torch.where(self.second[now], tensor[..., self.sources[1], :], tensor[..., self.sources[0], :])

        reached = [magnitudes[parity, source] for source, parity in zip(self.sources, self.parities, strict=True)]
        magnitude, target = torch.where(self.second[now], reached[1], reached[0]), chosen(targets)
        value = prices.values.reshape(-1)[chosen(self.quantizers.expand_as(targets)) * prices.values.shape[1] + magnitude]
        value = torch.where(target < 0, -value, value)
        self.symbols[now] = torch.where(target < 0, -magnitude, magnitude)
        self.values[now] = value * step
        self.errors[done] = chosen(self.errors[done])
        self.errors[now] = (target - value) * step
        self.length += 1

    def _choices(self, sizes: Tensor, tables: Tensor, prices: Prices) -> tuple[Tensor, Tensor]:
        """Cost and magnitude (parities, states, rows) of the cheapest integer of each parity in each state."""
        costs = sizes.new_empty(2, *sizes.shape)
        magnitudes = torch.empty(costs.shape, dtype=torch.int32)
        for parity in (0, 1):
            for quantizer in (0, 1):
                own = slice(quantizer, None, 2)  # the lowest bit of a state is its quantizer
                numbers = (tables + quantizer).expand_as(sizes[own])
                costs[parity, own], magnitudes[parity, own] = best_magnitudes(sizes[own], numbers, prices, quantizer, parity)
        return costs, magnitudes

    def best(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The last state (rows,) of the cheapest path of each row, and its integers, values and errors (columns, rows)."""
        last = state = self.totals.argmin(0)
        symbols, values = torch.empty_like(self.symbols[:, 0]), torch.empty_like(self.values[:, 0])
        for column in range(self.length - 1, -1, -1):
            symbols[column] = self.symbols[column].gather(0, state[None])[0]
            values[column] = self.values[column].gather(0, state[None])[0]
            came = self.second[column].gather(0, state[None])[0]
            state = torch.where(came, self.sources[1][state], self.sources[0][state])
        errors = self.errors.gather(1, last.expand(len(self.errors), 1, -1))[:, 0]
        return last, symbols, values, errors
