"""Truncated singular value decomposition.

    minimise ‖W - A B‖_F over A (rows, rank), B (rank, cols)

Stored: A and B, rank · (rows + cols) parameters. Below the break-even rank rows · cols / (rows + cols) this is fewer than
the matrix has; above it the matrix stays dense. The squared error is the tail of the spectrum, Σ_{j > rank} σ_j²
(Eckart and Young, "The approximation of one matrix by another of lower rank", Psychometrika 1936), so it is known for
every rank once the singular values are.

Exact, where the paper (arXiv 2302.04045) uses a randomised SVD with the number of iterations chosen on test perplexity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from offcomp.methods.base import CompressedMatrix, Hints, Report, all_ranks, choose_size, ignore_progress, store_dense
from offcomp.numerics.accounting import Budget, Shapes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SVD:
    """Best low-rank approximation of the stacked matrix. Has no options."""

    name: ClassVar[str] = "svd"
    role: ClassVar[str] = "svd"
    title: ClassVar[str] = "SVD"
    paper: ClassVar[str] = "Eckart and Young 1936"
    size_name: ClassVar[str] = "rank"

    @property
    def calibrated(self) -> bool:
        """It needs the weights alone."""
        return False

    def sizes(self, rows: int, cols: int) -> range:
        """Ranks 1 .. min(rows, cols)."""
        return all_ranks(rows, cols)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """The two factors of rank `size`."""
        return {"left": (rows, size), "right": (size, cols)}

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Gram matrix and its eigenvectors."""
        side = min(rows, cols)
        return 0.01 + 5e-11 * rows * cols * side + 1e-9 * side**3

    def fit(
        self,
        matrix: Tensor,
        budget: Budget,
        *,
        hints: Hints | None = None,
        seed: int = 0,
        report: Report = ignore_progress,
    ) -> CompressedMatrix:
        """Truncate at the largest rank within the budget. The seed is not used: the result is unique up to sign."""
        from offcomp.numerics.linalg import low_rank_factors
        from offcomp.numerics.storage import pack

        rows, cols = matrix.shape
        rank = choose_size(self, rows, cols, budget)
        if rank == 0:
            return store_dense(matrix, budget.dtype)
        left, right = low_rank_factors(matrix.float(), rank)
        report(1.0)
        return CompressedMatrix(pack({"left": left, "right": right}, budget.dtype), low_rank, rank)


def low_rank(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: (rows, rank) times (rank, cols)."""
    return tensors["left"] @ tensors["right"]
