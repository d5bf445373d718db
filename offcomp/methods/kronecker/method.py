"""Sum of Kronecker products.

    minimise ‖W - Σ_k A_k ⊗ B_k‖_F over A_k (m1, n1), B_k (m2, n2), k = 1 .. terms, with m1 m2 = rows and n1 n2 = cols

Write W as m1 x n1 blocks of (m2, n2) and flatten each block into a row: the rearranged matrix R(W) is (m1 n1, m2 n2), and
R(A ⊗ B) = vec(A) vec(B)ᵀ. So the best sum of terms is the best low-rank approximation of R(W), and its squared error is the
tail of the spectrum of R(W) (Van Loan and Pitsianis, "Approximation with Kronecker products", 1993, section 2).

Stored: A (terms, m1 n1) and B (terms, m2 n2), one term per row, and the two heights m1 and m2, which the decoder needs:
terms · (m1 n1 + m2 n2) + 2 parameters.

The shapes depend only on rows and cols. By default the factors are as equal in size as the divisors allow, which makes a term
cheap; among equally cheap shapes the widest A is chosen. A (rows, 1) with B (1, cols), and the mirror image, are excluded, as
they would be the SVD. On the weights of MiniLM-L6 no other shape comes close to the SVD at equal size
(`benchmarks/methods_quality.py`).

The official repository of arXiv 2302.04045 also sums r terms (50 in its configuration, whatever the ratio). All its factors are
(⌈√rows⌉, ⌈√cols⌉), so the sum is larger than the matrix and is cropped to it, and Adam trains them from a random start on the
autoencoder's losses. Here the shapes divide the matrix, the budget determines the number of terms, and the sum is optimal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

from offcomp.methods.base import Method
from offcomp.numerics.accounting import Codes, Shapes

HEIGHT_BITS = 32
LONGEST_SIDE = 1 << 20


@dataclass(frozen=True)
class Kronecker(Method):
    """Best sum of Kronecker products of two small matrices."""

    name: ClassVar[str] = "kronecker"
    style_key: ClassVar[str] = "kronecker"
    title: ClassVar[str] = "Kronecker"
    paper: ClassVar[str] = "Van Loan and Pitsianis 1993"
    size_name: ClassVar[str] = "terms"
    memory: ClassVar[float] = 1.2

    left_rows: int = field(
        default=0,
        metadata={
            "help": "Rows of the left factor, rounded down to a divisor of the matrix's rows. 0 chooses automatically.",
            "range": (0, LONGEST_SIDE),
        },
    )
    left_cols: int = field(
        default=0,
        metadata={
            "help": "Columns of the left factor, rounded down to a divisor of the matrix's columns. 0 chooses automatically.",
            "range": (0, LONGEST_SIDE),
        },
    )

    def factor_shapes(self, rows: int, cols: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(m1, n1) of the left factors and (m2, n2) of the right ones."""
        return _factor_shapes(rows, cols, self.left_rows, self.left_cols)

    def sizes(self, rows: int, cols: int) -> range:
        """1 .. min(m1 n1, m2 n2) terms; the maximum reproduces the matrix exactly."""
        (m1, n1), (m2, n2) = self.factor_shapes(rows, cols)
        return range(1, min(m1 * n1, m2 * n2) + 1)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """The left and the right factors, `size` of each, one per row, and the heights of both."""
        (m1, n1), (m2, n2) = self.factor_shapes(rows, cols)
        return {"left": (size, m1 * n1), "right": (size, m2 * n2), "heights": Codes(2, HEIGHT_BITS)}

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Time for the Gram matrix of the rearranged matrix and for its eigenvectors."""
        side = len(self.sizes(rows, cols))
        return 0.01 + 5e-11 * rows * cols * side + 1e-9 * side**3


@lru_cache(maxsize=4096)
def _factor_shapes(rows: int, cols: int, left_rows: int, left_cols: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The cheapest allowed factor shapes, excluding those of the SVD unless requested."""
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
