"""Quantize a matrix, with or without a low-rank part and calibration text, and decode the stored tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.methods.quantization.feedback import Members
from offcomp.methods.quantization.low_rank import Metrics, product, stored_factors
from offcomp.methods.quantization.method import LAYOUT_BITS, ROUNDS, Quantization
from offcomp.methods.quantization.rounding import Grid, grid_of
from offcomp.numerics.accounting import Budget, code_counts
from offcomp.numerics.bits import pack_bits, unpack_bits
from offcomp.numerics.grids import symmetric_lowest
from offcomp.numerics.progress import Report, ignore_progress
from offcomp.numerics.storage import pack, unpack


class Rounding(Protocol):
    """A way to round a matrix (rows, cols) to a few bits: `Plain`, or `feedback.Members`."""

    @property
    def target(self) -> Float[Tensor, "rows cols"]:
        """The matrix that the rounded matrix and the low-rank part approximate together."""

    @property
    def metrics(self) -> Metrics:
        """The metrics under which the approximation error is measured."""

    def rounded(self, rest: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """Round the target minus a low-rank part."""

    def finished(self, low_rank: Float[Tensor, "rows cols"] | None, report: Report) -> tuple[Grid, UInt8[Tensor, "rows cols"]]:
        """The grid and the codes to store, given the low-rank part."""


class Plain:
    """Rounds every entry to the nearest level."""

    metrics: Metrics = (None, None)

    def __init__(self, method: Quantization, entries: Float[Tensor, "rows cols"], bits: int) -> None:
        self.method, self.target, self.bits = method, entries, bits

    def rounded(self, rest: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """See `Rounding`."""
        grid, codes = self._grid_and_codes(rest, ignore_progress)
        return grid.levels(codes)

    def finished(self, low_rank: Float[Tensor, "rows cols"] | None, report: Report) -> tuple[Grid, UInt8[Tensor, "rows cols"]]:
        """See `Rounding`."""
        return self._grid_and_codes(self.target if low_rank is None else self.target - low_rank, report)

    def _grid_and_codes(self, rest: Tensor, report: Report) -> tuple[Grid, Tensor]:
        grid = grid_of(self.method, rest, self.bits, report)
        return grid, grid.codes(rest, self.bits)


def fit(
    method: Quantization, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Round to `size` bits. The method is deterministic, so the seed is not used."""
    rows, cols = matrix.shape
    entries, shapes = matrix.float(), method.tensor_shapes(rows, cols, size)
    rounding: Rounding = Plain(method, entries, size)
    if method.feedback and hints is not None and not all(hints.embeddings):
        rounding = Members(method, entries, size, hints)
    share = 0.6 if method.rank else 0.0
    factors, low_rank = _low_rank(method, rounding, budget.dtype, lambda done: report(share * done))
    grid, codes = rounding.finished(low_rank, lambda done: report(share + (0.8 - share) * done))
    layout = pack_bits(torch.tensor([cols, size, grid.width]), LAYOUT_BITS)
    one_per_row = grid.scales.shape[1] == 1
    scales, lowest = (part[:, 0] if one_per_row else part for part in (grid.scales, grid.lowest))
    tensors = {"codes": pack_bits(codes.flatten(), size), "scales": scales, "zeros": lowest, "about": layout} | factors
    stored = pack({name: tensors[name] for name in shapes}, budget.dtype)
    return CompressedMatrix(stored, grid_levels, size, codes=code_counts(shapes))


def _low_rank(
    method: Quantization, rounding: Rounding, dtype: str, report: Report
) -> tuple[dict[str, Tensor], Float[Tensor, "rows cols"] | None]:
    """Alternately fit the low-rank part and round the rest. Returns the stored factors and their product, if any."""
    if not method.rank:
        return {}, None
    rest, (rows, cols) = rounding.target, rounding.target.shape
    rank = method.rank_of(rows, cols)
    for number in range(ROUNDS):
        if number:
            rest = rounding.target - rounding.rounded(rest)
        factors = stored_factors(rest, rank, rounding.metrics, dtype)
        rest = rounding.target - product(unpack(factors), rows, cols).to(rest.device)
        report((number + 1) / ROUNDS)
    return factors, product(unpack(factors), rows, cols).to(rest.device)


def grid_levels(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: convert each code to its level on the grid of its block, and add the low-rank part."""
    cols, bits, width = unpack_bits(tensors["about"], LAYOUT_BITS, 3).tolist()
    scales = tensors["scales"].reshape(len(tensors["scales"]), -1)
    lowest = tensors["zeros"].reshape(scales.shape) if "zeros" in tensors else symmetric_lowest(scales, bits)
    codes = unpack_bits(tensors["codes"], bits, len(scales) * cols)
    matrix = Grid(scales, lowest, width).levels(codes.reshape(-1, cols))
    return matrix.add_(product(tensors, len(scales), cols)) if "factors" in tensors else matrix
