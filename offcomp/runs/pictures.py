"""What Inspect shows of a matrix that a run compressed, kept beside the run's stored tensors. Does not import torch.

    RUN/pictures/MODULE.npz     a `Picture` of the module's reconstruction for each order of rows and columns

The file is made on demand (`live_matrices`) from the stored tensors of the module's group and from the model. It records the
size and time of change of the group's file; the run identifies the model. It is removed with the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from offcomp.errors import InputError
from offcomp.files import changed, write_bytes
from offcomp.models.catalogue import ModuleSpec
from offcomp.planning.matrix_view import ORDERS, Picture, file_name
from offcomp.planning.plan import Group
from offcomp.runs.store import Run

SCHEMA = 1
FOLDER = "pictures"
SHARED = ("cosines", "norm_ratios")
BY_ORDER = ("reconstruction", "residual", "rows_lost", "columns_lost")


def group_of(run: Run, module: str) -> Group:
    """The group of a run's plan that contains a module. Raises InputError."""
    for group in run.plan.groups:
        if module in group.modules:
            return group
    raise InputError(f"run {run.id} did not compress {module}; choose another run")


def read_picture(run: Run, spec: ModuleSpec, order: str) -> Picture | None:
    """The picture of a module's reconstruction; None if it has not been made from the run's current tensors, or is damaged."""
    try:
        with np.load(_path(run, spec), allow_pickle=False) as file:
            if int(file["schema"]) != SCHEMA or tuple(file["stamp"].tolist()) != _stamp(run, spec):
                return None
            shared = {name: file[name] for name in SHARED}
            ordered = {name: file[f"{order}_{name}"] for name in BY_ORDER}
            return Picture(**shared, **ordered, lost=float(file["lost"]))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def save_pictures(run: Run, spec: ModuleSpec, pictures: Mapping[str, Picture]) -> None:
    """Keep the picture of a module's reconstruction in each order. Raises StorageError."""
    first = pictures[next(iter(ORDERS))]
    arrays: dict[str, NDArray[np.generic]] = {name: getattr(first, name) for name in SHARED}
    arrays |= {f"{order}_{name}": getattr(picture, name) for order, picture in pictures.items() for name in BY_ORDER}
    content = BytesIO()
    stamp = np.array(_stamp(run, spec), np.int64)
    np.savez(content, allow_pickle=False, schema=np.array(SCHEMA), stamp=stamp, lost=np.array(first.lost), **arrays)
    write_bytes(_path(run, spec), content.getvalue())


def _path(run: Run, spec: ModuleSpec) -> Path:
    return run.folder / FOLDER / file_name(spec)


def _stamp(run: Run, spec: ModuleSpec) -> tuple[int, ...] | None:
    """Time of change and size of the file with the group's stored tensors; None if there is none."""
    return changed(run.group_file(group_of(run, spec.name).name))
