"""Create the small file from which heat maps of a weight matrix are drawn at any rank; see `matrix_view` for its contents.

The basis V is computed in float64 from the smaller Gram matrix. L = W V is computed one chunk of rows at a time, so only block
sums and the squared entries of some rows are kept in memory. Wide matrices are transposed first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from offcomp.errors import InputError
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.listing import check_unchanged
from offcomp.planning.grams import LARGEST_SIDE
from offcomp.planning.matrix_view import ORDERS, View, block_starts, read_view, sampled_rows, save_view, view_path

if TYPE_CHECKING:
    from torch import Tensor

PIECE_ENTRIES = 1 << 22  # 32 MB in float64
RANK_GROWTH = 1.25
"""Factor between consecutive ranks at which the residual of each cell is computed."""


def make_view(info: ModelInfo, spec: ModuleSpec, home: Path) -> View:
    """The view of a module in stored order; the view file is created if it does not exist.

    Only this module's weights are read. Raises ModelError if they cannot be read or are not finite, InputError if the matrix is
    too large, and StorageError if the file cannot be written.
    """
    path = view_path(info, spec, home)
    view = read_view(path, spec.shape)
    if view is None:
        from offcomp.models.offloading import StoredMatrices
        from offcomp.models.row_names import row_names

        source = StoredMatrices(info.model)
        check_unchanged(info)  # afterwards, `source` itself refuses files that have changed
        arrays = view_arrays(source.view(spec))
        names = row_names(source.tokenizer, source.checkpoint.config, spec, arrays["sampled"].tolist())
        save_view(path, spec.shape, arrays | {"names": np.array(names)})
        view = read_view(path, spec.shape)
    if view is None:
        raise InputError(f"{path} was written but cannot be read back; free some disk space, delete the file and try again")
    return view


def view_arrays(matrix: Tensor) -> dict[str, NDArray[np.generic]]:
    """All arrays for the view file of a matrix. Raises InputError if the matrix is empty or its smaller side is too large."""
    from offcomp.numerics.eigenvectors import leading_eigenvectors
    from offcomp.numerics.grams import gram

    rows, cols = matrix.shape
    side = min(rows, cols)
    if not 1 <= side <= LARGEST_SIDE:
        raise InputError(f"a ({rows}, {cols}) matrix cannot be drawn: its smaller side must be between 1 and {LARGEST_SIDE}")
    transposed = rows < cols
    tall = matrix.T if transposed else matrix
    product = gram(tall)
    inner = Side(product.diagonal().clamp_min(0).sqrt())
    outer = Side(tall.double().norm(dim=1) if tall.shape[0] * side <= PIECE_ENTRIES else tall.norm(dim=1).double())
    basis = leading_eigenvectors(product, side)  # (side, side)
    sampled = sampled_rows(rows, cols)
    sums = _Sums.over(tall, basis, (outer, inner), sampled=None if transposed else sampled)
    arrays: dict[str, NDArray[np.generic]] = {
        "values": sums.squares.sqrt().numpy().astype(np.float32),
        "sampled": sampled,
        "names": np.array([f"row {row:,}" for row in sampled]),
        "ranks": known_ranks(side),
        "norms": (inner if transposed else outer).norms.numpy()[sampled].astype(np.float32),
        "kept": _kept(basis[sampled].square() * sums.squares if transposed else sums.of_rows),
    }
    for order in ORDERS:
        arrays |= _ordered(order, sums, basis, (outer, inner), transposed=transposed)
    return arrays


def known_ranks(side: int) -> NDArray[np.int32]:
    """The ranks, from 0 to `side`, at which the residual of each cell is computed."""
    ranks, rank = [0], 1
    while rank < side:
        ranks.append(rank)
        rank = max(rank + 1, round(RANK_GROWTH * rank))
    return np.array([*ranks, side], np.int32)


class Side:
    """Assigns the rows of a matrix to blocks, once in stored order and once ordered by these norms. Also used for columns.

    blocks    order -> block index of each row, with the rows in stored order
    sizes     rows per block, as a column vector
    """

    def __init__(self, norms: Tensor):
        import torch

        sizes = np.diff(block_starts(len(norms)))
        block = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
        by_norm = torch.empty_like(block)
        by_norm[norms.argsort(descending=True, stable=True)] = block
        self.norms = norms
        self.blocks = dict(zip(ORDERS, (block, by_norm), strict=True))
        self.sizes = torch.from_numpy(sizes).double()[:, None]

    def sums(self, values: Tensor, order: str) -> Tensor:
        """Sum the rows of `values` within each block."""
        empty = values.new_zeros(len(self.sizes), values.shape[1])
        return empty.index_add_(0, self.blocks[order], values)


def block_means(matrix: Tensor, sides: tuple[Side, Side], order: str) -> Tensor:
    """Means (row blocks, column blocks) of the blocks of a matrix (rows, cols), given its sides, in float64."""
    rows, columns = sides
    return columns.sums(rows.sums(matrix, order).double().T, order).T / rows.sizes / columns.sizes.T


@dataclass(eq=False)
class _Sums:
    """Sums over blocks of rows of W, of L = W V, and of L², the squared entries of L; also the sampled rows of L².

    residuals   (known ranks, row blocks, column blocks): energy of the residual in each cell
    """

    weights: dict[str, Tensor]
    left: dict[str, Tensor]
    energy: dict[str, Tensor]
    residuals: dict[str, Tensor]
    of_rows: Tensor

    @classmethod
    def over(cls, tall: Tensor, basis: Tensor, sides: tuple[Side, Side], sampled: NDArray[np.int32] | None) -> _Sums:
        """Accumulate the sums in one pass over the matrix, one chunk at a time."""
        import torch

        outer, inner = sides
        blocks, side = len(outer.sizes), basis.shape[1]
        weights, lefts, energy = ({order: basis.new_zeros(blocks, side) for order in ORDERS} for _ in range(3))
        ranks = known_ranks(side)
        residuals = {order: basis.new_zeros(len(ranks), blocks, len(inner.sizes)) for order in ORDERS}
        chosen = torch.zeros(len(tall), dtype=torch.bool)
        if sampled is not None:
            chosen[torch.from_numpy(sampled).long()] = True
        kept, height, top = [], max(1, PIECE_ENTRIES // side), 0
        for piece in tall.split(height):
            wide = piece.double()
            left = wide @ basis
            squares = left.square()
            for order in ORDERS:
                block = outer.blocks[order][top : top + len(piece)]
                for total, part in ((weights, wide), (lefts, left), (energy, squares)):
                    total[order].index_add_(0, block, part)
            for index, rest in enumerate(_residuals(piece.float(), left.float(), basis.float(), ranks)):
                for order in ORDERS:
                    block = outer.blocks[order][top : top + len(piece)]
                    by_block = rest.new_zeros(blocks, side).index_add_(0, block, rest)
                    residuals[order][index] += inner.sums(by_block.double().T, order).T
            kept.append(squares[chosen[top : top + len(piece)]])
            top += len(piece)
        return cls(weights, lefts, energy, residuals, torch.cat(kept))

    @property
    def squares(self) -> Tensor:
        """Squared singular values, computed as squared column norms of L because small eigenvalues are inaccurate."""
        return next(iter(self.energy.values())).sum(0)


def _residuals(piece: Tensor, left: Tensor, basis: Tensor, ranks: NDArray[np.int32]) -> Iterator[Tensor]:
    """Squared entries (rows, side) of the residual of some rows at each rank."""
    rest = piece.clone()
    for before, rank in pairwise([0, *ranks.tolist()]):
        rest.addmm_(left[:, before:rank], basis[:, before:rank].T, alpha=-1)
        yield rest.square()


def _kept(squares: Tensor) -> NDArray[np.float16]:
    """The fraction of each row's squared norm that is retained at each rank, computed from the row's squared components."""
    sums = squares.cumsum(1)
    total = sums[:, -1:].clamp_min(np.finfo(np.float64).tiny)
    return np.asarray((sums / total).numpy(), dtype=np.float16)


def _ordered(
    order: str, sums: _Sums, basis: Tensor, sides: tuple[Side, Side], *, transposed: bool
) -> dict[str, NDArray[np.generic]]:
    """The arrays for one order, with rows and columns as in the untransposed matrix."""
    outer, inner = sides
    entries = outer.sizes * inner.sizes.T
    mean = sums.squares.sum() / entries.sum()
    residuals = (sums.residuals[order] / entries / mean.clamp_min(np.finfo(np.float64).tiny)).sqrt()
    original = inner.sums(sums.weights[order].T.contiguous(), order) / inner.sizes / outer.sizes.T
    long = (sums.left[order] / outer.sizes, sums.energy[order])
    short = (inner.sums(basis, order) / inner.sizes, inner.sums(basis.square(), order) * sums.squares)
    (left, row_energy), (right, column_energy) = (short, long) if transposed else (long, short)
    arrays = {
        "original": original if transposed else original.T,
        "left": left,
        "right": right,
        "row_energy": row_energy,
        "column_energy": column_energy,
    }
    cells = residuals.mT if transposed else residuals
    found: dict[str, NDArray[np.generic]] = {f"{order}_residuals": np.ascontiguousarray(cells.numpy(), dtype=np.float16)}
    return found | {f"{order}_{name}": np.ascontiguousarray(array.numpy(), dtype=np.float32) for name, array in arrays.items()}
