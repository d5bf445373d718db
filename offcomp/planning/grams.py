"""Singular values of modules and of groups of modules, computed from cached Gram matrices.

A stacked group S has the Gram matrix SᵀS = Σ MᵀM over its members M, each transposed if the stacking requires it: "rows" sums
WᵀW over the weights, "columns" sums WWᵀ, and "residual" sums the Gram matrix of each member's residual-stream side. The
spectrum of any group is therefore the solution of a small eigenvalue problem. If S has fewer rows than columns, the smaller
matrix SSᵀ is used: its diagonal blocks are the members' Gram matrices, and its off-diagonal blocks are products of two members.

Gram matrices are cached up to a total of `CACHE_BYTES`; any beyond this limit are recomputed each time they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import numpy as np

from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.planning.grouping import group_shape, is_transposed
from offcomp.planning.spectrum import MatrixSpectrum, Spectrum, spectrum_key

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

CACHE_BYTES = 256 * 2**20
LARGEST_SIDE = 16384  # a Gram matrix with sides of this length takes 2 GB


class Grams:
    """Gram matrices and spectra of modules; `read` returns a module's (rows, cols) matrix."""

    def __init__(self, read: Callable[[ModuleSpec], Tensor]):
        self.read = read
        self._grams: dict[tuple[ModuleSpec, str], Tensor] = {}
        self._spectra: dict[str, Spectrum] = {}
        self._cached_bytes = 0

    @staticmethod
    def of_model(model: PreTrainedModel) -> Grams:
        """Create from a loaded model. The model's weights are not copied and must not change while the object is in use."""
        from offcomp.models.weights import stored_view

        return Grams(lambda spec: stored_view(model, spec))

    def gram(self, spec: ModuleSpec, side: str) -> Tensor:
        """Float64 Gram matrix of a module's "columns", WᵀW (cols, cols), or of its "rows", WWᵀ (rows, rows)."""
        from offcomp.numerics.grams import gram

        if (spec, side) in self._grams:
            return self._grams[spec, side]
        matrix = self.read(spec)
        product = gram(matrix if side == "columns" else matrix.T)
        if self._cached_bytes + product.nbytes <= CACHE_BYTES:
            self._cached_bytes += product.nbytes
            self._grams[spec, side] = product
        return product

    def spectrum(self, specs: Sequence[ModuleSpec], stack: str) -> MatrixSpectrum:
        """The singular values of a stacked group. Raises InputError if the members cannot be stacked."""
        shape, key = group_shape(specs, stack), spectrum_key(specs, stack)
        if key not in self._spectra:
            self._spectra[key] = self._singular_values(specs, stack, shape)
        return MatrixSpectrum(*shape, self._spectra[key])

    def spectra(self, groups: Sequence[tuple[Sequence[ModuleSpec], str]]) -> list[MatrixSpectrum]:
        """The singular values of several stacked groups, each given as (members, stack), computed in parallel."""
        from offcomp.numerics.grams import in_parallel

        different = {spectrum_key(*group): group for group in groups}
        in_parallel(lambda group: self.spectrum(*group), list(different.values()))
        return [self.spectrum(*group) for group in groups]

    def _singular_values(self, specs: Sequence[ModuleSpec], stack: str, shape: tuple[int, int]) -> Spectrum:
        """Singular values of the stacked (rows, cols) matrix, computed from the smaller of its two Gram matrices."""
        from offcomp.numerics.grams import spectrum_of_gram

        side = min(shape)
        if side > LARGEST_SIDE:
            names = ", ".join(spec.name for spec in specs)
            raise InputError(
                f"the spectrum of {names} needs a Gram matrix of size {side}, but the limit is {LARGEST_SIDE}; split the group"
            )
        gram_matrix = self._of_columns(specs, stack) if shape[1] <= shape[0] else self._of_rows(specs, stack)
        return spectrum_of_gram(gram_matrix, side).cpu().numpy().astype(np.float32)

    def _of_columns(self, specs: Sequence[ModuleSpec], stack: str) -> Tensor:
        return reduce(add, (self.gram(spec, "rows" if is_transposed(spec, stack) else "columns") for spec in specs))

    def _of_rows(self, specs: Sequence[ModuleSpec], stack: str) -> Tensor:
        from offcomp.numerics.grams import gram_of_rows

        transposed = [is_transposed(spec, stack) for spec in specs]
        diagonal = [self.gram(spec, "columns" if flip else "rows") for spec, flip in zip(specs, transposed, strict=True)]
        if len(specs) == 1:
            return diagonal[0]
        matrices = [self.read(spec).T if flip else self.read(spec) for spec, flip in zip(specs, transposed, strict=True)]
        return gram_of_rows(matrices, diagonal)
