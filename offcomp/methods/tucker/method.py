"""Tucker decomposition of the group as a stack of slabs.

The (rows, cols) matrix is cut into equal horizontal slabs and reshaped into a tensor T (slabs, height, cols): with six slabs,
six stacked (384, 384) matrices become (6, 384, 384). The slabs share one basis for their rows and one for their columns:

    minimise ‖T - core ×₁ P ×₂ L ×₃ R‖_F over core (p, l, r), P (slabs, p), L (height, l), R (cols, r)

A single size s determines l = min(s, height) and r = min(s, cols), both capped at the largest rank that the other modes allow.
The stored parameters are

    p · l · r + height · l + cols · r                     p = slabs: P is a rotation and is absorbed into the core
    p · l · r + height · l + cols · r + slabs · p         p = `slab_rank` < slabs

Fitting starts from the higher-order SVD (De Lathauwer et al., "A multilinear singular value decomposition", 2000) and improves
it by a fixed number of rounds of higher-order orthogonal iteration (same authors, "On the best rank-1 and rank-(R1, ..., RN)
approximation", 2000, section 4). Singular vectors are computed from Gram matrices that are accumulated slab by slab. A single
slab gives the SVD with its diagonal core stored in full, which is never better than the SVD itself.

By default, slabs are about 16 rows high. At sizes of 16 and above, L then has full rank, and the result equals the SVD at the
cost of 256 extra numbers. For the query, key and value weights of MiniLM-L6, individually and in groups, taller slabs do not
reduce the error at parameter ratios of 2, 3 and 4. At a ratio of 8, the group of value matrices has an error of .835, compared
with .828 for one slab per matrix; at a ratio of 20, the errors are .925 and .912. Use one slab per matrix at such high ratios
(`benchmarks/tucker_slabs.py`).

The official repository of arXiv 2302.04045 uses the attention heads of a matrix as slabs (the heads of all layers if they form
one group) and, for word embeddings, square slabs padded with rows of zeros. There, the ranks of all three modes are specified
separately. The core and factors are initialised with tensorly's `tucker` and trained with Adam on the autoencoder's losses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from offcomp.methods.base import Look, Method
from offcomp.numerics.accounting import Shapes

MAX_SLABS = 4096
USUAL_HEIGHT = 16
"""Default number of rows per slab (`benchmarks/tucker_slabs.py`)."""


@dataclass(frozen=True)
class Tucker(Method):
    """Tucker decomposition into slabs of rows that share a row basis and a column basis."""

    name: ClassVar[str] = "tucker"
    style_key: ClassVar[str] = "tucker"
    title: ClassVar[str] = "Tucker"
    paper: ClassVar[str] = "De Lathauwer, De Moor and Vandewalle 2000"
    decoders: ClassVar[tuple[str, ...]] = ("tucker_product",)
    look: ClassVar[Look | None] = Look("cross", "#8c6d1f", "#e0c060")
    memory: ClassVar[float] = 1.65

    slabs: int = field(
        default=0,
        metadata={
            "help": "Number of equal slabs, rounded down to a divisor of the number of rows. 0 gives slabs of about 16 rows.",
            "range": (0, MAX_SLABS),
        },
    )
    slab_rank: int = field(
        default=0,
        metadata={"help": "Rank across slabs. 0 keeps the full rank.", "range": (0, MAX_SLABS)},
    )
    iterations: int = field(
        default=5, metadata={"help": "Number of rounds of orthogonal iteration after the higher-order SVD.", "range": (0, 100)}
    )

    def tensor_sides(self, rows: int, cols: int) -> tuple[int, int, int]:
        """Shape (slabs, height, cols) of the tensor into which a (rows, cols) matrix is reshaped."""
        slabs = _divisor_below(rows, self.slabs) if self.slabs else rows // _divisor_near(rows, USUAL_HEIGHT)
        return slabs, rows // slabs, cols

    def ranks(self, rows: int, cols: int, size: int) -> tuple[int, int, int]:
        """The ranks (p, l, r) at a given size."""
        slabs, height, _ = self.tensor_sides(rows, cols)
        mixtures = min(self.slab_rank or slabs, slabs)
        left, right = min(size, height), min(size, cols)
        left, right = min(left, mixtures * right), min(right, mixtures * left)
        return slabs if self.absorbs_slabs(slabs) else min(mixtures, left * right), left, right

    def sizes(self, rows: int, cols: int) -> range:
        """Sizes from 1 to the largest rank that still enlarges one of the bases."""
        slabs, height, _ = self.tensor_sides(rows, cols)
        mixtures = min(self.slab_rank or slabs, slabs)
        return range(1, max(min(height, mixtures * cols), min(cols, mixtures * height)) + 1)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """The core with its first two modes merged into rows, the two bases, and the slab basis P unless it is absorbed."""
        slabs, height, _ = self.tensor_sides(rows, cols)
        mixtures, left, right = self.ranks(rows, cols, size)
        shapes = {"core": (mixtures * left, right), "left": (height, left), "right": (cols, right)}
        return shapes if self.absorbs_slabs(slabs) else shapes | {"mixing": (slabs, mixtures)}

    def absorbs_slabs(self, slabs: int) -> bool:
        """Whether the slab rank is full, in which case the slab basis P need not be stored."""
        return self.slab_rank == 0 or self.slab_rank >= slabs

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Time for the initial SVDs of both unfoldings, and for smaller SVDs in every round."""
        slabs, height, _ = self.tensor_sides(rows, cols)
        mixtures, left, right = self.ranks(rows, cols, size)
        a_round = slabs * height * cols * (left + right) + height**2 * slabs * right + cols**2 * slabs * left
        rounds = self.iterations if (mixtures < slabs) + (left < height) + (right < cols) > 1 else 0
        return 0.05 + 2e-10 * (rows * cols * (height + cols) + rounds * a_round)


def _divisor_below(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return next(divisor for divisor in range(min(limit, number), 0, -1) if number % divisor == 0)


def _divisor_near(number: int, wanted: int) -> int:
    """The divisor of `number` closest in ratio to `wanted`; ties go to the smaller divisor."""
    above = next((divisor for divisor in range(wanted, number + 1) if number % divisor == 0), number)
    below = _divisor_below(number, wanted)
    return below if below * above >= wanted**2 else above
