"""Read model listings from files that are bundled with offcomp, or cached in the home folder on a model's first use.

Saved listings let the app's main process work without torch. Only the first use of a model requires `loading.describe`,
which the app runs in a separate process. Listings are keyed by content, so a copy of a known model is recognised wherever it
is stored. They hold the kinds that offcomp recognises; a file of corrected kinds is applied when a listing is read.

    HOME/models/FINGERPRINT-VERSIONS.json
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from offcomp.errors import InputError, ModelError, StorageError
from offcomp.files import home_folder, read_json, write_json
from offcomp.models import hub
from offcomp.models.bundled_models import MODELS
from offcomp.models.catalogue import ModelInfo
from offcomp.models.environment import versions
from offcomp.models.folder_faults import check_is_complete
from offcomp.models.identity import KINDS_FILE, Identity, identify
from offcomp.models.kinds_file import corrected, read_kinds, save_kinds
from offcomp.models.sources import bundled_info, resolve

LISTING = 5
"""Version of the listing format; increment it when listings change, to invalidate those already cached."""


def identity_of(model: str) -> Identity | None:
    """The identity of a model's current files; None for a hub model that has not been downloaded.

    Raises ModelError if there is no such model or its files cannot be read.
    """
    folder = folder_of(model)
    if folder is None:
        return None
    check_is_complete(folder)
    return identify(folder)


def folder_of(model: str) -> Path | None:
    """The folder with a model's files; None for a hub model that has not been downloaded. Raises ModelError as `resolve`."""
    return resolve(model).folder or hub.cached_folder(model)


def check_unchanged(info: ModelInfo) -> None:
    """Raise ModelError if a model's files have changed since it was described or loaded."""
    if identity_of(info.model) != Identity(info.fingerprint, info.reads):
        raise ModelError(f"The files of '{info.model}' changed while it was in use; try again once they are complete.")


def known_info(model: str, home: Path) -> ModelInfo | None:
    """The existing listing for the model's weights and config, or None if the model has not been listed yet.

    Raises ModelError if there is no such model, or its files, including one with corrected kinds, are damaged or unsafe.
    """
    info, folder = recognised_info(model, home), folder_of(model)
    if info is None or folder is None or not (folder / KINDS_FILE).is_file():
        return info
    identity = identify(folder)
    return replace(info, modules=corrected(info.modules, folder), fingerprint=identity.fingerprint, reads=identity.reads)


def recognised_info(model: str, home: Path) -> ModelInfo | None:
    """Like `known_info`, but as if the model's folder had no file of corrected kinds."""
    folder = folder_of(model)
    if folder is None:
        return None
    check_is_complete(folder)
    identity = identify(folder, as_recognised=True)
    info = _bundled().get(identity.fingerprint) or _cached(home, identity.fingerprint)
    return info and replace(info, model=model, source=resolve(model).source, reads=identity.reads)


def kept_kinds(model: str) -> dict[str, Any]:
    """The content of a model's file of corrected kinds; empty if it has none. Raises ModelError if it cannot be read."""
    folder = folder_of(model)
    return read_kinds(folder) if folder else {}


def keep_kinds(model: str, content: bytes | None, home: Path) -> None:
    """Write the file of corrected kinds of a model on this machine, or remove it if the content is None.

    Raises InputError for a model whose folder is not the user's own; ModelError if the file does not fit the model, which then
    keeps its kinds; and StorageError.
    """
    folder = folder_of(model)
    if resolve(model).source == "catalogue" or folder is None:
        raise InputError(f"the kinds of {model} cannot be corrected; copy it to a folder of your own, and name that folder")
    save_kinds(content, folder, lambda: model_info(model, home))


def model_info(model: str, home: Path | None = None) -> ModelInfo:
    """Return a model's listing; if none exists yet, create it with torch and cache it in the home folder. Raises ModelError."""
    home = home or home_folder()
    info = known_info(model, home)
    if info is None:
        if resolve(model).source == "hub":
            hub.snapshot(model)  # fails before torch is loaded if the model is unavailable
        from offcomp.models.loading import describe

        recognised = describe(model, as_recognised=True)
        with suppress(StorageError):  # for example, if the disk is full; the listing is created again next time
            write_json(_path(home, recognised.fingerprint), recognised.to_dict())
        info = known_info(model, home) or describe(model)
    return info


@lru_cache(maxsize=1)
def _bundled() -> dict[str, ModelInfo]:
    """Descriptions of the catalogue models by fingerprint, shipped with offcomp to avoid loading torch."""
    infos = (bundled_info(entry.name) for entry in MODELS)
    return {info.fingerprint: info for info in infos if info is not None}


def _path(home: Path, fingerprint: str) -> Path:
    """Path of a cached listing; the file name depends on the versions of transformers and the listing format."""
    format_versions = json.dumps([LISTING, versions()["transformers"]])
    return home / "models" / f"{fingerprint}-{hashlib.sha256(format_versions.encode()).hexdigest()[:8]}.json"


def _cached(home: Path, fingerprint: str) -> ModelInfo | None:
    """The listing cached in the home folder, or None if it is missing or damaged."""
    try:
        info = ModelInfo.from_dict(read_json(_path(home, fingerprint)))
    except ModelError:
        return None
    return info if info.fingerprint == fingerprint else None
