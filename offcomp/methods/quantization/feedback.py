"""Round with error feedback, one member of a group at a time.

    minimise ‖(W* - A B - Q) H^½‖ over a quantized Q and a low-rank A B,     H = E x'x'ᵀ

x' is an input of a member in the model with the earlier members already rounded, and W* the matrix that best reproduces the
outputs of the original model from x' (`numerics.changed_inputs`), or W itself. Inputs are processed one at a time: the weights
of an input are rounded to a grid that is found beforehand, and the weights of later inputs compensate for the errors (`gptq`).

For the alternating fits of the integers and the low-rank part, inputs are measured with all earlier groups already rounded, but
no member of this group. The members share the low-rank factors, which are fitted to the stacked matrix under the metrics of
`svd.group_metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from offcomp.errors import InputError
from offcomp.methods.base import Hints
from offcomp.methods.codebook.gptq import damped_order_and_factor, round_with_feedback
from offcomp.methods.quantization.low_rank import Metrics
from offcomp.methods.quantization.method import Quantization
from offcomp.methods.quantization.rounding import Grid, grid_of
from offcomp.methods.svd.group_metrics import group_metrics
from offcomp.numerics.changed_inputs import weight_for_changed_inputs
from offcomp.numerics.grids import nearest_codes
from offcomp.numerics.progress import Report, ignore_progress


@dataclass(frozen=True)
class Member:
    """A member of a stacked matrix.

    target      (rows, cols): W*, oriented as in the stack
    transposed  whether the rows of the member in the stack are inputs
    ordered     order and factor U of its inputs (`gptq`); None for an embedding, whose errors are not compensated
    """

    target: Tensor
    transposed: bool
    ordered: tuple[Tensor, Tensor] | None

    def rounded(
        self, rest: Float[Tensor, "rows cols"], grid: Grid, bits: int
    ) -> tuple[UInt8[Tensor, "rows cols"], Float[Tensor, "rows cols"]]:
        """Codes and levels for the target minus a low-rank part."""
        if self.ordered is None:
            codes = grid.codes(rest, bits)
            return codes, grid.levels(codes)
        order, factor = self.ordered
        by_input = rest if self.transposed else rest.T.contiguous()  # (inputs, outputs)
        codes = torch.empty(by_input.shape, dtype=torch.uint8)

        def rounding(inputs: Tensor, weights: Tensor, corner: Tensor) -> Tensor:
            del corner  # a scalar, since there is one input per step
            index = int(inputs[0])
            scales, lowest = grid.of_row(index, rest.shape[1]) if self.transposed else grid.of_column(index)
            nearest = nearest_codes(weights.T, scales, lowest, bits)[:, 0]
            codes[index] = nearest.cpu()
            return torch.addcmul(lowest, nearest, scales)[None]

        levels = round_with_feedback(by_input, order.to(rest.device), factor, 1, rounding)
        return (codes, levels) if self.transposed else (codes.T, levels.T)


class Members:
    """Rounds the members of a stacked matrix `exact` (rows, cols) with error feedback; see `fit.Rounding`."""

    def __init__(self, method: Quantization, exact: Float[Tensor, "rows cols"], bits: int, hints: Hints) -> None:
        self.method, self.exact, self.bits, self.hints = method, exact, bits, hints
        ends = list(accumulate(hints.heights))
        self._rows = [slice(end - height, end) for end, height in zip(ends, hints.heights, strict=True)]
        hints.use_compressed_predecessors(keep_original=method.toward_original)

    @cached_property
    def metrics(self) -> Metrics:
        """The metrics under which the low-rank part is fitted, damped as for feedback."""
        shrinkage = self.method.damping / (1 + self.method.damping)
        return group_metrics(self.hints, ("none", "full"), shrinkage, self.exact.device)

    @cached_property
    def members(self) -> list[Member]:
        """All members, measured before any of them is rounded."""
        return [self._member(index) for index in range(len(self._rows))]

    @cached_property
    def target(self) -> Float[Tensor, "rows cols"]:
        """The targets of all members."""
        return torch.cat([member.target for member in self.members])

    def rounded(self, rest: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
        """Round the target minus a low-rank part, with no member affecting another."""
        parts = zip(self.members, rest.split(list(self.hints.heights)), strict=True)
        return torch.cat([member.rounded(part, self._grid(part), self.bits)[1] for member, part in parts])

    def finished(self, low_rank: Float[Tensor, "rows cols"] | None, report: Report) -> tuple[Grid, UInt8[Tensor, "rows cols"]]:
        """Round the members one by one, measuring each with the earlier ones in place."""
        grids: dict[int, Grid] = {}
        codes = torch.empty(self.exact.shape, dtype=torch.uint8)
        for number, index in enumerate(self.hints.order, 1):
            rows, member = self._rows[index], self._member(index)
            rest = member.target if low_rank is None else member.target - low_rank[rows]
            grids[index] = self._grid(rest)
            codes[rows], levels = member.rounded(rest, grids[index], self.bits)
            if number < len(self._rows):
                self.hints.substitute(index, levels if low_rank is None else levels + low_rank[rows])
            report(number / len(self._rows))
        ordered = [grids[index] for index in range(len(grids))]
        scales, lowest = (torch.cat([getattr(grid, name) for grid in ordered]) for name in ("scales", "lowest"))
        return Grid(scales, lowest, ordered[0].width), codes

    def _grid(self, rest: Float[Tensor, "rows cols"]) -> Grid:
        return grid_of(self.method, rest, self.bits, ignore_progress)

    def _member(self, index: int) -> Member:
        """A member, measured on the model with all substitutions so far."""
        matrix, transposed = self.exact[self._rows[index]], self.hints.transposed[index]
        if self.hints.embeddings[index]:
            return Member(matrix, transposed, None)
        statistics = self.hints.statistics(index)
        moment, cross = statistics.column_moment, None
        if moment is None:
            raise InputError(
                "the hints have no column moment statistics, which feedback needs; provide calibration text or disable feedback"
            )
        if self.method.toward_original:
            cross = statistics.cross_moment
        target = matrix if cross is None else _target(matrix, moment.double(), cross.double(), transposed)
        order, factor = damped_order_and_factor(moment.double(), self.method.damping, 1)
        return Member(target, transposed, (order, factor.float()))


def _target(matrix: Tensor, moment: Tensor, cross: Tensor, transposed: bool) -> Float[Tensor, "rows cols"]:
    """W*, oriented as in the stack."""
    upright = matrix.T if transposed else matrix
    found = weight_for_changed_inputs(upright.to(moment), moment, cross).to(matrix)
    return found.T.contiguous() if transposed else found
