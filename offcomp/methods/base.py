"""What every compression method shares: the protocol, the compressed matrix, and its ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from offcomp.errors import BudgetTooSmall
from offcomp.numerics.accounting import Budget, Shapes, Size, largest_size_within, stored_size

if TYPE_CHECKING:
    from torch import Tensor

Decode = Callable[[Mapping[str, "Tensor"]], "Tensor"]
Report = Callable[[float], None]
"""Called with the fraction done, 0..1; may raise to stop the fit."""


def ignore_progress(_fraction: float) -> None:
    """The report of a caller who does not watch."""


class Statistics(Protocol):
    """The fields of `ModuleStatistics`, which may be computed when they are read."""

    @property
    def num_tokens(self) -> int:
        """Tokens that were averaged."""

    @property
    def column_moment(self) -> Tensor | None:
        """(cols, cols), or (cols,) where diagonal."""

    @property
    def row_moment(self) -> Tensor | None:
        """(rows, rows), or (rows,) where diagonal."""

    @property
    def column_magnitude(self) -> Tensor | None:
        """(cols,)."""

    @property
    def fisher(self) -> Tensor | None:
        """(rows, cols)."""

    @property
    def sensitivity(self) -> Tensor | None:
        """(rows, cols)."""


@dataclass(frozen=True)
class ModuleStatistics:
    """What calibration text says of one weight matrix W (rows, cols), in its canonical view; None is unknown.

    column_moment       (cols, cols), or (cols,) where diagonal: mean over tokens of x xᵀ, x what W is multiplied with
    row_moment          (rows, rows), or (rows,) where diagonal: mean over tokens of g gᵀ, g the gradient at the output;
                        of an embedding the share of each token
    column_magnitude    (cols,): mean over tokens of |x|
    fisher              (rows, cols): mean over samples of the squared gradient of the log-likelihood by W
    sensitivity         (rows, cols): mean over samples of the absolute gradient by W
    num_tokens          tokens that were averaged
    """

    num_tokens: int
    column_moment: Tensor | None = None
    row_moment: Tensor | None = None
    column_magnitude: Tensor | None = None
    fisher: Tensor | None = None
    sensitivity: Tensor | None = None


class Hints(Protocol):
    """Calibration of a stacked matrix, asked for member by member.

    heights     rows of each member in the stacked matrix, from top to bottom
    turned      whether each member stands transposed in it
    embeddings  whether each member is a table in which tokens are looked up, so that its inputs have no second moment
    order       the members' numbers in the order in which the model uses them
    """

    heights: tuple[int, ...]
    turned: tuple[bool, ...]
    embeddings: tuple[bool, ...]
    order: tuple[int, ...]

    def statistics(self, index: int) -> Statistics:
        """Statistics of a member, in its canonical view, on inputs that settled members already shape.

        The caller may overwrite the moments of what it is given, so each call gives others.
        """

    def release(self) -> None:
        """Nothing that was asked for so far is asked for again, so it need not be kept."""

    def follow(self) -> None:
        """From now on statistics are of the model with the groups that were compressed before this one."""

    def settle(self, index: int, reconstruction: Tensor) -> None:
        """Later statistics see a member (rows of the stacked matrix, as they stand there) as this reconstruction."""


class Method(Protocol):
    """A dataclass of options. The constructor stores them; `fit` computes; the result knows nothing of its method.

    name        the method's name in a plan; a family shares one, and its option `preset` tells its members apart
    role        a name of its own, by which charts choose colour and shape
    memory      roughly the most that `fit` holds beside a large matrix, in float32 matrices of its shape: `benchmarks.memory`
    quick       options with which `fit` takes a fraction of its usual time, for a first look; none where it is quick anyway
    """

    name: ClassVar[str]
    role: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    size_name: ClassVar[str]
    memory: ClassVar[float]
    quick: ClassVar[dict[str, Any]]

    def __hash__(self) -> int:
        """Of the options, as a frozen dataclass has it."""

    @property
    def calibrated(self) -> bool:
        """Whether `fit` needs hints."""

    def sizes(self, rows: int, cols: int) -> range:
        """The sizes (ranks, latent widths) that a (rows, cols) matrix can have; a larger one stores more."""

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Every tensor stored for a (rows, cols) matrix at this size (rank, latent width)."""

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Rough time of `fit` on two cores at this size, for progress bars and warnings."""

    def fit(
        self,
        matrix: Tensor,
        budget: Budget,
        *,
        hints: Hints | None = None,
        seed: int = 0,
        report: Report = ignore_progress,
    ) -> CompressedMatrix:
        """Compress `matrix` (rows, cols) to at most `budget`. Raises BudgetTooSmall."""


@dataclass(frozen=True)
class CompressedMatrix:
    """A compressed (rows, cols) matrix: what is stored, and how to turn it back into a matrix.

    tensors     exactly what the safetensors file holds, in the storage dtype
    decode      float32 tensors by name, which it leaves as they are -> a new float32 matrix (rows, cols)
    size        rank or latent width; 0 where the matrix is stored dense
    history     one training loss an epoch, empty for closed forms
    codes       name -> how many whole numbers a packed tensor holds
    notes       what the fit found, by name, for the record: condition numbers and the like
    """

    tensors: Mapping[str, Tensor]
    decode: Decode
    size: int = 0
    history: tuple[float, ...] = ()
    codes: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, float] = field(default_factory=dict)

    def reconstruct(self) -> Tensor:
        """The approximate matrix, float32 (rows, cols), computed from the stored tensors alone."""
        from offcomp.numerics.storage import unpack

        return self.decode(unpack(self.tensors))

    @property
    def form(self) -> str:
        """The name of the decoder, by which a saved matrix is read again."""
        return self.decode.__name__

    def ledger(self) -> list[dict[str, Any]]:
        """One entry a stored tensor: name, shape, dtype, bytes."""
        return [
            {
                "name": name,
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "bytes": tensor.numel() * tensor.element_size(),
            }
            for name, tensor in self.tensors.items()
        ]

    @property
    def stored(self) -> Size:
        """Stored parameters and bytes, counted from the tensors; each packed number is one parameter."""
        numbers = sum(self.codes.get(name, tensor.numel()) for name, tensor in self.tensors.items())
        return Size(numbers, sum(entry["bytes"] for entry in self.ledger()))


def all_ranks(rows: int, cols: int) -> range:
    """The sizes of a method that has a rank or a latent width."""
    return range(1, min(rows, cols) + 1)


def dense_shapes(rows: int, cols: int) -> Shapes:
    """The matrix itself, kept where a compressed form would not be smaller."""
    return {"matrix": (rows, cols)}


def dense(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder of a matrix that is stored as it is."""
    return tensors["matrix"].clone()


def store_dense(matrix: Tensor, dtype: str) -> CompressedMatrix:
    """`matrix` itself in a storage dtype."""
    from offcomp.numerics.storage import pack

    return CompressedMatrix(pack({"matrix": matrix}, dtype), dense)


def choose_size(method: Method, rows: int, cols: int, budget: Budget) -> int:
    """The largest rank or latent width within the budget; 0 where the dense matrix itself fits it.

    Raises BudgetTooSmall where not even the smallest size fits.
    """
    if budget.admits(dense_shapes(rows, cols)):
        return 0
    size = largest_size_within(budget, lambda s: method.tensor_shapes(rows, cols, s), method.sizes(rows, cols))
    if size is None:
        smallest = smallest_size(method, rows, cols, budget.dtype).in_unit(budget.unit)
        raise BudgetTooSmall(
            f"{method.size_name} {method.sizes(rows, cols).start} of a ({rows}, {cols}) matrix stores {smallest} {budget.unit} "
            f"but the budget is {budget.limit}; lower the ratio by at least {smallest / max(1, budget.limit):.3g} times"
        )
    return size


def smallest_size(method: Method, rows: int, cols: int, dtype: str) -> Size:
    """What the smallest form of a method stores for a (rows, cols) matrix."""
    return stored_size(method.tensor_shapes(rows, cols, method.sizes(rows, cols).start), dtype)
