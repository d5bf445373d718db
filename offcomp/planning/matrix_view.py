"""Heat maps of a weight matrix at every rank, from a small file that can be read with NumPy alone.

Let W = L Rᵀ with L = U Σ and R = V. The rank-r truncated SVD of W (rows, cols) is L[:, :r] · R[:, :r]ᵀ. A heat map has at most
128 x 128 cells, each of which shows the mean of a block of weights. The factors can be averaged before they are
multiplied, so drawing takes milliseconds:

    heat map at rank r = mean(L)[:, :r] · mean(R)[:, :r]ᵀ

The components are orthogonal, so the residual energy of a block of rows is exactly the sum over j ≥ r of the block's squared
entries in L_j. The same applies to columns. The file contains these means and energies for two orderings of the rows and
columns and, for at most 2000 rows, the fraction of each row's squared norm that is retained at each rank. `matrix_view_fit`
writes the file, and `read_view` reads it.
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
MAX_CELLS = 128
MAX_ROWS = 2000
MAX_ENTRIES = 2_000_000
"""Maximum number of entries in `View.kept`, which limits large matrices to fewer than MAX_ROWS sampled rows."""

ORDERS = {"stored": "as stored", "norm": "by norm"}
SHARED = ("values", "sampled", "norms", "kept")
BY_ORDER = ("original", "left", "right", "row_energy", "column_energy")

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Maps:
    """Block means of W, its truncated SVD and the residual, each of shape (row blocks, column blocks)."""

    original: Array
    reconstruction: Array
    residual: Array


@dataclass(frozen=True, eq=False)
class View:
    """Data for the heat maps of one matrix, with its rows and columns in a given order.

    values          (k,) singular values
    original        (row blocks, column blocks) means of W
    left, right     (row blocks, k) and (column blocks, k): means whose product is the mean of W
    row_energy      (row blocks, k): squared norm of each component within a block of rows; column_energy likewise
    sampled         (n,) indices of the sampled rows, in stored order
    norms           (n,) norms of the sampled rows
    kept            (n, k): fraction of a sampled row's squared norm that is retained at ranks 1, 2, ..., k
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
        """The three heat maps at this rank."""
        reconstruction = self.left[:, :rank] @ self.right[:, :rank].T
        return Maps(self.original, reconstruction, self.original - reconstruction)

    def cosines(self, rank: int) -> NDArray[np.float64]:
        """Cosine similarity (n,) between each sampled row and its reconstruction, the row's projection; NaN for zero rows."""
        cosines = np.sqrt(self.kept[:, rank - 1].astype(np.float64))
        return np.where(self.norms > 0, cosines, np.nan)


def block_starts(length: int) -> NDArray[np.int64]:
    """Start index of each block along a side, followed by the side's length; at most MAX_CELLS blocks of similar length."""
    blocks = min(length, MAX_CELLS)
    return np.arange(blocks + 1) * length // blocks


def weights_in_a_cell(length: int) -> str:
    """Number of weights per cell along a side, as text."""
    size = length / min(length, MAX_CELLS)
    return f"{size:.0f}" if size.is_integer() else f"about {size:.1f}" if size < 10 else f"about {size:.0f}"


def view_path(info: ModelInfo, spec: ModuleSpec, home: Path) -> Path:
    """Path of a module's view file, whether or not the file exists."""
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
    """Read a matrix's view in the given order, or return None if the file is missing, corrupt or for a different shape."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["schema"]) != SCHEMA or tuple(file["shape"]) != shape:
                return None
            shared = {name: file[name] for name in SHARED}
            ordered = {name: file[f"{order}_{name}"] for name in BY_ORDER}
            return View(rows=shape[0], cols=shape[1], **shared, **ordered)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
