"""Restrict the folders from which models can be opened in the app or through a link. The command line has no such limit."""

from __future__ import annotations

import os
from pathlib import Path

from offcomp.errors import ModelError
from offcomp.files import home_folder
from offcomp.models.bundled_models import catalogue_model
from offcomp.models.sources import HUB_ID

ROOTS = "OFFCOMP_MODEL_ROOTS"
"""Environment variable: folders to use in place of the user's home and the working directory, separated as in PATH."""


def model_roots() -> tuple[Path, ...]:
    """Return the allowed folders, with symbolic links resolved: those in ROOTS, or else the user's home and the working
    directory. The data folder, which contains uploads, is always allowed; a file system root is allowed only if listed."""
    configured = [_resolved(text) for text in os.environ.get(ROOTS, "").split(os.pathsep) if text]
    default_roots = [folder for folder in (_resolved("~"), Path.cwd()) if folder.name]
    return tuple(dict.fromkeys([*(configured or default_roots), home_folder().resolve()]))


def _resolved(text: str) -> Path:
    return Path(os.path.expanduser(text)).resolve()  # noqa: PTH111  # Path raises if the home folder is unknown


def check_folder(model: str) -> None:
    """Raise ModelError for a folder outside the roots, whether or not it exists."""
    if catalogue_model(model):
        return
    try:
        folder = Path(model).expanduser().resolve()
        is_hub_id = HUB_ID.fullmatch(model) is not None and not folder.exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL byte, unknown home, a symlink loop: not a folder
        return
    roots = model_roots()
    if is_hub_id or any(folder.is_relative_to(root) for root in roots):
        return
    raise ModelError(
        f"the folder {model[:200]!r} is not inside {' or '.join(map(str, roots))}, where the app looks for models; "
        f"move it there, or set {ROOTS} to one of its parent folders before starting the app"
    )
