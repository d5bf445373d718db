"""Choose integers using calibration text, one member at a time, to match the outputs of the original model.

Let x be an input of a member in the original model, x' its input in the model with the earlier members already coded,
H = E x'x'ᵀ and C = E x x'ᵀ. The member is coded to minimise E ‖Wx - Ŵx'‖², regularised towards W:

    target           W* = (W C + λI W) (H + λI)⁻¹                  λ = 0.3 · mean diagonal of H
    factor           (H / level + damping I)⁻¹ = UᵀU, columns in coding order
    column steps     Δ_j = f · rms(W*) · U_jj / (geometric mean of U), so that a squared step costs the same in every column
    order            decreasing H_jj when computing the steps; then by the stored step exponents, which the decoder knows

Here, level is the mean diagonal of H, and f is chosen so that the code has the required length.

The columns are then coded one by one as in GPTQ, with errors carried by each path (`correcting_search`). All members get the
same number of bits per entry; bits that one member does not use go to those that follow, and the last one fills the budget.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from offcomp.errors import InputError
from offcomp.methods.base import Hints
from offcomp.methods.codebook.gptq import damped_factor, damped_order_and_factor
from offcomp.methods.trellis.correcting_search import correcting_search
from offcomp.methods.trellis.entropy import EXPONENT_RANGE, Integers, exponents
from offcomp.methods.trellis.latents import STEPS_PER_OCTAVE, Block, Latents, coding_order, decoded_block, relative_steps
from offcomp.methods.trellis.machine import quantizers_along
from offcomp.methods.trellis.method import TrellisAutoencoder
from offcomp.methods.trellis.plain import EXPONENT_BITS, Plain, far_out, row_and_column_sizes
from offcomp.methods.trellis.rate import fill
from offcomp.methods.trellis.symbols import Coded, SymbolModel
from offcomp.numerics.changed_inputs import weight_for_changed_inputs
from offcomp.numerics.progress import Report

LAST_ATTEMPTS = 4
CHEAP_ATTEMPTS = 6
SAMPLE_ENTRIES = 1 << 15
"""Number of entries from which the step of a member is estimated."""
SAMPLE_TOLERANCE = 0.01
PRICED_ENTRIES = 1 << 17
"""Number of entries from which the prices at the estimated step are learned."""
WIDER = 1.5
"""Factor by which targets may grow when compensating for errors; larger targets get the largest integer."""
OUTLIER_BITS = 48
"""Approximate bits for the value and the position of an outlier."""


def code_with_feedback(
    method: TrellisAutoencoder, exact: Float[Tensor, "rows cols"], limit: int, hints: Hints, report: Report
) -> NDArray[np.uint8] | None:
    """The longest code of at most `limit` bytes for a stacked matrix, or None if no code fits."""
    hints.use_compressed_predecessors(keep_original=method.toward_original)
    plain = Plain(exact, method.num_states)
    plain.step_at(limit)
    ends = list(accumulate(hints.heights))
    rows = [slice(end - height, end) for end, height in zip(ends, hints.heights, strict=True)]
    coder = _Coder(plain.model, len(hints.heights), limit, exact.numel())
    outliers = torch.zeros_like(exact)
    for number, index in enumerate(hints.order, 1):
        member = _member(method, exact[rows[index]], hints, index)
        outliers[rows[index]] = member.upright(member.outliers)
        if number == len(hints.order):
            return coder.filled(index, member, outliers)
        decoded = coder.add(index, member)
        hints.substitute(index, member.upright(torch.where(member.outliers != 0, member.outliers, decoded)))
        report(number / len(hints.order))
    return None


@dataclass(frozen=True)
class _Member:
    """A member (rows, cols) in its canonical view, ready to be coded.

    targets             (rows, cols): W* without outliers, in multiples of the relative step of each column
    outliers            (rows, cols): the outliers of W*, zero elsewhere
    factor              U in coding order; None if errors are not compensated
    step_exponents      (cols,): e_j
    transposed          whether the member is transposed in the stack
    """

    targets: Tensor
    outliers: Tensor
    factor: Tensor | None
    step_exponents: Integers
    transposed: bool

    def frame(self, step: float) -> Block:
        """The block of this member if coded with this step, without its integers."""
        down, across = row_and_column_sizes(self.targets)
        empty = np.zeros((0, 0), np.int16)
        return Block(empty, exponents(down / step), exponents(across), step, self.step_exponents, self.transposed)

    def upright(self, matrix: Tensor) -> Tensor:
        """Convert a matrix from the canonical view to its orientation in the stack."""
        return matrix.T if self.transposed else matrix

    @property
    def side_bytes(self) -> float:
        """Approximate bytes for exponents and outliers."""
        rows, cols = self.targets.shape
        return (EXPONENT_BITS * (rows + 2 * cols) + OUTLIER_BITS * int(self.outliers.count_nonzero())) / 8


def _member(method: TrellisAutoencoder, stacked: Tensor, hints: Hints, index: int) -> _Member:
    """Compute the targets, the coding order and the steps of a member from its statistics."""
    transposed = hints.transposed[index]
    matrix, factor = (stacked.T if transposed else stacked).double(), None
    step_exponents = np.zeros(matrix.shape[1], np.int64)
    if not hints.embeddings[index]:
        statistics = hints.statistics(index)
        moment = statistics.column_moment
        if moment is None:
            raise InputError(
                "the hints have no column moment statistics, which feedback needs; provide calibration text or disable feedback"
            )
        moment = moment.double().cpu()
        if method.toward_original and statistics.cross_moment is not None:
            matrix = weight_for_changed_inputs(matrix, moment, statistics.cross_moment.cpu())
        if method.column_steps:
            step_exponents = _step_exponents(*damped_order_and_factor(moment, method.damping, 1))
        factor = damped_factor(moment, torch.from_numpy(coding_order(step_exponents)), method.damping).float()
    large = far_out(matrix, method.outliers)
    outliers = torch.where(large, matrix, 0.0).float()
    targets = (matrix.masked_fill(large, 0.0) / torch.from_numpy(relative_steps(step_exponents))).float()
    return _Member(targets, outliers, factor, step_exponents, transposed)


def _step_exponents(order: Tensor, factor: Float64[Tensor, "cols cols"]) -> Integers:
    """e_j such that 2^(e_j / 16) is about U_jj relative to the geometric mean, for each column in natural order."""
    logarithms = factor.diagonal().log2()
    rounded = ((logarithms - logarithms.mean()) * STEPS_PER_OCTAVE).round().clamp(-EXPONENT_RANGE, EXPONENT_RANGE)
    found = torch.empty(len(order), dtype=torch.int64)
    found[order] = rounded.long()
    return found.numpy()


class _Coder:
    """Codes members one at a time and keeps track of the remaining bytes."""

    def __init__(self, model: SymbolModel, num_members: int, limit: int, num_entries: int) -> None:
        self.model = model
        self.blocks: list[Block | None] = [None] * num_members
        self.limit = limit
        self.bytes_left = float(limit)
        self.entries_left = num_entries
        self.relative_step = 2.0  # the previous member's step relative to its root mean square, extrapolated to 0 bits
        self.growth = 1.0  # length of a code with feedback as a multiple of its length without feedback

    def add(self, index: int, member: _Member) -> Float[Tensor, "rows cols"]:
        """Code a member with its share of the bytes; returns the decoded matrix, with its columns in natural order."""
        entries = member.targets.numel()
        share = self.bytes_left * entries / self.entries_left
        step, model = self._step(member, (share - member.side_bytes) / self.growth)
        block, coded, decoded = self._coded(member, step, model)
        used = model.learned([coded]).num_bits() / 8
        self.growth *= min(max(used / max(share - member.side_bytes, 1.0), 0.5), 2.0)
        self.blocks[index] = block
        self.bytes_left = max(self.bytes_left - used - member.side_bytes, 0.0)
        self.entries_left -= entries
        return decoded

    def filled(self, index: int, member: _Member, outliers: Float[Tensor, "rows cols"]) -> NDArray[np.uint8] | None:
        """Code the last member so that the whole code fills the limit."""
        step, model = self._step(member, (self.bytes_left - member.side_bytes) / self.growth)
        positions = outliers.reshape(-1).nonzero()[:, 0]
        values = positions.numpy(), outliers.reshape(-1)[positions].numpy()

        def attempt(step: float) -> tuple[float, NDArray[np.uint8]]:
            self.blocks[index] = self._coded(member, step, model)[0]
            content = Latents(
                [block for block in self.blocks if block], self.model.values, self.model.num_states, values
            ).to_bytes()
            return len(content), content

        found = fill(attempt, step, self.limit, member.targets.numel(), attempts=LAST_ATTEMPTS)
        return found[1] if found else None

    def _step(self, member: _Member, limit: float) -> tuple[float, SymbolModel]:
        """The step at which a code without feedback takes about `limit` bytes, and the model learned at that step."""
        entries = member.targets.numel()

        def attempt(step: float, most: int = SAMPLE_ENTRIES) -> tuple[float, SymbolModel]:
            frame = member.frame(step)
            sample = slice(None, None, max(1, entries // most))
            targets = member.targets[sample]
            initial = replace(SymbolModel.initial(self.model.num_states), values=self.model.values)
            model = initial.refined(targets[:, frame.order] / step, frame.contexts[sample], values=False)
            return model.num_bits() / 8 * entries / targets.numel(), model

        spread, bits = max(float(member.targets.square().mean().sqrt()), 1e-30), 8 * limit / entries
        start = spread * self.relative_step * 2**-bits
        step = (
            fill(attempt, start, max(limit, 1.0), entries, attempts=CHEAP_ATTEMPTS, tolerance=SAMPLE_TOLERANCE) or (start,)
        )[0]
        self.relative_step = step / spread * 2**bits
        return step, attempt(step, PRICED_ENTRIES)[1]

    def _coded(self, member: _Member, step: float, model: SymbolModel) -> tuple[Block, Coded, Tensor]:
        """Code a member with this step; returns its block, its integers, and the decoded matrix in natural column order."""
        frame = member.frame(step)
        order, contexts = frame.order, frame.contexts
        targets = member.targets[:, order]
        if member.factor is None:
            coded = model.choose(targets / step, contexts)
            block = replace(frame, symbols=coded.symbols.numpy())
            quantizers = quantizers_along(coded.symbols, model.machine).numpy()
            return block, coded, decoded_block(block, block.symbols, quantizers, model.values)
        relative = torch.from_numpy(relative_steps(member.step_exponents)[order])
        prices = model.prices(WIDER * float(targets.abs().max()) / step)
        found = correcting_search(targets * relative, member.factor, step * relative, torch.from_numpy(contexts), prices)
        decoded = torch.empty_like(found.decoded)
        decoded[:, order] = found.decoded
        return replace(frame, symbols=found.symbols.numpy()), Coded(targets / step, contexts, found.symbols), decoded
