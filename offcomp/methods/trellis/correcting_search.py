"""A Viterbi search in which every path carries its own errors and adjusts later targets to compensate for them.

With H⁻¹ = UᵀU, the target of a later column t is lowered by U_it / U_ii times the error of column i, which is its target minus
ŵ_i (`codebook.gptq`). The error of column t after all corrections costs (target - ŵ_t)² / U_tt². If steps are proportional to
U_tt, a squared step costs the same in every column. A search over all columns would have to store the errors of every path, so
only the best path is kept after each block of BLOCK columns, and its errors adjust the targets of all later columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from offcomp.methods.trellis.machine import Prices, best_magnitudes

BLOCK = 64
ROWS_AT_ONCE = 512


class Found(NamedTuple):
    """Integers (int16) and the values that they decode to, both (rows, cols)."""

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
        paths = _Paths(prices, states, block.stop - first)
        pulls = pull[block, block].T.contiguous()
        for column in range(first, block.stop):
            paths.extend(rest[column], pulls[column - first], float(steps[column]), by_column[column])
        states, symbols[block], decoded[block], errors = paths.best()
        rest[block.stop :] -= pull[block, block.stop :].T @ errors
    return Found(symbols.T, decoded.T)


class _Paths:
    """The best path to each state for each row, over some columns. "Path" p stands for state p // rows and row p % rows.

    totals      (paths,): cost of the path
    errors      (paths, columns): its errors, each target minus ŵ; 0 for columns that are still to come
    places      (columns, paths) int32: for each column, the last integer of each path, as an index in `Prices.flat_values`
    decoded     (columns, paths): the values that these integers decode to
    before      (columns, paths) int32: for each column, the path that each path continues
    """

    def __init__(self, prices: Prices, states: Integer[Tensor, " rows"], num_columns: int) -> None:
        automaton, num_rows = prices.machine, len(states)
        shape = num_columns, automaton.num_states * num_rows
        self.prices, self.num_rows, self.length = prices, num_rows, 0
        self.totals = torch.full((automaton.num_states, num_rows), torch.inf).scatter_(0, states[None], 0.0)
        self.errors, self.decoded = torch.zeros(shape[::-1]), torch.empty(shape)
        self.places, self.before = torch.empty(shape, dtype=torch.int32), torch.empty(shape, dtype=torch.int32)
        self.quantizers = (torch.arange(automaton.num_states, dtype=torch.int32) & 1)[:, None]
        self.parities = torch.arange(2, dtype=torch.int32)[:, None, None]
        sources, parities = automaton.edges // 2, automaton.edges % 2
        self.edges = (parities * automaton.num_states + sources).reshape(-1)
        rows = torch.arange(num_rows)
        starts = sources[..., None] * num_rows + rows, self.edges.view(2, -1, 1) * num_rows + rows
        self.first = [start[0].int().view(-1) for start in starts]
        self.step_to_second = [(start[1] - start[0]).int().view(-1) for start in starts]

    def extend(self, weights: Tensor, pull: Tensor, step: float, contexts: Tensor) -> None:
        """Add a column with these weights (rows,) and contexts (rows,).

        The errors of earlier columns, multiplied by `pull` (columns,), are subtracted from the weights.
        """
        now, shape = self.length, self.totals.shape
        targets = (weights - (self.errors @ pull).view(shape)).div_(step)
        costs, places = best_magnitudes(targets.abs(), contexts, self.prices, self.quantizers, self.parities)
        arriving = costs.add_(self.totals).view(-1, self.num_rows).index_select(0, self.edges).view(2, *shape)
        takes_second = (arriving[1] < arriving[0]).view(-1).int()
        self.totals = torch.minimum(arriving[0], arriving[1])
        before, edge = (
            torch.addcmul(first, takes_second, change) for first, change in zip(self.first, self.step_to_second, strict=True)
        )
        target = targets.view(-1).index_select(0, before)
        torch.index_select(places.view(-1), 0, edge, out=self.places[now])
        value = torch.copysign(self.prices.flat_values.index_select(0, self.places[now]), target)
        torch.mul(value, step, out=self.decoded[now])
        self.before[now] = before
        self.errors = self.errors.index_select(0, before)
        self.errors[:, now] = (target - value).mul_(step)
        self.length += 1

    def best(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The last state (rows,) of the cheapest path of each row, and its integers, values and errors (columns, rows)."""
        last = self.totals.argmin(0)
        path = end = last * self.num_rows + torch.arange(self.num_rows)
        places = torch.empty(self.length, self.num_rows, dtype=torch.int32)
        decoded = torch.empty(self.length, self.num_rows)
        for column in range(self.length - 1, -1, -1):
            places[column] = self.places[column].index_select(0, path)
            decoded[column] = self.decoded[column].index_select(0, path)
            path = self.before[column].index_select(0, path)
        magnitudes = (places % self.prices.num_magnitudes).short()
        return last, torch.where(decoded < 0, -magnitudes, magnitudes), decoded, self.errors.index_select(0, end).T
