"""What is known of a model, read from a file: bundled with offcomp, or kept in the home folder since the model was first seen.

The app's process reads listings here without loading torch. Only a model that was never seen needs `loading.describe`, which
the app runs in a process of its own.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from offcomp.errors import ModelError, StorageError
from offcomp.files import read_json, write_json
from offcomp.models.catalogue import ModelInfo
from offcomp.models.sources import bundled_info, fingerprint, resolve


def known_info(model: str, home: Path) -> ModelInfo | None:
    """The listing of a model whose files have not changed since it was made, or None.

    Raises ModelError where there is no such model, or its files are damaged or unsafe.
    """
    bundled, mark = bundled_info(model), fingerprint(resolve(model))
    if bundled is not None and bundled.fingerprint == mark:
        return bundled
    kept = _kept_info(home, mark)
    return None if kept is None else replace(kept, model=model)


def model_info(model: str, home: Path) -> ModelInfo:
    """The listing of a model, made with torch and kept in the home folder where it is not known yet. Raises ModelError."""
    info = known_info(model, home)
    if info is None:
        from offcomp.models.loading import describe

        info = describe(model)
        _keep(home, fingerprint(resolve(model)), info)
    return info


def _path(home: Path, mark: str) -> Path:
    return home / "models" / f"{mark.replace('/', '--')[:80]}.json"


def _kept_info(home: Path, mark: str) -> ModelInfo | None:
    document = read_json(_path(home, mark))
    try:
        counted = document is not None and "num_bytes" in document  # else from before tensors had dtypes of their own
        return ModelInfo.from_dict(document) if counted else None
    except ModelError:
        return None


def _keep(home: Path, mark: str, info: ModelInfo) -> None:
    """A listing that cannot be kept is made again next time, so a full disk is no reason to stop here."""
    with suppress(StorageError):
        write_json(_path(home, mark), info.to_dict())
