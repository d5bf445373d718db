"""What a trellis-coded matrix consists of, how it is written as bytes, and how it is decoded.

A stacked matrix is cut into blocks, one above the other. In a block, entry (i, j) is decoded as

    ŵ_ij = Δ · 2^(e_j / 16) · sign(k_ij) · v(q_ij, |k_ij|)

where Δ is the step of the block, e_j a column exponent, k_ij the integer and q_ij its quantizer (`machine`); each value v is
the mean, in units of the step, of all entries with the same magnitude and quantizer. The columns of a block are coded in the
order of their exponents e_j, and a block may be stored transposed. A rotated matrix is then multiplied by an orthogonal basis.
Finally, outliers are replaced by their exact values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from offcomp.methods.trellis.entropy import (
    NUM_CONTEXTS,
    Integers,
    Tables,
    contexts_of,
    decode_blocks,
    decode_integers,
    encode_blocks,
    encode_integers,
)
from offcomp.methods.trellis.machine import grid_values, machine, quantizers_along
from offcomp.methods.trellis.sections import join_sections, split_sections
from offcomp.numerics.chunks import chunk_height
from offcomp.numerics.positions import decode_positions, encode_positions

STEPS_PER_OCTAVE = 16
NUM_VALUES = 12
"""Number of magnitudes whose value is stored for each quantizer; larger ones decode to their grid values."""
MAX_ENTRIES_PER_BYTE = 64
"""The number of entries per byte at the lowest rate of the method, an eighth of a bit per entry."""
SECTIONS = ("i4", "f4", *("i4", "u1", "u4") * 3, "f2", "u1", "u4", "f4", "u1", "u1", "u1")
"""Types of the sections: layout, steps, three lists of exponents, values, tables, codes, three for outliers, and the basis."""
VALUES, TABLES, CODES, OUTLIERS = range(11, 15)
"""Indices of some sections."""


@dataclass(frozen=True)
class Block:
    """The integers of some rows of a matrix, and the exponents needed to decode them.

    symbols             (rows, cols) int16, with the columns in coding order
    row_exponents       (rows,): the expected size of each row, in units of the step, see `entropy`
    column_exponents    (cols,): the size of each column relative to the whole block, see `entropy`
    step                Δ
    step_exponents      (cols,): e_j
    transposed          whether the block is transposed in the stacked matrix
    """

    symbols: NDArray[np.int16]
    row_exponents: Integers
    column_exponents: Integers
    step: float
    step_exponents: Integers
    transposed: bool = False

    @property
    def order(self) -> Integers:
        """The columns in coding order."""
        return coding_order(self.step_exponents)

    @property
    def contexts(self) -> NDArray[np.uint8]:
        """The context of each entry (rows, cols), with the columns in coding order."""
        return contexts_of(self.row_exponents, self.column_exponents[self.order])


@dataclass(frozen=True)
class Latents:
    """A coded matrix.

    blocks      its blocks, from top to bottom
    values      (2, NUM_VALUES) float16: what the smallest magnitudes decode to, by quantizer, in units of the step
    num_states  number of states of the machine
    outliers    positions and values of entries that are stored exactly
    basis       bytes of the coded basis of a rotated matrix, or empty
    """

    blocks: Sequence[Block]
    values: NDArray[np.float16]
    num_states: int
    outliers: tuple[NDArray[np.int64], NDArray[np.float32]]
    basis: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))

    def quantizers(self) -> list[NDArray[np.uint8]]:
        """The quantizer of each entry of each block."""
        automaton = machine(self.num_states)
        return [quantizers_along(torch.from_numpy(block.symbols), automaton).numpy() for block in self.blocks]

    def to_bytes(self) -> NDArray[np.uint8]:
        """The bytes that store the matrix. Never fails: any integers can be coded."""
        numbers = [
            2 * block.contexts.astype(np.int16) + found for block, found in zip(self.blocks, self.quantizers(), strict=True)
        ]
        tables = Tables.of_counts(count_magnitudes([block.symbols for block in self.blocks], numbers))
        layout = [self.num_states, len(self.blocks), len(self.outliers[0])]
        for block in self.blocks:
            layout += [*block.symbols.shape, int(block.transposed)]
        positions, exact = self.outliers
        total = sum(block.symbols.size for block in self.blocks)
        packed = encode_positions(torch.from_numpy(positions), total) if len(positions) else {}
        empty = torch.zeros(0, dtype=torch.uint8)
        return join_sections(
            [
                np.array(layout, np.int32),
                np.array([block.step for block in self.blocks], np.float32),
                *encode_integers(np.concatenate([block.row_exponents for block in self.blocks])),
                *encode_integers(np.concatenate([block.column_exponents for block in self.blocks])),
                *encode_integers(np.concatenate([block.step_exponents for block in self.blocks])),
                self.values,
                tables.to_bytes(),
                encode_blocks([block.symbols for block in self.blocks], numbers, tables),
                exact,
                packed.get("low", empty).numpy(),
                packed.get("high", empty).numpy(),
                self.basis,
            ]
        )


def coding_order(step_exponents: Integers) -> Integers:
    """The columns in the order in which they are coded."""
    return np.argsort(step_exponents, kind="stable")


def relative_steps(step_exponents: Integers) -> NDArray[np.float32]:
    """2^(e / 16)."""
    return np.exp2(step_exponents / STEPS_PER_OCTAVE).astype(np.float32)


def count_magnitudes(symbols: Sequence[NDArray[np.int16]], numbers: Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
    """How often each magnitude occurs with each table (2 · contexts, magnitudes), given the table of each entry."""
    width = 1 + max(1, *(int(np.abs(block).max(initial=0)) for block in symbols))  # a table has at least two magnitudes
    counts = np.zeros(2 * NUM_CONTEXTS * width, np.int64)
    for block, tables in zip(symbols, numbers, strict=True):
        for rows in row_chunks(block):
            places = tables[rows].astype(np.int64) * width + np.abs(block[rows])
            counts += np.bincount(places.reshape(-1), minlength=len(counts))
    return counts.reshape(-1, width)


def row_chunks(matrix: NDArray[Any]) -> Iterator[slice]:
    """Slices of rows that cover a matrix (rows, cols), each with a limited number of entries."""
    height = chunk_height(matrix.shape[1])
    return (slice(start, start + height) for start in range(0, len(matrix), height))


def decode_bytes(content: NDArray[np.uint8]) -> Float[Tensor, "rows cols"]:
    """The matrix that is stored in the output of `Latents.to_bytes`; bytes after it are ignored."""
    sections = split_sections(content, SECTIONS)
    parts = []
    for block, quantizers in decoded_integers(sections, content.size):
        part = decoded_block(block, block.symbols, quantizers, sections[VALUES])
        parts.append(part.T if block.transposed else part)
    matrix = torch.cat(parts)
    *_, exact, low, high, basis = sections
    if len(basis):
        matrix = matrix @ orthonormal(decode_bytes(basis)).T
    if len(exact):
        positions = decode_positions(torch.from_numpy(low), torch.from_numpy(high), len(exact), matrix.numel())
        matrix = matrix.contiguous()
        matrix.view(-1)[positions] = torch.from_numpy(exact)
    return matrix


def decoded_integers(sections: Sequence[NDArray[Any]], num_bytes: int) -> list[tuple[Block, NDArray[np.uint8]]]:
    """The blocks of a matrix coded in `num_bytes` bytes, each with the quantizers of its entries (rows, cols)."""
    layout, steps, *rest = sections
    rows, columns, scales = (decode_integers(*rest[start : start + 3]) for start in (0, 3, 6))
    num_states, num_blocks, num_outliers = layout[:3].tolist()
    shapes = layout[3:].reshape(num_blocks, 3).tolist()
    check_plausible(shapes, num_bytes, len(rows), len(columns))
    if num_outliers != len(sections[OUTLIERS]):
        raise ValueError(f"{len(sections[OUTLIERS])} outliers instead of {num_outliers}")
    ends = np.cumsum([[height, width] for height, width, _ in shapes], 0)
    blocks = [
        Block(np.zeros((0, 0), np.int16), rows[bottom - height : bottom], columns[right - width : right], float(step),
              scales[right - width : right], bool(transposed))
        for (height, width, transposed), (bottom, right), step in zip(shapes, ends, steps, strict=True)
    ]  # fmt: skip
    contexts, tables = [block.contexts for block in blocks], Tables.from_bytes(sections[TABLES])
    found = decode_blocks(sections[CODES], contexts, tables, machine(num_states))
    return [(replace(block, symbols=symbols), quantizers) for block, (symbols, quantizers) in zip(blocks, found, strict=True)]


def check_plausible(shapes: Sequence[Sequence[int]], num_bytes: int, num_rows: int, num_columns: int) -> None:
    """Raise ValueError if blocks of these shapes cannot have been coded in this many bytes with this many exponents."""
    heights, widths = ([shape[side] for shape in shapes] for side in (0, 1))
    entries = sum(height * width for height, width in zip(heights, widths, strict=True))
    if min(heights + widths) < 1 or sum(heights) != num_rows or sum(widths) != num_columns:
        raise ValueError("the shapes of the blocks do not match their exponents")
    if entries > MAX_ENTRIES_PER_BYTE * num_bytes:
        raise ValueError(f"{entries} entries in {num_bytes} bytes")


def decoded_block(
    block: Block, symbols: NDArray[np.int16], quantizers: NDArray[np.uint8], values: NDArray[np.float16]
) -> Float[Tensor, "rows cols"]:
    """The entries of a block, not yet transposed, from its integers and their quantizers, both (rows, cols) in coding order."""
    table = value_table(values, 1 + int(np.abs(symbols).max(initial=0)))
    order, steps = block.order, np.float32(block.step) * relative_steps(block.step_exponents)
    decoded = np.empty(symbols.shape, np.float32)
    decoded[:, order] = np.sign(symbols) * table[quantizers, np.abs(symbols)] * steps[order]
    return torch.from_numpy(decoded)


def value_table(values: NDArray[np.float16], num_magnitudes: int) -> NDArray[np.float32]:
    """What each magnitude decodes to, in units of the step (2, magnitudes)."""
    magnitudes = torch.arange(num_magnitudes)
    table = torch.stack([grid_values(torch.full_like(magnitudes, quantizer), magnitudes) for quantizer in (0, 1)])
    found: NDArray[np.float32] = table.numpy().astype(np.float32)
    known = min(values.size // 2, num_magnitudes)
    found[:, :known] = values.reshape(2, -1)[:, :known]
    return found


def orthonormal(matrix: Float[Tensor, "side side"]) -> Float[Tensor, "side side"]:
    """The nearest orthogonal matrix (polar decomposition)."""
    left, _, right = torch.linalg.svd(matrix.double())
    return (left @ right).float()
