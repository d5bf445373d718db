"""Magnitude pruning: keep the entries with the largest absolute values and set all others to zero.

    minimise ‖W - Ŵ‖_F over Ŵ with `kept` nonzero entries

The minimiser keeps the largest entries unchanged; the squared error is the sum of the squares of all other entries. This is the
classic criterion of Han et al. ("Learning both Weights and Connections", NeurIPS 2015, section 3), but without retraining.

The kept values, their positions and the shape of the matrix are stored. Positions are stored either as a mask with one bit per
entry, or as indices: the number of entries kept in each row, and the column of each kept entry in ⌈log2 cols⌉ bits (cheaper
than a flat index, which needs log2(rows) more bits). Each bit of the mask and each index counts as one stored parameter:

    mask       2 + kept + rows · cols          parameters, 1 bit per entry
    indices    2 + kept + kept + rows          parameters, ⌈log2 cols⌉ bits per column, ⌈log2(cols + 1)⌉ bits per row count

`positions="auto"` chooses whichever needs fewer bytes: the mask if more than about one entry in ⌈log2 cols⌉ is kept. The mask
by itself has one parameter per entry of the matrix, so only indices can reduce the number of parameters.

The official repository of arXiv 2302.04045 counts only the kept values, not their positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from offcomp.methods.base import Look, Method
from offcomp.numerics.accounting import Codes, Shapes

SIDE_BITS = 32


@dataclass(frozen=True)
class Pruning(Method):
    """Keep the largest entries."""

    name: ClassVar[str] = "pruning"
    style_key: ClassVar[str] = "pruning"
    title: ClassVar[str] = "Pruning"
    paper: ClassVar[str] = "Han et al. 2015, arXiv 1506.02626"
    decoders: ClassVar[tuple[str, ...]] = ("kept_entries",)
    look: ClassVar[Look | None] = Look("cross", "#8c6d1f", "#e0c060")
    size_name: ClassVar[str] = "kept entries"
    has_rank: ClassVar[bool] = False
    memory: ClassVar[float] = 0.65

    positions: str = field(
        default="auto",
        metadata={
            "help": "How to store positions. auto minimises bytes; indices keep more entries if the ratio counts parameters.",
            "choices": ("auto", "mask", "indices"),
        },
    )

    def sizes(self, rows: int, cols: int) -> range:
        """The possible numbers of kept entries, from 1 to rows · cols."""
        return range(1, rows * cols + 1)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Kept values (as a single row, which needs only one scale in int8 storage), matrix shape, and mask or indices."""
        mask = {"mask": Codes(rows * cols, 1)}
        indices = {"columns": Codes(size, column_bits(cols)), "row_counts": Codes(rows, count_bits(cols))}
        chosen = {"mask": mask, "indices": indices, "auto": min(mask, indices, key=_packed_bytes)}[self.positions]
        return {"values": (1, size), "sides": Codes(2, SIDE_BITS), **chosen}

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Time to select the largest entries and to pack their positions."""
        return 0.01 + 6e-8 * rows * cols


def column_bits(cols: int) -> int:
    """Number of bits per column index."""
    return max(1, (cols - 1).bit_length())


def count_bits(cols: int) -> int:
    """Number of bits for the number of entries kept in a row."""
    return cols.bit_length()


def _packed_bytes(positions: Mapping[str, Codes]) -> int:
    return sum(codes.shape[0] for codes in positions.values())
