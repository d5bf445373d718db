"""Tucker decomposition of the group as a stack of slabs.

The (rows, cols) matrix is cut into equal slabs, one above the other, and read as a tensor T (slabs, height, cols): with six
slabs, six stacked (384, 384) matrices are (6, 384, 384). The slabs share a basis of their rows and one of their columns:

    minimise ‖T - core ×₁ P ×₂ L ×₃ R‖_F over core (p, l, r), P (slabs, p), L (height, l), R (cols, r)

Stored with one size s, l = min(s, height), r = min(s, cols), neither of them beyond what the others can fill:

    p · l · r + height · l + cols · r                     p = slabs: P is a rotation, and is absorbed by the core
    p · l · r + height · l + cols · r + slabs · p         p = `slab_rank` < slabs

Higher-order SVD (De Lathauwer et al., "A multilinear singular value decomposition", 2000) is the start, higher-order orthogonal
iteration (the same, "On the best rank-1 and rank-(R1, ..., RN) approximation", 2000, section 4) improves it, in a fixed number
of rounds. Singular vectors come from Gram matrices that are summed up slab by slab. A single slab gives the SVD with its
diagonal core stored in full, which is never better than the SVD itself.

By default slabs are about 16 rows high. From size 16 on L is then full, and this is the SVD at the cost of 256 more numbers. On
the query, key and value weights of MiniLM-L6, alone and as groups, no higher slabs lose less at 2, 3 and 4 times fewer
parameters. At 8 times the group of value matrices has an error of .835, and of .828 with a slab a matrix; at 20 times .925 and
.912: ask for such slabs there (`benchmarks/tucker_slabs.py`).

The official repository of arXiv 2302.04045 takes the attention heads of a matrix as slabs, those of all layers where they are
one group, and square slabs of word embeddings, with rows of zeros below. Its ranks are given, for all three sides; tensorly's
`tucker` is the start, and Adam trains core and factors on the autoencoder's losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from offcomp.methods.base import CompressedMatrix, Hints, Report, choose_size, ignore_progress, store_dense
from offcomp.numerics.accounting import Budget, Shapes

if TYPE_CHECKING:
    from torch import Tensor

MOST_SLABS = 4096
USUAL_HEIGHT = 16
"""Rows of a slab where the options ask for no number of slabs: `benchmarks/tucker_slabs.py`."""
ORDINARY = 1e10
"""Entries up to it, and down to its inverse, are not scaled, which would take a copy."""
PIECE_ENTRIES = 1 << 18  # widened to float64 at a time


@dataclass(frozen=True)
class Tucker:
    """Slabs of rows that share a basis of both sides."""

    name: ClassVar[str] = "tucker"
    role: ClassVar[str] = "tucker"
    title: ClassVar[str] = "Tucker"
    paper: ClassVar[str] = "De Lathauwer, De Moor and Vandewalle 2000"
    size_name: ClassVar[str] = "rank"
    memory: ClassVar[float] = 1.65
    quick: ClassVar[dict[str, Any]] = {}

    slabs: int = field(
        default=0,
        metadata={
            "help": "Equal slabs of rows, rounded down to a divisor of the rows. 0 makes them about 16 rows high.",
            "range": (0, MOST_SLABS),
        },
    )
    slab_rank: int = field(
        default=0,
        metadata={"help": "Mixtures that the slabs are made of. 0 keeps as many as there are slabs.", "range": (0, MOST_SLABS)},
    )
    iterations: int = field(
        default=5, metadata={"help": "Rounds of orthogonal iteration after the higher-order SVD.", "range": (0, 100)}
    )

    @property
    def calibrated(self) -> bool:
        """It needs the weights alone."""
        return False

    def tensor_sides(self, rows: int, cols: int) -> tuple[int, int, int]:
        """(slabs, height, cols) of the tensor that a (rows, cols) matrix is read as."""
        slabs = _divisor_below(rows, self.slabs) if self.slabs else rows // _divisor_near(rows, USUAL_HEIGHT)
        return slabs, rows // slabs, cols

    def ranks(self, rows: int, cols: int, size: int) -> tuple[int, int, int]:
        """(p, l, r) at this size."""
        slabs, height, _ = self.tensor_sides(rows, cols)
        mixtures = min(self.slab_rank or slabs, slabs)
        left, right = min(size, height), min(size, cols)
        left, right = min(left, mixtures * right), min(right, mixtures * left)
        return slabs if self._absorbs_slabs(slabs) else min(mixtures, left * right), left, right

    def sizes(self, rows: int, cols: int) -> range:
        """Ranks 1 .. the last that adds something to either basis."""
        slabs, height, _ = self.tensor_sides(rows, cols)
        mixtures = min(self.slab_rank or slabs, slabs)
        return range(1, max(min(height, mixtures * cols), min(cols, mixtures * height)) + 1)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """The core with its first two sides as rows, the two bases, and where the slabs are mixed their basis."""
        slabs, height, _ = self.tensor_sides(rows, cols)
        mixtures, left, right = self.ranks(rows, cols, size)
        shapes = {"core": (mixtures * left, right), "left": (height, left), "right": (cols, right)}
        return shapes if self._absorbs_slabs(slabs) else shapes | {"mixing": (slabs, mixtures)}

    def _absorbs_slabs(self, slabs: int) -> bool:
        return self.slab_rank == 0 or self.slab_rank >= slabs

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """An SVD of both unfoldings at the start and, narrower, in every round that there is."""
        slabs, height, _ = self.tensor_sides(rows, cols)
        mixtures, left, right = self.ranks(rows, cols, size)
        a_round = slabs * height * cols * (left + right) + height**2 * slabs * right + cols**2 * slabs * left
        rounds = self.iterations if (mixtures < slabs) + (left < height) + (right < cols) > 1 else 0
        return 0.05 + 2e-10 * (rows * cols * (height + cols) + rounds * a_round)

    def fit(
        self,
        matrix: Tensor,
        budget: Budget,
        *,
        hints: Hints | None = None,
        seed: int = 0,
        report: Report = ignore_progress,
    ) -> CompressedMatrix:
        """Decompose at the largest rank within the budget. The seed is not used: nothing is drawn."""
        from offcomp.numerics.storage import pack

        rows, cols = matrix.shape
        size = choose_size(self, rows, cols, budget)
        if size == 0:
            return store_dense(matrix, budget.dtype)
        sides = self.tensor_sides(rows, cols)
        samples = matrix.detach().float()
        low, high = samples.aminmax()
        scale = max(float(high), -float(low), 1e-37)
        if 1 / ORDINARY < scale < ORDINARY:  # else squares of entries would vanish, or go beyond all numbers
            scale = 1.0
        else:
            samples = samples / scale
        modes = (1, 2) if self._absorbs_slabs(sides[0]) else (0, 1, 2)
        ranks = self.ranks(rows, cols, size)
        core, factors = self._decompose(samples.reshape(sides), [ranks[mode] for mode in modes], modes)
        tensors = dict(zip(("mixing", "left", "right")[-len(modes) :], factors, strict=True))
        tensors["core"] = (core * scale).reshape(-1, core.shape[2])
        share = tensors["core"].abs().max().clamp_min(1e-37) ** (1 / 3)  # so that all three suit a narrow storage dtype
        tensors |= {"core": tensors["core"] / share**2, "left": tensors["left"] * share, "right": tensors["right"] * share}
        stored = pack({name: tensors[name] for name in self.tensor_shapes(rows, cols, size)}, budget.dtype)
        report(1.0)
        return CompressedMatrix(stored, tucker_product, size)

    def _decompose(self, tensor: Tensor, ranks: list[int], modes: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
        """(core, factors along `modes`) of a tensor; each factor in turn is made the best for the others.

        A full factor leaves nothing out, so it stays as it is, and with one that is not full the start is the best already.
        """
        wanted = dict(zip(modes, ranks, strict=True))
        factors = {mode: _leading_vectors(tensor, mode, rank) for mode, rank in wanted.items()}
        truncated = {mode: rank for mode, rank in wanted.items() if rank < tensor.shape[mode]}
        for _ in range(self.iterations if len(truncated) > 1 else 0):
            for mode, rank in truncated.items():
                others = {other: factors[other] for other in truncated if other != mode}
                factors[mode] = _leading_vectors(_projected(tensor, others), mode, rank)
        return _projected(tensor, factors), list(factors.values())


def _divisor_below(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`."""
    return next(divisor for divisor in range(min(limit, number), 0, -1) if number % divisor == 0)


def _divisor_near(number: int, wanted: int) -> int:
    """The divisor of `number` that is nearest to `wanted` in proportion, the smaller one of two."""
    above = next((divisor for divisor in range(wanted, number + 1) if number % divisor == 0), number)
    below = _divisor_below(number, wanted)
    return below if below * above >= wanted**2 else above


def tucker_product(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder: core ×₁ P ×₂ L ×₃ R as a matrix, slab by slab."""
    left, right = tensors["left"], tensors["right"]
    core = tensors["core"].reshape(-1, left.shape[1], right.shape[1])  # (p, l, r)
    if "mixing" in tensors:
        core = (tensors["mixing"] @ core.flatten(1)).reshape(-1, *core.shape[1:])
    product = left.new_empty(len(core), len(left), len(right))
    for slab, place in zip(core, product, strict=True):
        place.copy_(left @ (slab @ right.T))
    return product.flatten(0, 1)


def _projected(tensor: Tensor, factors: Mapping[int, Tensor]) -> Tensor:
    """A tensor of three sides times the transpose of the factor of each side that has one, slab by slab."""
    import torch

    if 1 in factors or 2 in factors:
        slabs, height, width = tensor.shape
        height = factors[1].shape[1] if 1 in factors else height
        width = factors[2].shape[1] if 2 in factors else width
        product = torch.empty(slabs, height, width, dtype=tensor.dtype, device=tensor.device)
        for slab, place in zip(tensor, product, strict=True):
            part = slab @ factors[2] if 2 in factors else slab
            place.copy_(factors[1].T @ part if 1 in factors else part)
        tensor = product
    return (factors[0].T @ tensor.flatten(1)).reshape(-1, *tensor.shape[1:]) if 0 in factors else tensor


def _leading_vectors(tensor: Tensor, mode: int, count: int) -> Tensor:
    """Leading left singular vectors of an unfolding (side, rest), through the smaller Gram matrix in float64."""
    import torch

    from offcomp.numerics.linalg import factors_of_pieces, leading_basis

    side, rest = tensor.shape[mode], tensor.numel() // tensor.shape[mode]
    if side <= rest:
        return leading_basis(_across(tensor, mode), (rest, side), count, like=tensor).to(tensor.dtype)
    low, high = tensor.aminmax()
    left, _ = factors_of_pieces(lambda: _along(tensor, mode), (side, rest), min(count, rest), largest=torch.maximum(high, -low))
    return torch.linalg.qr(left)[0]


def _along(tensor: Tensor, mode: int) -> Iterator[Tensor]:
    """An unfolding (side, rest) in pieces one above the other."""
    rest = tensor.numel() // tensor.shape[mode]
    for part in tensor.movedim(mode, 0).split(PIECE_ENTRIES // rest + 1):
        yield part.reshape(len(part), rest)


def _across(tensor: Tensor, mode: int) -> Iterator[Tensor]:
    """A transposed unfolding (rest, side) in pieces one above the other."""
    if mode == 0:
        yield from tensor.flatten(1).T.split(PIECE_ENTRIES // len(tensor) + 1)
    else:
        yield from (slab.T if mode == 1 else slab for slab in tensor)
