"""Singular values of groups: from them the error of SVD at every rank is known at once, before anything is compressed.

    relative error at rank r = sqrt(Σ_{j > r} σ_j² / Σ_j σ_j²)      (Eckart and Young 1936)

Spectra are bundled for the presets of MiniLM-L6; those of other groups are computed once (`compute`, with torch) and kept
in the home folder. Reading them needs no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offcomp.files import write_bytes
from offcomp.grouping import is_turned
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.plan import Plan, members

BUNDLED = Path(__file__).parents[1] / "assets" / "spectra"
Spectrum = NDArray[np.float32]
"""Singular values in decreasing order."""


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
def _bundled(model: str, fingerprint: str) -> dict[str, Spectrum]:
    path = BUNDLED / f"{model}.npz"
    if not path.is_file():
        return {}
    with np.load(path) as file:
        return dict(file) if str(file["fingerprint"]) == fingerprint else {}


def find(info: ModelInfo, specs: Sequence[ModuleSpec], stack: str, home: Path) -> Spectrum | None:
    """The singular values of a group where they are known, else None."""
    key = spectrum_key(specs, stack)
    bundled = _bundled(info.model, info.fingerprint).get(key) if info.source == "catalogue" else None
    if bundled is not None:
        return bundled
    try:
        with _path(home, info, key).open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError):
        return None


def _path(home: Path, info: ModelInfo, key: str) -> Path:
    return home / "spectra" / info.fingerprint.replace("/", "--")[:20] / f"{key}.npy"


def missing(plan: Plan, info: ModelInfo, home: Path) -> list[str]:
    """Names of the groups whose singular values are not known yet."""
    return [group.name for group in plan.groups if find(info, members(group, info), group.stack, home) is None]


def compute(plan: Plan, home: Path) -> dict[str, Spectrum]:
    """Singular values of every group of a plan, computed with torch where they are not known, and kept in the home folder.

    Raises ModelError, and StorageError where they cannot be kept.
    """
    from offcomp.compress import stack
    from offcomp.models.loading import load
    from offcomp.models.weights import read
    from offcomp.numerics.linalg import singular_values

    loaded = load(plan.model)
    info = loaded.info
    spectra = {}
    for group in plan.groups:
        specs = members(group, info)
        known = find(info, specs, group.stack, home)
        if known is None:
            matrix = stack({spec: read(loaded.model, spec) for spec in specs}, group.stack)
            known = singular_values(matrix).numpy().astype(np.float32)
            _keep(_path(home, info, spectrum_key(specs, group.stack)), known)
        spectra[group.name] = known
    return spectra


def _keep(path: Path, spectrum: Spectrum) -> None:
    content = BytesIO()
    np.save(content, spectrum, allow_pickle=False)
    write_bytes(path, content.getvalue())
