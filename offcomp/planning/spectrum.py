"""Singular values of a matrix, which determine the error of SVD at every rank before anything is compressed.

    relative error at rank r = sqrt(Σ_{j > r} σ_j² / Σ_j σ_j²)      (Eckart and Young 1936)

No torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from offcomp.errors import BudgetTooSmall
from offcomp.methods import SVD
from offcomp.methods.base import choose_size
from offcomp.models.catalogue import ModuleSpec
from offcomp.numerics.accounting import Size, budget_for_ratio
from offcomp.planning.grouping import is_transposed

Spectrum = NDArray[np.float32]
"""Singular values in decreasing order."""
DENSE, OUT_OF_REACH = 0, -1


@dataclass(frozen=True, eq=False)
class MatrixSpectrum:
    """The min(rows, cols) singular values of a (rows, cols) matrix, in decreasing order."""

    rows: int
    cols: int
    values: Spectrum

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.rows, self.cols

    @cached_property
    def squared_errors(self) -> NDArray[np.float64]:
        """‖W-Ŵ‖² at ranks 0, 1, ..., min(rows, cols): from the squared norm down to 0."""
        energy = np.square(self.values, dtype=np.float64)
        return np.append(np.cumsum(energy[::-1])[::-1], 0.0)


@dataclass(frozen=True)
class ErrorTable:
    """Ranks and errors of SVD for several matrices at several ratios.

    ranks               (matrices, ratios): DENSE where the matrix stays dense, OUT_OF_REACH where not even rank 1 fits
    relative_errors     (matrices, ratios): exact up to rounding in the storage dtype; NaN where out of reach
    together            (ratios,): relative error over all matrices together; NaN where any of them is out of reach
    """

    ranks: NDArray[np.int64]
    relative_errors: NDArray[np.float64]
    together: NDArray[np.float64]


def errors_at(
    spectra: Sequence[MatrixSpectrum],
    ratios: Sequence[float],
    *,
    unit: str = "parameters",
    dtype: str = "float32",
    bytes_per_value: int = 4,
) -> ErrorTable:
    """Rank and error of SVD for each matrix at each compression ratio, as in a plan with one group per matrix.

    `bytes_per_value` is the size of an original weight; it is used only if the unit is "bytes".
    """
    ranks = np.array(
        [[svd_rank(each.shape, float(ratio), unit, dtype, bytes_per_value) for ratio in ratios] for each in spectra],
        dtype=np.int64,
    ).reshape(len(spectra), len(ratios))
    squared = np.array([each.squared_errors[row] for each, row in zip(spectra, ranks, strict=True)]).reshape(ranks.shape)
    squared = np.where(ranks == DENSE, 0.0, np.where(ranks == OUT_OF_REACH, np.nan, squared))
    energy = np.array([each.squared_errors[0] for each in spectra])
    total = energy.sum()
    return ErrorTable(
        ranks,
        np.sqrt(squared / np.where(energy > 0, energy, 1.0)[:, None]),
        np.sqrt(squared.sum(0) / (total if total > 0 else 1.0)),
    )


@lru_cache(maxsize=4096)
def svd_rank(shape: tuple[int, int], ratio: float, unit: str, dtype: str, bytes_per_value: int) -> int:
    """The SVD rank for a compression ratio, or DENSE or OUT_OF_REACH."""
    rows, cols = shape
    original = Size(rows * cols, rows * cols * bytes_per_value)
    try:
        return choose_size(SVD(), rows, cols, budget_for_ratio(original, ratio, unit, dtype))
    except BudgetTooSmall:
        return OUT_OF_REACH


def energy_rank(singular_values: NDArray[np.floating], share: float, multiple: int = 1) -> int:
    """The smallest rank that keeps this `share` of the energy (sum of squared singular values), rounded up to a `multiple`.

    A rank never exceeds the number of singular values. A matrix of zeros has rank 1.
    """
    energy = np.cumsum(np.square(singular_values, dtype=np.float64))
    rank = int(np.searchsorted(energy, share * energy[-1] * (1 - 1e-12))) + 1
    return min(-(-rank // multiple) * multiple, len(singular_values))


def spectrum_key(specs: Sequence[ModuleSpec], stack: str) -> str:
    """Cache key for the singular values of a stacked group. Member order does not matter, nor does `stack` for one member."""
    transposed = [is_transposed(spec, stack) for spec in specs]
    alone = len(specs) == 1
    parts = sorted(f"{spec.name}{'' if alone or not turn else ' turned'}" for spec, turn in zip(specs, transposed, strict=True))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def relative_error(spectra: Sequence[Spectrum], ranks: Sequence[int | None]) -> float:
    """Combined relative error of several matrices, each truncated to its rank; a rank of None leaves a matrix unchanged."""
    energies = [np.square(spectrum, dtype=np.float64) for spectrum in spectra]
    tails = [0.0 if rank is None else energy[rank:].sum() for energy, rank in zip(energies, ranks, strict=True)]
    total = sum(energy.sum() for energy in energies)
    return float(np.sqrt(sum(tails) / total)) if total else 0.0
