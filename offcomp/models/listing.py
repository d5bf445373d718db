"""What is known of a model, read from a file: bundled with offcomp, or kept in the home folder since the model was first seen.

The app's process reads listings here without loading torch. Only a model that was never seen needs `loading.describe`, which
the app runs in a process of its own. Listings are found by content: a copy of a known model is known, wherever it lies.

    HOME/models/FINGERPRINT-VERSIONS.json
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from offcomp.environment import versions
from offcomp.errors import ModelError, StorageError
from offcomp.files import read_json, write_json
from offcomp.models import hub
from offcomp.models.catalogue import MODELS, ModelInfo
from offcomp.models.folder_faults import check_is_whole
from offcomp.models.identity import Identity, identify
from offcomp.models.sources import bundled_info, resolve

LISTING = 3
"""Raised whenever the same files would be listed otherwise, so that listings of former versions are made anew."""


def identity_of(model: str) -> Identity | None:
    """What the files of a model are now; None for one of a hub that was not fetched yet.

    Raises ModelError where there is no such model, or its files cannot be read.
    """
    folder = resolve(model).folder or hub.cached_folder(model)
    if folder is None:
        return None
    check_is_whole(folder)
    return identify(folder)


def check_unchanged(info: ModelInfo) -> None:
    """Raise ModelError where the files of a model are no longer those that it was described or loaded from."""
    if identity_of(info.model) != Identity(info.fingerprint, info.reads):
        raise ModelError(f"The files of '{info.model}' changed while it was in use; try again once they are whole.")


def known_info(model: str, home: Path) -> ModelInfo | None:
    """The listing of a model whose weights and config have not changed since it was made, or None.

    Raises ModelError where there is no such model, or its files are damaged or unsafe.
    """
    identity = identity_of(model)
    if identity is None:
        return None
    found = _bundled().get(identity.fingerprint) or _kept_info(home, identity.fingerprint)
    return found and replace(found, model=model, source=resolve(model).source, reads=identity.reads)


def model_info(model: str, home: Path) -> ModelInfo:
    """The listing of a model, made with torch and kept in the home folder where it is not known yet. Raises ModelError."""
    info = known_info(model, home)
    if info is None:
        if resolve(model).source == "hub":
            hub.snapshot(model)  # what cannot be had is told before torch is loaded
        from offcomp.models.loading import describe

        info = describe(model)
        _keep(home, info)
    return info


@lru_cache(maxsize=1)
def _bundled() -> dict[str, ModelInfo]:
    """The descriptions that come with offcomp, by fingerprint, so that listing these models needs no torch."""
    infos = (bundled_info(entry.name) for entry in MODELS)
    return {info.fingerprint: info for info in infos if info is not None}


def _path(home: Path, mark: str) -> Path:
    """Where a listing is; how weights are listed is up to transformers and to offcomp."""
    made_by = json.dumps([LISTING, versions()["transformers"]])
    return home / "models" / f"{mark}-{hashlib.sha256(made_by.encode()).hexdigest()[:8]}.json"


def _kept_info(home: Path, mark: str) -> ModelInfo | None:
    document = read_json(_path(home, mark))
    try:
        info = None if document is None else ModelInfo.from_dict(document)
    except ModelError:
        return None
    return info if info is not None and info.fingerprint == mark else None


def _keep(home: Path, info: ModelInfo) -> None:
    """A listing that cannot be kept is made again next time, so a full disk is no reason to stop here."""
    with suppress(StorageError):
        write_json(_path(home, info.fingerprint), info.to_dict())
