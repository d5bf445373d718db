"""Code a matrix without calibration text: every entry has the same step, and the rows may be rotated first."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from offcomp.methods.trellis.entropy import Integers, contexts_of, exponents
from offcomp.methods.trellis.latents import Block, Latents, decode_bytes, orthonormal
from offcomp.methods.trellis.method import FIXED_BYTES, TrellisAutoencoder
from offcomp.methods.trellis.rate import fill
from offcomp.methods.trellis.symbols import SymbolModel
from offcomp.numerics.chunks import float64_chunks
from offcomp.numerics.eigenvectors import eigenvectors
from offcomp.numerics.grams import gram
from offcomp.numerics.progress import Report, ignore_progress

BASIS_BITS = 1.9
"""Bits per entry of a basis."""
BASIS_SHARE = 2.0
"""A matrix is rotated if rotation saves at least this many times the bits of the basis."""
SAMPLE_ENTRIES = 1 << 18
ATTEMPTS = 8
EXPONENT_BITS = 4
"""Approximate bits per exponent."""


def code_of(
    method: TrellisAutoencoder, exact: Float[Tensor, "rows cols"], limit: int, report: Report
) -> NDArray[np.uint8] | None:
    """The longest code of at most `limit` bytes for a matrix as one block, or None if no code fits."""
    basis = coded_basis(method, exact, 8 * limit / exact.numel())
    target = exact @ orthonormal(decode_bytes(basis)) if len(basis) else exact
    large = far_out(target, method.outliers) if not len(basis) else torch.zeros_like(target, dtype=torch.bool)
    positions = large.reshape(-1).nonzero()[:, 0]
    outliers = positions.numpy(), target.reshape(-1)[positions].numpy()
    plain = Plain(target.masked_fill(large, 0.0), method.num_states)

    def attempt(step: float) -> tuple[float, NDArray[np.uint8]]:
        block = plain.block(step)
        content = Latents([block], plain.model.values, method.num_states, outliers, basis).to_bytes()
        report(0.5)
        return len(content), content

    step = plain.step_at(max(limit - len(basis) - 6 * len(positions), 1))
    report(0.3)
    found = fill(attempt, step, limit, exact.numel(), attempts=ATTEMPTS)
    return found[1] if found else None


class Plain:
    """Codes a matrix (rows, cols) without calibration text: every entry has the same step."""

    def __init__(self, matrix: Float[Tensor, "rows cols"], num_states: int) -> None:
        self.matrix = matrix
        self.model = SymbolModel.initial(num_states)
        self.row_sizes, self.column_sizes = row_and_column_sizes(matrix)
        self.sample = slice(None, None, max(1, matrix.numel() // SAMPLE_ENTRIES))

    def exponents(self, step: float) -> tuple[Integers, Integers]:
        """Row and column exponents at this step."""
        return exponents(self.row_sizes / step), exponents(self.column_sizes)

    def step_at(self, limit: float) -> float:
        """From a sample of the rows, estimate the step with which the code takes `limit` bytes, and learn the model."""
        rows, cols = self.matrix.shape
        sample = self.matrix[self.sample]
        share = len(sample) / rows

        def attempt(step: float) -> tuple[float, None]:
            down, across = self.exponents(step)
            contexts = contexts_of(down[self.sample], across)
            self.model = SymbolModel.initial(self.model.num_states).refined(sample / step, contexts)
            side = EXPONENT_BITS * (rows + cols) / 8
            return self.model.num_bits() / 8 / share + side, None

        spread = float(self.matrix.square().mean().sqrt())
        step = max(spread, 1e-30) * 2 ** (1 - 8 * limit / self.matrix.numel())
        return (fill(attempt, step, limit, rows * cols, attempts=ATTEMPTS) or (step, None))[0]

    def block(self, step: float) -> Block:
        """The block of all entries at this step."""
        down, across = self.exponents(step)
        coded = self.model.choose(self.matrix / step, contexts_of(down, across))
        return Block(coded.symbols.numpy(), down, across, step, np.zeros(len(across), np.int64))


def row_and_column_sizes(matrix: Float[Tensor, "rows cols"]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The root mean square of each row, and that of each column relative to the whole matrix."""
    across = torch.zeros(matrix.shape[1], dtype=torch.float64)
    down = []
    for rows in float64_chunks(matrix):
        energy = rows.square()
        down.append(energy.mean(1))
        across += energy.sum(0)
    across /= len(matrix)
    return torch.cat(down).sqrt().numpy(), (across / across.mean().clamp_min(1e-300)).sqrt().numpy()


def far_out(matrix: Float[Tensor, "rows cols"], times: float) -> Bool[Tensor, "rows cols"]:
    """Mask of the entries whose magnitude exceeds `times` the root mean square of their row."""
    return matrix.abs() > times * matrix.square().mean(1, keepdim=True).sqrt()


def coded_basis(method: TrellisAutoencoder, matrix: Float[Tensor, "rows cols"], bits: float) -> NDArray[np.uint8]:
    """The coded eigenvectors of WᵀW, in decreasing order of eigenvalue, or nothing if the matrix is not to be rotated."""
    rows, cols = matrix.shape
    never_pays = rows * bits < BASIS_SHARE * BASIS_BITS * cols  # not even if rotation saved all bits
    if method.rotation == "off" or (method.rotation == "auto" and never_pays):
        return np.zeros(0, np.uint8)
    second = gram(matrix) / rows
    values, vectors = eigenvectors(second)
    saved = rows * (bits_per_row(second.diagonal(), bits) - bits_per_row(values, bits))
    if method.rotation == "auto" and saved < BASIS_SHARE * BASIS_BITS * cols**2:
        return np.zeros(0, np.uint8)
    limit = int(BASIS_BITS * cols**2 / 8) + 3 * cols + FIXED_BYTES
    never = replace(method, rotation="off", outliers=math.inf)
    content = code_of(never, vectors.flip(1).float().contiguous(), limit, ignore_progress)
    return np.zeros(0, np.uint8) if content is None else content


def bits_per_row(variances: Float64[Tensor, " cols"], bits: float) -> float:
    """Bits per row if all entries have the distortion that `bits` bits achieve for an entry of mean variance."""
    level = variances.mean() * 2.0 ** (-2 * bits)
    return float((variances / level.clamp_min(1e-300)).clamp_min(1).log2().sum() / 2)
