"""Heat maps of a weight matrix and of its reconstructions; those of SVD, at every rank, come from a small file.

A heat map has at most 96 x 96 cells, each of which stands for a block of weights: their mean in the original and in a
reconstruction, and the root mean square of the differences in a residual. Reading the file requires only NumPy.

Let W = L Rᵀ with L = U Σ and R = V. The rank-r truncated SVD of W (rows, cols) is L[:, :r] · R[:, :r]ᵀ. The factors can be
averaged before they are multiplied, so drawing takes milliseconds:

    means of the blocks at rank r = mean(L)[:, :r] · mean(R)[:, :r]ᵀ

The components are orthogonal, so the residual energy of a block of rows is exactly the sum over j ≥ r of the block's squared
entries in L_j. The same applies to columns. The residual energy of a cell has no such form: the file contains it for some
ranks, and it is interpolated between them so that all cells together have exactly the energy of the residual.

The file contains all this for two orderings of the rows and columns and, for at most 2000 rows, a name and the fraction of the
row's squared norm that is retained at each rank. `matrix_view_fit` writes the file, and `read_view` reads it.
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

SCHEMA = 2
MAX_CELLS = 96
MAX_ROWS = 2000
MAX_ENTRIES = 2_000_000
"""Maximum number of entries in `View.kept`, which limits large matrices to fewer than MAX_ROWS sampled rows."""

ORDERS = {"stored": "as stored", "norm": "by norm"}
SHARED = ("values", "sampled", "names", "norms", "kept", "ranks")
BY_ORDER = ("original", "left", "right", "row_energy", "column_energy", "residuals")

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Picture:
    """A reconstruction of a matrix, reduced to what is drawn and listed.

    reconstruction      (row blocks, column blocks) means of the reconstruction
    residual            (row blocks, column blocks) root mean squares of the residual
    rows_lost           (row blocks,): energy of the residual in each block of rows; columns_lost likewise
    cosines             (n,): cosine similarity between each sampled row and its reconstruction; NaN for zero rows
    norm_ratios         (n,): norm of each reconstructed row, divided by that of the row; NaN for zero rows
    lost                energy of the residual as a fraction of that of the matrix: the squared relative error
    """

    reconstruction: Array
    residual: Array
    rows_lost: Array
    columns_lost: Array
    cosines: NDArray[np.float64]
    norm_ratios: NDArray[np.float64]
    lost: float


@dataclass(frozen=True, eq=False)
class View:
    """Data for the heat maps of one matrix, with its rows and columns in a given order.

    values          (k,) singular values
    original        (row blocks, column blocks) means of W
    left, right     (row blocks, k) and (column blocks, k): means whose product is the mean of W
    row_energy      (row blocks, k): squared norm of each component within a block of rows; column_energy likewise
    ranks           (r,): the ranks, from 0 to k, at which the residual of each cell is known
    residuals       (r, row blocks, column blocks): root mean squares of these residuals, divided by that of W
    sampled         (n,) indices of the sampled rows, in stored order
    names           (n,) their names, such as tokens
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
    ranks: NDArray[np.int32]
    residuals: NDArray[np.float16]
    sampled: NDArray[np.int32]
    names: NDArray[np.str_]
    norms: Array
    kept: NDArray[np.float16]

    @property
    def energy(self) -> float:
        """Squared norm of the matrix."""
        return float(np.square(self.values, dtype=np.float64).sum())

    @property
    def spread(self) -> Array:
        """Root mean square of the weights in each cell."""
        return self._residual(0)

    def picture(self, rank: int) -> Picture:
        """The truncated SVD at this rank. A row of it is a projection, so the norm ratio of a row equals its cosine."""
        kept = np.sqrt(self.kept[:, rank - 1].astype(np.float64))
        cosines = np.where(self.norms > 0, kept, np.nan)
        reconstruction = self.left[:, :rank] @ self.right[:, :rank].T
        one_weight = max(self.rows, self.cols) <= MAX_CELLS
        return Picture(
            reconstruction,
            np.abs(self.original - reconstruction) if one_weight else self._residual(rank),
            self.row_energy[:, rank:].sum(1),
            self.column_energy[:, rank:].sum(1),
            cosines,
            cosines,
            self._lost(rank),
        )

    def _lost(self, rank: int) -> float:
        """The fraction of the energy that is lost at this rank."""
        return float(np.square(self.values[rank:], dtype=np.float64).sum()) / (self.energy or 1.0)

    def _residual(self, rank: int) -> Array:
        """Root mean square of the residual in each cell, from the squares at the two nearest known ranks."""
        after = int(np.searchsorted(self.ranks, rank))
        found = np.square(self.residuals[after].astype(np.float32))
        if self.ranks[after] != rank:
            high, middle, low = (self._lost(int(each)) for each in (self.ranks[after - 1], rank, self.ranks[after]))
            share = (middle - low) / (high - low) if high > low else 0.0
            found += np.float32(share) * (np.square(self.residuals[after - 1].astype(np.float32)) - found)
        return np.sqrt(found) * np.float32(np.sqrt(self.energy / (self.rows * self.cols)))


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
    return home / "views" / info.fingerprint / file_name(spec)


def file_name(spec: ModuleSpec) -> str:
    """Name of a file with data about a module. Module names may be any text, so unusual ones are replaced by a hash."""
    safe = re.sub(r"[^A-Za-z0-9._+-]", "-", spec.name)
    if len(safe) > 100 or safe != spec.name or safe.startswith("."):
        safe = f"{safe[:80].lstrip('.')}-{hashlib.sha256(spec.name.encode()).hexdigest()[:12]}"
    return f"{safe}.npz"


def sampled_rows(rows: int, cols: int) -> NDArray[np.int32]:
    """Indices of the rows of a (rows, cols) matrix whose cosines are listed: at most MAX_ROWS, evenly spaced."""
    number = min(rows, MAX_ROWS, max(1, MAX_ENTRIES // min(rows, cols)))
    return np.unique(np.linspace(0, rows - 1, number).round().astype(np.int32))


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
