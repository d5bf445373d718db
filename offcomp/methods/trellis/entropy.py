"""The entropy code of trellis integers: asymmetric numeral systems (Duda 2013), as implemented by the library `constriction`.

Every integer is coded with a static table, selected by its context and quantizer. The context is the expected size of
the entry, divided by the step, on a logarithmic scale: the sum of a row exponent and a column exponent. A table lists the code
length of each magnitude |k| in sixteenths of a bit, as one byte; the sign takes one more bit.

The decoder cannot tell the quantizer of an entry before it has decoded the earlier integers of the row, so integers are coded
column by column. The integers of one column, across all blocks, are sorted by table, so that many can be decoded at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from offcomp.methods.trellis.machine import Machine

NUM_CONTEXTS = 32
CONTEXT_OFFSET = 11
"""Context of an entry whose expected size is one step."""
EXPONENTS_PER_OCTAVE = 6
"""Resolution of row and column exponents; a context covers two consecutive values of their sum."""
EXPONENT_RANGE = 120
MAX_EXPONENTS = 1 << 24
LENGTHS_PER_BIT = 16
NEVER = 255

Integers = NDArray[np.int64]


def exponents(sizes: NDArray[np.floating]) -> Integers:
    """Convert sizes, in units of the step, to integers on a logarithmic scale; zero becomes the smallest exponent."""
    with np.errstate(divide="ignore"):
        logarithms = np.log2(sizes.astype(np.float64)) * EXPONENTS_PER_OCTAVE
    return np.rint(np.clip(logarithms, -EXPONENT_RANGE, EXPONENT_RANGE)).astype(np.int64)


def contexts_of(row_exponents: Integers, column_exponents: Integers) -> NDArray[np.uint8]:
    """The context of every entry (rows, cols)."""
    rows, columns = (
        np.clip(each, -EXPONENT_RANGE, EXPONENT_RANGE).astype(np.int16) for each in (row_exponents, column_exponents)
    )
    total = rows[:, None] + columns
    total += 1
    total >>= 1
    total += CONTEXT_OFFSET
    return np.clip(total, 0, NUM_CONTEXTS - 1, out=total).astype(np.uint8)


@dataclass(frozen=True)
class Tables:
    """Code lengths of magnitudes for each context and quantizer.

    lengths     for each table (2 · context + quantizer), the code length of 0, 1, 2, ... in sixteenths of a bit (uint8);
                empty for a table that is never used
    """

    lengths: tuple[NDArray[np.uint8], ...]

    @staticmethod
    def of_counts(counts: NDArray[Any]) -> Tables:
        """The tables for these counts of magnitudes (2 · contexts, magnitudes)."""
        return Tables(tuple(_lengths(row) for row in counts))

    @staticmethod
    def from_bytes(content: NDArray[np.uint8]) -> Tables:
        """The inverse of `to_bytes`."""
        first, count = (int(number) for number in content[:2])
        sizes = content[2 : 2 + 2 * count].copy().view("<u2").astype(np.int64)
        ends = 2 + 2 * count + np.cumsum(sizes)
        lengths = [np.zeros(0, np.uint8)] * (2 * NUM_CONTEXTS)
        lengths[first : first + count] = [content[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        return Tables(tuple(lengths))

    def to_bytes(self) -> NDArray[np.uint8]:
        """The index of the first table in use, the number of tables up to the last one in use, their sizes, and all lengths."""
        used = [number for number, table in enumerate(self.lengths) if len(table)] or [0]
        tables = self.lengths[used[0] : used[-1] + 1]
        sizes = np.array([len(table) for table in tables], "<u2").view(np.uint8)
        return np.concatenate([np.array([used[0], len(tables)], np.uint8), sizes, *tables])

    def bits(self, num_magnitudes: int) -> NDArray[np.float32]:
        """Code lengths in bits, including the sign (2 · contexts, magnitudes); `NEVER` for magnitudes that have no code."""
        found = np.full((2 * NUM_CONTEXTS, num_magnitudes), NEVER, np.float32)
        for row, table in zip(found, self.lengths, strict=True):
            row[: len(table)] = table / LENGTHS_PER_BIT + (np.arange(len(table)) > 0)
        return found

    def models(self) -> list[stream.model.Categorical | None]:
        """For each table, a distribution over -K .. K, shifted to start at 0; None for an empty table."""
        return [_categorical(_two_sided(_probabilities(table))) if len(table) else None for table in self.lengths]


def _lengths(counts: NDArray[Any]) -> NDArray[np.uint8]:
    used = np.flatnonzero(counts)
    if not len(used):
        return np.zeros(0, np.uint8)
    counts = counts[: max(used[-1] + 1, 2)]  # a distribution has at least two values
    with np.errstate(divide="ignore"):
        lengths = -np.log2(counts / counts.sum()) * LENGTHS_PER_BIT
    return np.rint(np.minimum(lengths, NEVER)).astype(np.uint8)


def _two_sided(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities of -K .. K from those of the magnitudes 0 .. K."""
    positive = probabilities[1:] / 2
    return np.concatenate([positive[::-1], probabilities[:1], positive]).astype(np.float64)


def encode_blocks(
    symbols: Sequence[NDArray[np.int16]], rows_of_tables: Sequence[NDArray[np.integer]], tables: Tables
) -> NDArray[np.uint32]:
    """Encode the integers of several (rows, cols) blocks, given the table index of each entry."""
    coder, models = stream.stack.AnsCoder(), tables.models()
    by_column = [np.ascontiguousarray(block.T) for block in symbols]
    numbers_by_column = [np.ascontiguousarray(block.T) for block in rows_of_tables]
    for column in range(max(map(len, by_column)) - 1, -1, -1):
        numbers, values = (_column_of(blocks, column) for blocks in (numbers_by_column, by_column))
        order = np.argsort(numbers, kind="stable")
        ordered = values[order].astype(np.int32)
        for number, chosen in reversed(list(_runs(numbers[order]))):
            coder.encode_reverse(ordered[chosen] + len(tables.lengths[number]) - 1, models[number])
    return np.asarray(coder.get_compressed(), np.uint32)


def decode_blocks(
    code: NDArray[np.uint32], contexts: Sequence[NDArray[np.uint8]], tables: Tables, automaton: Machine
) -> list[tuple[NDArray[np.int16], NDArray[np.uint8]]]:
    """Decode the integers of each block, and the quantizer of each entry, from the contexts (rows, cols) of the blocks."""
    coder, models, successors = stream.stack.AnsCoder(np.ascontiguousarray(code)), tables.models(), automaton.successors.numpy()
    by_column = [2 * np.ascontiguousarray(block.T).astype(np.int16) for block in contexts]
    symbols = [np.empty(block.shape, np.int16) for block in by_column]
    quantizers = [np.empty(block.shape, np.uint8) for block in by_column]
    states = [np.zeros(block.shape[1], np.int64) for block in by_column]
    for column in range(max(map(len, by_column))):
        current = [index for index, block in enumerate(by_column) if column < len(block)]
        for index in current:
            quantizers[index][column] = states[index] & 1
            by_column[index][column] += quantizers[index][column]
        numbers = _column_of(by_column, column)
        order = np.argsort(numbers, kind="stable")
        parts = [
            coder.decode(models[number], chosen.stop - chosen.start) - (len(tables.lengths[number]) - 1)
            for number, chosen in _runs(numbers[order])
        ]
        values = np.empty(len(order), np.int16)
        values[order] = np.concatenate(parts)
        ends = np.cumsum([len(states[index]) for index in current])[:-1]
        for index, part in zip(current, np.split(values, ends), strict=True):
            symbols[index][column] = part
            states[index] = successors[states[index], part & 1]
    return [(block.T, found.T) for block, found in zip(symbols, quantizers, strict=True)]


def _column_of(blocks: Sequence[NDArray[Any]], column: int) -> NDArray[Any]:
    """The entries of one column of every block (cols, rows) that has this column, one block after another."""
    return np.concatenate([block[column] for block in blocks if column < len(block)])


def _runs(ordered: NDArray[np.integer]) -> Iterator[tuple[int, slice]]:
    """Each distinct value of a sorted array, with the slice that contains it."""
    ends = [*(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(ordered)]
    start = 0
    for end in ends:
        yield int(ordered[start]), slice(start, end)
        start = end


def encode_integers(values: Integers) -> list[NDArray[Any]]:
    """Sections that encode small integers: their minimum and count, a table of code lengths, and the code."""
    smallest = int(values.min()) if len(values) else 0
    counts = np.bincount(values - smallest) if len(values) else np.zeros(1)
    lengths, coder = _lengths(counts.astype(np.float64)), stream.stack.AnsCoder()
    if len(lengths) > 1:
        coder.encode_reverse((values - smallest).astype(np.int32), _categorical(_probabilities(lengths)))
    return [np.array([smallest, len(values)], np.int32), lengths, np.asarray(coder.get_compressed(), np.uint32)]


def decode_integers(head: NDArray[np.int32], lengths: NDArray[np.uint8], code: NDArray[np.uint32]) -> Integers:
    """The inverse of `encode_integers`. Raises ValueError for an implausible number of integers."""
    smallest, number = (int(value) for value in head)
    if not 0 <= number <= MAX_EXPONENTS:
        raise ValueError(f"{number} exponents")
    if len(lengths) <= 1:
        return np.full(number, smallest, np.int64)
    return (
        stream.stack.AnsCoder(np.ascontiguousarray(code)).decode(_categorical(_probabilities(lengths)), number).astype(np.int64)
        + smallest
    )


def _probabilities(lengths: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Unnormalised probabilities of integers with these code lengths."""
    return np.exp2(-lengths.astype(np.float64) / LENGTHS_PER_BIT)


def _categorical(probabilities: NDArray[np.float64]) -> stream.model.Categorical:
    """The library's distribution. `perfect=False` is part of the format: the decoder must round probabilities the same way."""
    return stream.model.Categorical(probabilities, perfect=False)
