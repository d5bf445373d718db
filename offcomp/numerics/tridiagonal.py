"""Eigenvalues and leading eigenvectors of a Gram matrix of which only one triangle is in memory.

LAPACK's fast routines want the whole square, and up to two more as workspace. For W of shape (side, side) in float32 the square
in float64 is twice W, so that is six times W. Here the upper triangle is kept in rows of blocks, as much as W itself, and is
reduced to a tridiagonal matrix in place: Householder reflections a panel at a time (Dongarra, Sorensen and Hammarling, "Block
reduction of matrices to condensed forms", 1989; LAPACK's dsytrd does the same in a square). The wanted eigenvectors of the
tridiagonal matrix come from bisection and inverse iteration, and the reflections take them back (compact WY form, Schreiber
and Van Loan 1989). The time is that of LAPACK on the whole square.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import copysign, prod

import numpy as np
import torch
from jaxtyping import Float64
from scipy.linalg import LinAlgError, eigvalsh_tridiagonal
from scipy.linalg.lapack import dstebz, dstein
from torch import Tensor

from offcomp.errors import InputError

PANELS = 32
NARROWEST = 64
BISECTION = 2, 0.0, 0.0
"""By number, so that the ends of an interval are not used."""


@dataclass(frozen=True)
class Triangle:
    """The upper triangle of a symmetric (side, side) matrix, side >= 2: row of blocks number k is (width, side - k width)."""

    rows: list[Tensor]

    @staticmethod
    def of_gram(pieces: Iterable[Float64[Tensor, "_ side"]], side: int) -> Triangle:
        """MᵀM of a matrix that comes as pieces one above the other."""
        width = max(NARROWEST, side // PANELS)
        shapes = [(min(width, side - start), side - start) for start in range(0, side, width)]
        total = Triangle(_in_one_block(torch.zeros(sum(map(prod, shapes)), dtype=torch.float64), shapes))
        for piece in pieces:
            for row in total.rows:
                right = piece[:, side - row.shape[1] :]
                row.addmm_(right[:, : len(row)].T, right)
        return total

    def narrow_to(self, dtype: torch.dtype) -> None:
        """Keep the entries in this dtype."""
        if self.rows[0].dtype == dtype:
            return
        shapes = [tuple(row.shape) for row in self.rows]
        narrow = _in_one_block(torch.empty(sum(map(prod, shapes)), dtype=dtype), shapes)
        for row, here in zip(self.rows, narrow, strict=True):
            here.copy_(row)
        self.rows[:] = narrow

    def after(self, number: int) -> Iterator[tuple[Tensor, int]]:
        """Rows of blocks below a row of blocks, each with where its diagonal starts, counted from that of the row."""
        width = self.rows[number].shape[1]
        return ((row, width - row.shape[1]) for row in self.rows[number + 1 :])


def _in_one_block(block: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Views of these shapes, one after the other."""
    return [part.view(shape) for part, shape in zip(block.split([*map(prod, shapes)]), shapes, strict=True)]


@dataclass(frozen=True)
class Tridiagonal:
    """T = Qᵀ A Q by its diagonal and what lies beside it; Q is the product of the reflections I - scale · v vᵀ, one a row."""

    diagonal: Float64[Tensor, " side"]
    beside: Float64[Tensor, " side"]
    scales: Float64[Tensor, " side"]
    reflections: Triangle

    @staticmethod
    def of(matrix: Triangle, keep: torch.dtype = torch.float64) -> Tridiagonal:
        """Overwrites its argument with the reflections, which are kept in this dtype."""
        side = matrix.rows[0].shape[1]
        diagonal, beside, scales = torch.zeros(3, side, dtype=torch.float64)
        found = Tridiagonal(diagonal, beside, scales, matrix)
        for number, row in enumerate(matrix.rows):
            images = found._reduce_panel(number, row)
            for below, start in matrix.after(number):
                here = slice(start, start + len(below))
                below.addmm_(row[:, here].T, images[:, start:], alpha=-1).addmm_(images[:, here].T, row[:, start:], alpha=-1)
        matrix.narrow_to(keep)
        return found

    def _reduce_panel(self, number: int, panel: Tensor) -> Float64[Tensor, "width rest"]:
        """Make the rows of a panel the vectors v of its reflections; returns y, one a row, for A - v yᵀ - y vᵀ below."""
        images, first = torch.zeros_like(panel), self.diagonal.numel() - panel.shape[1]
        for j in range(len(panel)):
            row = panel[j, j:]  # as it was before the panel
            row.addmv_(panel[:j, j:].T, images[:j, j], alpha=-1).addmv_(images[:j, j:].T, panel[:j, j], alpha=-1)
            self.diagonal[first + j] = row[0]
            rest = row[1:]
            length = float(rest.norm())
            panel[j, : j + 1] = 0
            if length == 0:
                continue
            self.beside[first + j] = target = -copysign(length, float(rest[0]))
            self.scales[first + j] = scale = (target - float(rest[0])) / target
            rest /= float(rest[0]) - target
            rest[0] = 1
            image = images[j, j + 1 :]
            self._multiply(number, j, images[j])
            for one, other in ((panel, images), (images, panel)):
                image.addmv_(one[:j, j + 1 :].T, other[:j, j + 1 :] @ rest, alpha=-1)
            image *= scale
            image.sub_(rest, alpha=scale / 2 * float(image @ rest))
        return images

    def _multiply(self, number: int, j: int, out: Tensor) -> None:
        """A v without what the panel has changed so far, for v in row j of the panel."""
        panel = self.reflections.rows[number]
        vector, own = panel[j], panel[j + 1 :, j + 1 :]
        width = len(panel)
        if len(own):
            out[j + 1 : width].addmv_(own, vector[j + 1 :])
            out[width:].addmv_(own[:, len(own) :].T, vector[j + 1 : width])
        for row, start in self.reflections.after(number):
            end = start + len(row)
            out[start:end].addmv_(row, vector[start:])
            out[end:].addmv_(row[:, len(row) :].T, vector[start:end])

    def eigenvalues(self) -> Float64[Tensor, " side"]:
        """All of them, in increasing order."""
        return torch.from_numpy(eigvalsh_tridiagonal(self.diagonal.numpy(), self.beside[:-1].numpy()))

    def leading_eigenvectors(self, count: int) -> Float64[Tensor, "count side"]:
        """Those of the `count` largest eigenvalues, the largest first, one a row. Uses up the reflections.

        Raises InputError where the matrix has entries that are not finite.
        """
        diagonal, beside = -self.diagonal.numpy(), -self.beside[:-1].numpy()  # of -T the smallest, which come first
        found, values, blocks, ends, failed = dstebz(diagonal, beside, *BISECTION, 1, count, 0.0, "B")
        if failed or found != count:
            raise InputError(f"only {found} of {count} singular values can be found; check that all weights are finite numbers")
        columns, failed = dstein(diagonal, beside, values[:count], blocks, ends)
        if failed:
            raise LinAlgError(f"inverse iteration did not converge for {failed} of {count} eigenvectors")
        vectors = self._reflected(torch.from_numpy(columns.T))
        self.reflections.rows.clear()
        order = np.argsort(values[:count], kind="stable")
        return vectors if (np.diff(order) > 0).all() else vectors[torch.from_numpy(order)]

    def _reflected(self, vectors: Float64[Tensor, "count side"]) -> Float64[Tensor, "count side"]:
        """Q times each vector, in place."""
        for row in reversed(self.reflections.rows):
            panel, start = row.double(), vectors.shape[1] - row.shape[1]
            scales = self.scales[start : start + len(row)]
            products = panel @ panel.T
            mixing = torch.zeros_like(products)  # H_1 H_2 ... = I - Vᵀ mixing V
            for j, scale in enumerate(scales):
                mixing[:j, j] = -scale * (mixing[:j, :j] @ products[:j, j])
                mixing[j, j] = scale
            part = vectors[:, start:]
            part.addmm_((part @ panel.T) @ mixing.T, panel, alpha=-1)
        return vectors
