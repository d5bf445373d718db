"""Singular values of groups of modules, either bundled with offcomp or computed once and cached in the home folder.

Reading stored values does not require torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from offcomp.files import assets_folder, write_bytes
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.planning.plan import Plan, members
from offcomp.planning.spectrum import Spectrum, spectrum_key

BUNDLED = assets_folder() / "spectra"


@lru_cache(maxsize=4)
def _bundled(fingerprint: str) -> dict[str, Spectrum]:
    """The bundled spectra of the model with this fingerprint, by key."""
    for path in sorted(BUNDLED.glob("*.npz")):
        with np.load(path) as file:
            if str(file["fingerprint"]) == fingerprint:
                return dict(file)
    return {}


def find(info: ModelInfo, specs: Sequence[ModuleSpec], stack: str, home: Path) -> Spectrum | None:
    """The singular values of a group, or None if they are neither bundled nor cached."""
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
    """Names of the groups whose singular values have yet to be computed."""
    return [group.name for group in plan.groups if find(info, members(group, info), group.stack, home) is None]


def compute(plan: Plan, home: Path) -> dict[str, Spectrum]:
    """Singular values of every group in a plan; missing values are computed with torch and cached in the home folder.

    Raises ModelError if the model cannot be used, and StorageError if the values cannot be saved.
    """
    from offcomp.models.loading import load
    from offcomp.planning.grams import Grams

    loaded = load(plan.model)
    info = loaded.info
    specs = {group.name: members(group, info) for group in plan.groups}
    known = {group.name: find(info, specs[group.name], group.stack, home) for group in plan.groups}
    unknown = [group for group in plan.groups if known[group.name] is None]
    computed = Grams.of_model(loaded.model).spectra([(specs[group.name], group.stack) for group in unknown])
    for group, spectrum in zip(unknown, computed, strict=True):
        known[group.name] = spectrum.values
        _save(_path(home, info, spectrum_key(specs[group.name], group.stack)), spectrum.values)
    return {name: values for name, values in known.items() if values is not None}


def _save(path: Path, spectrum: Spectrum) -> None:
    content = BytesIO()
    np.save(content, spectrum, allow_pickle=False)
    write_bytes(path, content.getvalue())
