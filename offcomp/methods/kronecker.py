"""Sum of Kronecker products.

    minimise ‖W - Σ_k A_k ⊗ B_k‖_F over A_k (m1, n1), B_k (m2, n2), k = 1 .. terms, with m1 m2 = rows and n1 n2 = cols

Write W as m1 x n1 blocks of (m2, n2) and lay each block out as a row: the rearranged matrix R(W) is (m1 n1, m2 n2), and
R(A ⊗ B) = vec(A) vec(B)ᵀ. So the best sum of terms is the best low-rank approximation of R(W), and its squared error is the
tail of the spectrum of R(W) (Van Loan and Pitsianis, "Approximation with Kronecker products", 1993, section 2).

Stored: A (terms, m1 n1) and B (terms, m2 n2), one term a row, and the two heights m1 and m2, which the decoder needs:
terms · (m1 n1 + m2 n2) + 2 parameters.

The shapes follow from rows and cols alone. By default the factors are as equal in size as the divisors allow, so that a term is
cheap; of equally cheap ones the widest A is taken. A (rows, 1) with B (1, cols), and its mirror image, are left out: they are
the SVD. On the weights of MiniLM-L6 no other shape comes near the SVD at equal size (`benchmarks/methods_quality.py`).

The official repository of arXiv 2302.04045 sums r terms as well (50 in its configuration, whatever the ratio). All factors are
(⌈√rows⌉, ⌈√cols⌉), so the sum is larger than the matrix and is cut down to it, and Adam trains them from a random start on the
autoencoder's losses. Here the shapes divide the matrix, the number of terms follows from the budget, and the sum is the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from offcomp.methods.base import CompressedMatrix, Hints, Report, choose_size, ignore_progress, store_dense
from offcomp.numerics.accounting import Budget, Codes, Shapes, code_counts

if TYPE_CHECKING:
    from torch import Tensor

PIECE_ENTRIES = 1 << 20  # decoded at a time
HEIGHT_BITS = 32
LONGEST_SIDE = 1 << 20


@dataclass(frozen=True)
class Kronecker:
    """Best sum of Kronecker products of two small matrices."""

    name: ClassVar[str] = "kronecker"
    role: ClassVar[str] = "kronecker"
    title: ClassVar[str] = "Kronecker"
    paper: ClassVar[str] = "Van Loan and Pitsianis 1993"
    size_name: ClassVar[str] = "terms"
    memory: ClassVar[float] = 1.2
    quick: ClassVar[dict[str, Any]] = {}

    left_rows: int = field(
        default=0,
        metadata={
            "help": "Rows of the left factor, rounded down to a divisor of the matrix's rows. 0 leaves it to the rule.",
            "range": (0, LONGEST_SIDE),
        },
    )
    left_cols: int = field(
        default=0,
        metadata={
            "help": "Columns of the left factor, rounded down likewise. 0 leaves it to the rule: factors alike in size.",
            "range": (0, LONGEST_SIDE),
        },
    )

    @property
    def calibrated(self) -> bool:
        """It needs the weights alone."""
        return False

    def factor_shapes(self, rows: int, cols: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(m1, n1) of the left factors and (m2, n2) of the right ones."""
        return _factor_shapes(rows, cols, self.left_rows, self.left_cols)

    def sizes(self, rows: int, cols: int) -> range:
        """Terms 1 .. min(m1 n1, m2 n2); the last is exact."""
        (m1, n1), (m2, n2) = self.factor_shapes(rows, cols)
        return range(1, min(m1 * n1, m2 * n2) + 1)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """`size` left and right factors, a row each, and the heights of both."""
        (m1, n1), (m2, n2) = self.factor_shapes(rows, cols)
        return {"left": (size, m1 * n1), "right": (size, m2 * n2), "heights": Codes(2, HEIGHT_BITS)}

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Gram matrix of the rearranged matrix and its eigenvectors."""
        side = len(self.sizes(rows, cols))
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
        """As many terms as the budget holds. The seed is not used: the result is unique up to signs."""
        import torch

        from offcomp.numerics.bits import pack_bits
        from offcomp.numerics.rearranged import rearranged_factors
        from offcomp.numerics.storage import pack

        rows, cols = matrix.shape
        terms = choose_size(self, rows, cols, budget)
        if terms == 0:
            return store_dense(matrix, budget.dtype)
        (m1, n1), (m2, n2) = self.factor_shapes(rows, cols)
        left, right = rearranged_factors(matrix.detach().float(), (m1, n1), (m2, n2), terms)
        heights = pack_bits(torch.tensor([m1, m2]), HEIGHT_BITS)
        tensors = pack({"left": left.T, "right": right, "heights": heights}, budget.dtype)
        report(1.0)
        return CompressedMatrix(tensors, kronecker_sum, terms, codes=code_counts(self.tensor_shapes(rows, cols, terms)))


def kronecker_sum(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: Σ_k A_k ⊗ B_k."""
    from offcomp.numerics.bits import unpack_bits

    left, right = tensors["left"], tensors["right"]
    m1, m2 = unpack_bits(tensors["heights"], HEIGHT_BITS, 2).tolist()
    n1, n2 = left.shape[1] // m1, right.shape[1] // m2
    total = left.new_empty(m1, m2, n1, n2)
    height = max(1, PIECE_ENTRIES // (m2 * n1 * n2))
    for place, part in zip(total.split(height), left.T.split(height * n1), strict=True):
        place.copy_((part @ right).reshape(-1, n1, m2, n2).transpose(1, 2))
    return total.reshape(m1 * m2, n1 * n2)


@lru_cache(maxsize=4096)
def _factor_shapes(rows: int, cols: int, left_rows: int, left_cols: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The cheapest factors among those allowed, the SVD's own left out unless asked for."""
    heights = [_divisor_below(rows, left_rows)] if left_rows else _divisors(rows)
    widths = [_divisor_below(cols, left_cols)] if left_cols else _divisors(cols)
    allowed = [(m1, n1) for m1 in heights for n1 in widths]
    proper = [shape for shape in allowed if shape not in {(rows, 1), (1, cols)}]
    m1, n1 = min(proper or allowed, key=lambda shape: (shape[0] * shape[1] + rows * cols // (shape[0] * shape[1]), -shape[1]))
    return (m1, n1), (rows // m1, cols // n1)


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, int(number**0.5) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})


def _divisor_below(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return max(divisor for divisor in _divisors(number) if divisor <= limit)
