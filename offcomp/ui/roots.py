"""Below which folders a model may lie that is typed in the app or named by a link. The command line has no such limit."""

from __future__ import annotations

import os
from pathlib import Path

from offcomp.errors import ModelError
from offcomp.files import home_folder
from offcomp.models.catalogue import catalogue_model
from offcomp.models.sources import HUB_ID

ROOTS = "OFFCOMP_MODEL_ROOTS"
"""The variable that names other folders, with the separator of paths between them, instead of home and start folder."""


def model_roots() -> tuple[Path, ...]:
    """The folders, without symbolic links: those that ROOTS names, else the user's home and where the app was started; the
    data folder, where uploads are, comes last. The root of a file system counts only where ROOTS names it."""
    named = [_resolved(text) for text in os.environ.get(ROOTS, "").split(os.pathsep) if text]
    usual = [folder for folder in (_resolved("~"), Path.cwd()) if folder.name]
    return tuple(dict.fromkeys([*(named or usual), home_folder().resolve()]))


def _resolved(text: str) -> Path:
    return Path(os.path.expanduser(text)).resolve()  # noqa: PTH111  # Path raises where there is no such home


def check_place(model: str) -> None:
    """Refuse a folder outside of the roots, whether it is there or not. Raises ModelError."""
    if catalogue_model(model):
        return
    try:
        folder = Path(model).expanduser().resolve()
        is_hub_id = HUB_ID.fullmatch(model) is not None and not folder.exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, no such home, links in a circle: no folder
        return
    roots = model_roots()
    if is_hub_id or any(folder.is_relative_to(root) for root in roots):
        return
    raise ModelError(
        f"the folder {model[:200]!r} is not below {' or '.join(map(str, roots))}, where the app looks for models; "
        f"move it there, or set {ROOTS} to a folder above it before you start the app"
    )
