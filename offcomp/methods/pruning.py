"""Magnitude pruning: the entries of largest absolute value are kept, all others become zero.

    minimise ‖W - Ŵ‖_F over Ŵ with `kept` entries that are not zero

The minimiser keeps the largest entries as they are; the squared error is the sum of the squares of the others. This is the
oldest criterion (Han et al., "Learning both Weights and Connections", NeurIPS 2015, section 3), without their retraining.

Stored: the kept values, where they belong, and the two sides of the matrix. Positions are a mask, one bit an entry, or indices:
how many entries each row keeps, and the column of each, in as few bits as hold a number below cols (cheaper than one index over
all entries, which needs log2(rows) bits more). Each bit of the mask and each index is a stored number:

    mask       2 + kept + rows · cols          parameters, 1 bit an entry
    indices    2 + kept + kept + rows          parameters, ⌈log2 cols⌉ bits a column, ⌈log2(cols + 1)⌉ bits a row's count

`positions="auto"` takes the one of fewer bytes: the mask once more than about one entry in ⌈log2 cols⌉ is kept. A mask alone
counts as many parameters as the matrix, so where the ratio counts parameters only indices save anything.

The official repository of arXiv 2302.04045 counts the kept values alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from offcomp.methods.base import CompressedMatrix, Hints, Report, choose_size, ignore_progress, store_dense
from offcomp.numerics.accounting import Budget, Codes, Shapes, code_counts

if TYPE_CHECKING:
    from torch import Tensor

SIDE_BITS = 32
PIECE_ENTRIES = 1 << 18


@dataclass(frozen=True)
class Pruning:
    """Keep the largest entries."""

    name: ClassVar[str] = "pruning"
    role: ClassVar[str] = "pruning"
    title: ClassVar[str] = "Pruning"
    paper: ClassVar[str] = "Han et al. 2015, arXiv 1506.02626"
    size_name: ClassVar[str] = "kept entries"
    memory: ClassVar[float] = 0.65
    quick: ClassVar[dict[str, Any]] = {}

    positions: str = field(
        default="auto",
        metadata={
            "help": "How positions are stored. auto takes what has fewer bytes; where parameters count, indices keep more.",
            "choices": ("auto", "mask", "indices"),
        },
    )

    @property
    def calibrated(self) -> bool:
        """It needs the weights alone."""
        return False

    def sizes(self, rows: int, cols: int) -> range:
        """1 .. rows · cols kept entries."""
        return range(1, rows * cols + 1)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Values in one row, so that int8 storage has one scale for all, the two sides, and mask or indices."""
        mask = {"mask": Codes(rows * cols, 1)}
        indices = {"columns": Codes(size, _column_bits(cols)), "row_counts": Codes(rows, _count_bits(cols))}
        chosen = {"mask": mask, "indices": indices, "auto": min(mask, indices, key=_packed_bytes)}[self.positions]
        return {"values": (1, size), "sides": Codes(2, SIDE_BITS), **chosen}

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """A selection, and the packing of positions."""
        return 0.01 + 6e-8 * rows * cols

    def fit(
        self,
        matrix: Tensor,
        budget: Budget,
        *,
        hints: Hints | None = None,
        seed: int = 0,
        report: Report = ignore_progress,
    ) -> CompressedMatrix:
        """Keep as many entries as the budget holds; of equal ones the first. The seed is not used: nothing is drawn."""
        import torch

        from offcomp.numerics.bits import pack_bits
        from offcomp.numerics.largest import largest_mask
        from offcomp.numerics.storage import pack

        rows, cols = matrix.shape
        kept = choose_size(self, rows, cols, budget)
        if kept == 0:
            return store_dense(matrix, budget.dtype)
        entries = matrix.detach().float()
        mask = largest_mask(entries, kept)
        shapes = self.tensor_shapes(rows, cols, kept)
        tensors = {"values": _values(entries, mask, kept)[None], "sides": pack_bits(torch.tensor([rows, cols]), SIDE_BITS)}
        if "mask" in shapes:
            tensors["mask"] = pack_bits(mask.reshape(-1).view(torch.uint8), 1)
        else:
            tensors["columns"] = pack_bits(_columns(mask, kept), _column_bits(cols))
            counts = torch.cat([piece.sum(1) for piece in mask.split(max(1, PIECE_ENTRIES // cols))])
            tensors["row_counts"] = pack_bits(counts, _count_bits(cols))
        stored = pack(tensors, budget.dtype)
        report(1.0)
        return CompressedMatrix(stored, kept_entries, kept, codes=code_counts(shapes))


def kept_entries(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: the kept values in their places."""
    import torch

    from offcomp.numerics.bits import unpack_bits

    values = tensors["values"][0]
    rows, cols = unpack_bits(tensors["sides"], SIDE_BITS, 2).tolist()
    matrix, done, start = torch.zeros(rows, cols), 0, 0
    counts = None if "mask" in tensors else unpack_bits(tensors["row_counts"], _count_bits(cols), rows)
    for part in matrix.split(max(1, PIECE_ENTRIES // cols)):
        if counts is None:
            at, columns = unpack_bits(tensors["mask"], 1, part.numel(), start * cols).reshape(part.shape).nonzero().T
        else:
            own = counts[start : start + len(part)]
            at = torch.arange(len(part)).repeat_interleave(own)
            columns = unpack_bits(tensors["columns"], _column_bits(cols), len(at), done)
        part[at, columns] = values[done : done + len(at)]
        done += len(at)
        start += len(part)
    if done != len(values):
        raise ValueError(f"{done} places for {len(values)} values: the stored tensors are damaged")
    return matrix


def _values(entries: Tensor, mask: Tensor, kept: int) -> Tensor:
    """The kept values in reading order, a piece at a time: to index by a whole mask takes 16 bytes for each one."""
    import torch

    values, start = torch.empty(kept, device=entries.device), 0
    for piece, where in zip(entries.reshape(-1).split(PIECE_ENTRIES), mask.reshape(-1).split(PIECE_ENTRIES), strict=True):
        found = piece[where]
        values[start : start + len(found)] = found
        start += len(found)
    return values


def _columns(mask: Tensor, kept: int) -> Tensor:
    """The column of each kept entry in reading order, likewise."""
    import torch

    columns, start = torch.empty(kept, dtype=torch.int32, device=mask.device), 0
    for piece in mask.split(max(1, PIECE_ENTRIES // mask.shape[1])):
        found = piece.nonzero()[:, 1]
        columns[start : start + len(found)] = found
        start += len(found)
    return columns


def _column_bits(cols: int) -> int:
    return max(1, (cols - 1).bit_length())


def _count_bits(cols: int) -> int:
    return cols.bit_length()


def _packed_bytes(positions: Mapping[str, Codes]) -> int:
    return sum(codes.shape[0] for codes in positions.values())
