"""Sum of Kronecker products.

    minimise ‖W - Σ_k A_k ⊗ B_k‖_F over A_k (m1, n1), B_k (m2, n2), k = 1 .. terms, with m1 m2 = rows and n1 n2 = cols

Split W into m1 x n1 blocks of shape (m2, n2) and flatten each block into a row. The rearranged matrix R(W) has shape (m1 n1, m2
n2), and R(A ⊗ B) = vec(A) vec(B)ᵀ. The best sum of Kronecker products is therefore given by the best low-rank approximation of
R(W), and its squared error is the sum of the squares of the discarded singular values of R(W) (Van Loan and Pitsianis,
"Approximation with Kronecker products", 1993, section 2).

A (terms, m1 n1) and B (terms, m2 n2) are stored with one term per row, along with the heights m1 and m2, which the decoder
needs. In total, this takes terms · (m1 n1 + m2 n2) + 2 parameters.

The factor shapes depend only on rows and cols. By default, the two factors are as similar in size as the divisors allow, which
minimises the size of a term; among equally good shapes, the widest A is chosen. The shapes (rows, 1) for A and (1, cols) for B,
and vice versa, are excluded because they are equivalent to the SVD. On the weights of MiniLM-L6, none of the remaining shapes
comes close to the SVD at equal size (`benchmarks/methods_quality.py`).

The official repository of arXiv 2302.04045 also sums r terms (50 in its configuration, regardless of the ratio). All
factors have shape (⌈√rows⌉, ⌈√cols⌉), so the sum is larger than the matrix and has to be cropped. The factors are initialised
randomly and trained with Adam on the autoencoder's losses. Here, the factor shapes divide the shape of the matrix, the budget
determines the number of terms, and the sum is optimal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

from offcomp.methods.base import Look, Method
from offcomp.numerics.accounting import Codes, Shapes

HEIGHT_BITS = 32
MAX_SIDE = 1 << 20


@dataclass(frozen=True)
class Kronecker(Method):
    """Best sum of Kronecker products of two small matrices."""

    name: ClassVar[str] = "kronecker"
    style_key: ClassVar[str] = "kronecker"
    title: ClassVar[str] = "Kronecker"
    paper: ClassVar[str] = "Van Loan and Pitsianis 1993"
    decoders: ClassVar[tuple[str, ...]] = ("kronecker_sum",)
    look: ClassVar[Look | None] = Look("cross", "#8c6d1f", "#e0c060")
    size_name: ClassVar[str] = "terms"
    memory: ClassVar[float] = 1.2

    left_rows: int = field(
        default=0,
        metadata={
            "help": "Number of rows of the left factor, rounded down to a divisor of the matrix height. 0 is automatic.",
            "range": (0, MAX_SIDE),
        },
    )
    left_cols: int = field(
        default=0,
        metadata={
            "help": "Number of columns of the left factor, rounded down to a divisor of the matrix width. 0 is automatic.",
            "range": (0, MAX_SIDE),
        },
    )

    def factor_shapes(self, rows: int, cols: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shape (m1, n1) of the left factors and shape (m2, n2) of the right factors."""
        return _factor_shapes(rows, cols, self.left_rows, self.left_cols)

    def sizes(self, rows: int, cols: int) -> range:
        """The possible numbers of terms, from 1 to min(m1 n1, m2 n2); the maximum reproduces the matrix exactly."""
        (m1, n1), (m2, n2) = self.factor_shapes(rows, cols)
        return range(1, min(m1 * n1, m2 * n2) + 1)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Shapes of the left and right factors, which have one row per term, and of the stored heights m1 and m2."""
        (m1, n1), (m2, n2) = self.factor_shapes(rows, cols)
        return {"left": (size, m1 * n1), "right": (size, m2 * n2), "heights": Codes(2, HEIGHT_BITS)}

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Time to compute the Gram matrix of the rearranged matrix and its eigenvectors."""
        side = len(self.sizes(rows, cols))
        return 0.01 + 5e-11 * rows * cols * side + 1e-9 * side**3


@lru_cache(maxsize=4096)
def _factor_shapes(rows: int, cols: int, left_rows: int, left_cols: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The cheapest allowed factor shapes, excluding those equivalent to the SVD unless explicitly requested."""
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
