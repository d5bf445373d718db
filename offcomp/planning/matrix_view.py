"""Pictures of a weight matrix at every rank, from a small file that can be read with NumPy alone.

Let W = L Rᵀ with L = U Σ and R = V. The SVD of W (rows, cols) truncated to rank r is the product of the r leading columns of L
and R. A picture of it has at most 128 x 128 cells, each the mean of a block of weights. Since the factors can be averaged
first,

    picture at rank r = mean(L)[:, :r] · mean(R)[:, :r]ᵀ

takes milliseconds. The residual energy of a block of rows is exact, with no averaging, because the components are orthogonal:
it is the sum over j ≥ r of the block's squared entries in L_j, and likewise for columns. The file (`read_view`) contains these
means and energies for two orders of the rows and columns and, for at most 2000 rows, the fraction of their squared length that
each rank retains. `matrix_view_fit` writes it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from offcomp.files import write_bytes
from offcomp.models.catalogue import ModelInfo, ModuleSpec

SCHEMA = 1
MOST_CELLS = 128
MOST_ROWS = 2000
MOST_ENTRIES = 2_000_000
"""Limit on the number of entries of `View.kept`; it limits large matrices to fewer rows than MOST_ROWS."""

ORDERS = {"stored": "as stored", "norm": "by norm"}
SHARED = ("values", "sampled", "norms", "kept")
BY_ORDER = ("original", "left", "right", "row_energy", "column_energy")

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Maps:
    """Block means, (row blocks, column blocks), of W, of its truncated SVD and of the residual."""

    original: Array
    reconstruction: Array
    residual: Array


@dataclass(frozen=True, eq=False)
class View:
    """One matrix with its rows and columns in one order.

    values          (k,) singular values
    original        (row blocks, column blocks) means of W
    left, right     (row blocks, k) and (column blocks, k): means whose product is the mean of W
    row_energy      (row blocks, k): squared length of each component within a block of rows; column_energy likewise
    sampled         (n,) indices of the sampled rows, in stored order
    norms           (n,) norms of the sampled rows
    kept            (n, k): fraction of a sampled row's squared length that ranks 1, 2, .. k retain
    """

    rows: int
    cols: int
    values: Array
    original: Array
    left: Array
    right: Array
    row_energy: Array
    column_energy: Array
    sampled: NDArray[np.int32]
    norms: Array
    kept: NDArray[np.float16]

    def maps(self, rank: int) -> Maps:
        """The three pictures at this rank."""
        reconstruction = self.left[:, :rank] @ self.right[:, :rank].T
        return Maps(self.original, reconstruction, self.original - reconstruction)

    def cosines(self, rank: int) -> NDArray[np.float64]:
        """(n,) cosine between each sampled row and its reconstruction (a projection); NaN where the row is zero."""
        cosines = np.sqrt(self.kept[:, rank - 1].astype(np.float64))
        return np.where(self.norms > 0, cosines, np.nan)


def block_starts(length: int) -> NDArray[np.int64]:
    """Start index of each block along a side, then the length of the side; at most MOST_CELLS blocks of nearly equal length."""
    blocks = min(length, MOST_CELLS)
    return np.arange(blocks + 1) * length // blocks


def weights_in_a_cell(length: int) -> str:
    """Number of weights per cell along a side, as text."""
    size = length / min(length, MOST_CELLS)
    return f"{size:.0f}" if size.is_integer() else f"about {size:.1f}" if size < 10 else f"about {size:.0f}"


def view_path(info: ModelInfo, spec: ModuleSpec, home: Path) -> Path:
    """Path of a module's view file, whether or not it exists."""
    safe = re.sub(r"[^A-Za-z0-9._+-]", "-", spec.name)
    if len(safe) > 100 or safe != spec.name or safe.startswith("."):
        safe = f"{safe[:80].lstrip('.')}-{hashlib.sha256(spec.name.encode()).hexdigest()[:12]}"
    return home / "views" / info.fingerprint / f"{safe}.npz"


def save_view(path: Path, shape: tuple[int, int], arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write a view file atomically. Raises StorageError."""
    content = BytesIO()
    np.savez(content, allow_pickle=False, schema=np.array(SCHEMA), shape=np.array(shape), **arrays)
    write_bytes(path, content.getvalue())


def read_view(path: Path, shape: tuple[int, int], order: str = "stored") -> View | None:
    """The matrix in one order, read from its file; None if the file is missing, damaged or from a different matrix."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["schema"]) != SCHEMA or tuple(file["shape"]) != shape:
                return None
            shared = {name: file[name] for name in SHARED}
            ordered = {name: file[f"{order}_{name}"] for name in BY_ORDER}
            return View(rows=shape[0], cols=shape[1], **shared, **ordered)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
