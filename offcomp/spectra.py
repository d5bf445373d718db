"""Singular values of groups: from them the error of SVD at every rank is known at once, before anything is compressed.

    relative error at rank r = sqrt(Σ_{j > r} σ_j² / Σ_j σ_j²)      (Eckart and Young 1936)

Spectra are bundled for the presets of MiniLM-L6; those of other groups are computed once (`compute`, with torch) and kept
in the home folder. `save_spectra` writes those of a whole model so small that they can be shipped without its weights. Reading
them needs no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from offcomp.errors import BudgetTooSmall, InputError
from offcomp.files import write_bytes
from offcomp.grouping import is_turned
from offcomp.methods import SVD
from offcomp.methods.base import choose_size
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.numerics.accounting import Size, budget_for_ratio
from offcomp.numerics.compact import decode, encode
from offcomp.plan import Plan, members
from offcomp.resources import assets_folder

BUNDLED = assets_folder() / "spectra"
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
        """‖W-Ŵ‖² at ranks 0, 1, .. min(rows, cols): the squared norm first, 0 last."""
        energy = np.square(self.values, dtype=np.float64)
        return np.append(np.cumsum(energy[::-1])[::-1], 0.0)


@dataclass(frozen=True)
class ErrorTable:
    """SVD of several matrices at several ratios.

    ranks               (matrices, ratios): DENSE where the matrix stays as it is, OUT_OF_REACH where not even rank 1 fits
    relative_errors     (matrices, ratios): exact but for the rounding of the storage dtype; NaN where out of reach
    together            (ratios,): relative error of all matrices as one; NaN where one is out of reach
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
    """Rank and error of SVD for every matrix at every compression ratio, as a plan with these groups would get them.

    `bytes_per_value` is that of the original weights, which matters with unit "bytes".
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
    """The rank that SVD gets at a ratio, DENSE or OUT_OF_REACH."""
    rows, cols = shape
    original = Size(rows * cols, rows * cols * bytes_per_value)
    try:
        return choose_size(SVD(), rows, cols, budget_for_ratio(original, ratio, unit, dtype))
    except BudgetTooSmall:
        return OUT_OF_REACH


def spectrum_key(specs: Sequence[ModuleSpec], stack: str) -> str:
    """A name for the singular values of a stacked group. The order of members does not matter, nor a turn of a lone one."""
    turned = [is_turned(spec, stack) for spec in specs]
    alone = len(specs) == 1
    parts = sorted(f"{spec.name}{'' if alone or not turn else ' turned'}" for spec, turn in zip(specs, turned, strict=True))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def relative_error(spectra: Sequence[Spectrum], ranks: Sequence[int | None]) -> float:
    """Relative error of several matrices together, each truncated at its rank; None: kept as it is."""
    energies = [np.square(spectrum, dtype=np.float64) for spectrum in spectra]
    tails = [0.0 if rank is None else energy[rank:].sum() for energy, rank in zip(energies, ranks, strict=True)]
    total = sum(energy.sum() for energy in energies)
    return float(np.sqrt(sum(tails) / total)) if total else 0.0


@lru_cache(maxsize=4)
def _bundled(fingerprint: str) -> dict[str, Spectrum]:
    """The spectra that come with offcomp of the model with this fingerprint, by key."""
    for path in sorted(BUNDLED.glob("*.npz")):
        with np.load(path) as file:
            if str(file["fingerprint"]) == fingerprint:
                return dict(file)
    return {}


def find(info: ModelInfo, specs: Sequence[ModuleSpec], stack: str, home: Path) -> Spectrum | None:
    """The singular values of a group where they are known, else None."""
    key = spectrum_key(specs, stack)
    bundled = _bundled(info.fingerprint).get(key)
    if bundled is not None:
        return bundled
    try:
        with _path(home, info, key).open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError):
        return None


def _path(home: Path, info: ModelInfo, key: str) -> Path:
    return home / "spectra" / info.fingerprint / f"{key}.npy"


def missing(plan: Plan, info: ModelInfo, home: Path) -> list[str]:
    """Names of the groups whose singular values are not known yet."""
    return [group.name for group in plan.groups if find(info, members(group, info), group.stack, home) is None]


def compute(plan: Plan, home: Path) -> dict[str, Spectrum]:
    """Singular values of every group of a plan, computed with torch where they are not known, and kept in the home folder.

    Raises ModelError, and StorageError where they cannot be kept.
    """
    from offcomp.grams import Grams
    from offcomp.models.loading import load

    loaded = load(plan.model)
    info = loaded.info
    specs = {group.name: members(group, info) for group in plan.groups}
    known = {group.name: find(info, specs[group.name], group.stack, home) for group in plan.groups}
    wanted = [group for group in plan.groups if known[group.name] is None]
    found = Grams.of_model(loaded.model).spectra([(specs[group.name], group.stack) for group in wanted])
    for group, spectrum in zip(wanted, found, strict=True):
        known[group.name] = spectrum.values
        _keep(_path(home, info, spectrum_key(specs[group.name], group.stack)), spectrum.values)
    return {name: values for name, values in known.items() if values is not None}


def _keep(path: Path, spectrum: Spectrum) -> None:
    content = BytesIO()
    np.save(content, spectrum, allow_pickle=False)
    write_bytes(path, content.getvalue())


def save_spectra(path: Path, fingerprint: str, spectra: Mapping[str, MatrixSpectrum]) -> None:
    """Write spectra by name so small that they can be shipped for a model whose weights are not there: see numerics.compact.

    Errors computed from the file are within .05 % of the exact ones. Raises StorageError.
    """
    arrays = encode([each.values for each in spectra.values()])
    arrays["fingerprint"], arrays["names"] = np.array(fingerprint), np.array("\n".join(spectra))
    arrays["shapes"] = np.array([each.shape for each in spectra.values()], dtype=np.int32).reshape(-1, 2)
    content = BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_bytes(path, content.getvalue())


def load_spectra(path: Path) -> tuple[str, dict[str, MatrixSpectrum]]:
    """(fingerprint of the model, spectra by name) of a file that `save_spectra` wrote. Raises InputError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        names = str(arrays["names"]).split("\n") if len(arrays["shapes"]) else []
        spectra = {
            name: MatrixSpectrum(int(rows), int(cols), values)
            for name, (rows, cols), values in zip(names, arrays["shapes"], decode(arrays), strict=True)
        }
        return str(arrays["fingerprint"]), spectra
    except (OSError, ValueError, KeyError, IndexError, BadZipFile) as error:
        raise InputError(f"{path} is not a file of spectra ({error}); write one with offcomp.spectra.save_spectra") from None
