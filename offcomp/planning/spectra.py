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
from offcomp.models.listing import check_unchanged, model_info
from offcomp.planning.plan import Group, Plan, members
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

    Each is saved as soon as it is known. Weights are read one module at a time, and no model is loaded. Raises ModelError if
    the model cannot be used, and StorageError if the values cannot be saved.
    """
    info = model_info(plan.model, home)
    specs = {group.name: members(group, info) for group in plan.groups}
    known = {group.name: find(info, specs[group.name], group.stack, home) for group in plan.groups}
    unknown = [group for group in plan.groups if known[group.name] is None]
    if unknown:
        from offcomp.models.offloading import StoredMatrices
        from offcomp.numerics.grams import in_parallel
        from offcomp.planning.grams import Grams

        source = StoredMatrices(plan.model)
        check_unchanged(info)  # afterwards, `source` itself refuses files that have changed

        def spectrum_of(group: Group) -> Spectrum:
            values = Grams(source.view).spectrum(specs[group.name], group.stack).values  # no two groups share a module
            _save(_path(home, info, spectrum_key(specs[group.name], group.stack)), values)
            return values

        known |= dict(zip((group.name for group in unknown), in_parallel(spectrum_of, unknown), strict=True))
    return {name: values for name, values in known.items() if values is not None}


def _save(path: Path, spectrum: Spectrum) -> None:
    content = BytesIO()
    np.save(content, spectrum, allow_pickle=False)
    write_bytes(path, content.getvalue())
