"""Means of row blocks: each row is cut into `size` blocks, and each block is replaced with its mean.

    minimise ‖W - Ŵ‖_F over Ŵ that are constant on each block

The means and the number of columns are stored: rows · size + 1 parameters. This toy shows the parts of a plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from offcomp.methods.base import CompressedMatrix, Hints, Method
from offcomp.numerics.accounting import Budget, Codes, Shapes, code_counts
from offcomp.numerics.progress import Report

if TYPE_CHECKING:
    from torch import Tensor

SIDE_BITS = 32


@dataclass(frozen=True)
class RowMean(Method):
    """Replace each block of a row with one number."""

    name: ClassVar[str] = "rowmean"
    style_key: ClassVar[str] = "rowmean"
    title: ClassVar[str] = "Row means"
    paper: ClassVar[str] = "none: a toy"
    size_name: ClassVar[str] = "blocks"
    decoders: ClassVar[tuple[str, ...]] = ("repeated_means",)

    centre: str = field(
        default="mean",
        metadata={"help": "The number that replaces a block: its mean or its median.", "choices": ("mean", "median")},
    )

    def sizes(self, rows: int, cols: int) -> range:
        """The possible numbers of blocks per row."""
        return range(1, cols + 1)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """One number per block, and the number of columns."""
        return {"means": (rows, size), "cols": Codes(1, SIDE_BITS)}


def fit(
    method: RowMean, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
) -> CompressedMatrix:
    """Compute the mean or median of every block. Nothing is random, so the seed is not used."""
    import torch

    from offcomp.numerics.bits import pack_bits
    from offcomp.numerics.storage import pack

    rows, cols = matrix.shape
    blocks = matrix.float().split(widths(cols, size), dim=1)
    centres = [block.mean(1) if method.centre == "mean" else block.median(1).values for block in blocks]
    tensors = {"means": torch.stack(centres, 1), "cols": pack_bits(torch.tensor([cols]), SIDE_BITS)}
    codes = code_counts(method.tensor_shapes(rows, cols, size))
    return CompressedMatrix(pack(tensors, budget.dtype), repeated_means, size, codes=codes)


def repeated_means(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: repeat each mean over the columns of its block."""
    import torch

    from offcomp.numerics.bits import unpack_bits

    means = tensors["means"]
    (cols,) = unpack_bits(tensors["cols"], SIDE_BITS, 1).tolist()
    return means.repeat_interleave(torch.tensor(widths(cols, means.shape[1])), dim=1)


def widths(cols: int, size: int) -> list[int]:
    """The widths of `size` blocks that differ by at most one column."""
    return [cols // size + (index < cols % size) for index in range(size)]
