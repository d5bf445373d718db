"""How a trellis-coded entry is computed: sign × value of its integer in the quantizer of its state × step of its column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offcomp.methods.steps import Step, number, terms_of_sum
from offcomp.methods.trellis.latents import (
    OUTLIERS,
    SECTIONS,
    STEPS_PER_OCTAVE,
    VALUES,
    Block,
    decode_bytes,
    decoded_integers,
    orthonormal,
    value_table,
)
from offcomp.methods.trellis.sections import split_sections
from offcomp.numerics.positions import decode_positions


class _Coded(NamedTuple):
    """A decoded integer, its quantizer, the value of its magnitude, and the step of its column with the exponent e_j."""

    integer: int
    quantizer: int
    magnitude: float
    exponent: int
    block_step: float

    @property
    def step(self) -> float:
        return self.block_step * 2.0 ** (self.exponent / STEPS_PER_OCTAVE)

    @property
    def value(self) -> float:
        return float(np.sign(self.integer)) * self.magnitude * self.step


def trellis_steps(tensors: Mapping[str, Tensor], row: int, col: int) -> list[Step]:
    """The integer, its quantizer, value, sign and step; or, in a rotated matrix, the coefficients and the basis."""
    content = tensors["stream"].cpu().numpy()
    sections = split_sections(content, SECTIONS)
    coded = decoded_integers(sections, content.size)
    *_, exact, low, high, basis = sections
    if len(basis):
        rotation = orthonormal(decode_bytes(basis))
        steps = _rotated(list(_row_of(coded, sections[VALUES], row)), rotation[col].tolist())
        width = len(rotation)
    else:
        width = _width(coded[0][0])
        steps = _plain(next(_row_of(coded, sections[VALUES], row, col)))
    if len(sections[OUTLIERS]):
        total = width * sum(block.symbols.size // width for block, _ in coded)
        positions = decode_positions(torch.from_numpy(low), torch.from_numpy(high), len(exact), total)
        found = (positions == row * width + col).nonzero()[:, 0]
        steps += [Step("entry: an outlier, stored exactly instead", "", float(exact[int(index)])) for index in found]
    return steps


def _width(block: Block) -> int:
    """Number of columns of the matrix."""
    return block.symbols.shape[0 if block.transposed else 1]


def _row_of(
    coded: Sequence[tuple[Block, NDArray[np.uint8]]], values: NDArray[Any], row: int, col: int | None = None
) -> Iterator[_Coded]:
    """The coded entries of a row of the matrix, or only that of one column."""
    for block, quantizers in coded:
        height = block.symbols.shape[1 if block.transposed else 0]
        if row >= height:
            row -= height
            continue
        table = value_table(values, 1 + int(np.abs(block.symbols).max(initial=0)))
        places = np.argsort(block.order)  # column -> its place in coding order
        for index in range(_width(block)) if col is None else [col]:
            down, across = (index, row) if block.transposed else (row, index)
            symbol, quantizer = int(block.symbols[down, places[across]]), int(quantizers[down, places[across]])
            magnitude, exponent = float(table[quantizer, abs(symbol)]), int(block.step_exponents[across])
            yield _Coded(symbol, quantizer, magnitude, exponent, block.step)
        return


def _plain(coded: _Coded) -> list[Step]:
    sign = int(np.sign(coded.integer))
    step = f"{number(coded.block_step)} × 2^({coded.exponent}/{STEPS_PER_OCTAVE})" if coded.exponent else "step of the block"
    return [
        Step("integer, read from the code", "", coded.integer),
        Step("quantizer, from the state of the decoder", "", coded.quantizer),
        Step(f"value of magnitude {abs(coded.integer)} in this quantizer", "", coded.magnitude),
        Step("step of the column", step, coded.step),
        Step("entry: sign × value × step", f"{sign} × {number(coded.magnitude)} × {number(coded.step)}", coded.value),
    ]


def _rotated(coded: Sequence[_Coded], basis: Sequence[float]) -> list[Step]:
    """An entry of a rotated matrix: the coefficients of the row times entries of the basis vectors."""
    terms = [
        Step(
            f"coefficient {index} × entry of basis vector {index}",
            f"{number(one.value)} × {number(entry)}; integer {one.integer}, quantizer {one.quantizer}: "
            f"value {number(one.magnitude)} × step {number(one.step)}",
            one.value * entry,
        )
        for index, (one, entry) in enumerate(zip(coded, basis, strict=True), 1)
    ]
    return [*terms_of_sum(terms, largest=True), Step("entry: sum of all terms", "", sum(term.value or 0.0 for term in terms))]
