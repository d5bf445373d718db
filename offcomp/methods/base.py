"""What every compression method shares: the protocol, the compressed matrix, and its ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


class Method(Protocol):
    """A dataclass of options. The constructor stores them; `fit` computes; the result knows nothing of its method."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    size_name: ClassVar[str]

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Every tensor stored for a (rows, cols) matrix at this size (rank, latent width)."""

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Rough time of `fit` on two cores at this size, for progress bars and warnings."""

    def fit(self, matrix: Tensor, budget: Budget, *, seed: int = 0, report: Report = ignore_progress) -> CompressedMatrix:
        """Compress `matrix` (rows, cols) to at most `budget`. Raises BudgetTooSmall."""


@dataclass(frozen=True)
class CompressedMatrix:
    """A compressed (rows, cols) matrix: what is stored, and how to turn it back into a matrix.

    tensors     exactly what the safetensors file holds, in the storage dtype
    decode      float32 tensors by name -> float32 matrix (rows, cols)
    size        rank or latent width; 0 where the matrix is stored dense
    history     one training loss an epoch, empty for closed forms
    """

    tensors: Mapping[str, Tensor]
    decode: Decode
    size: int = 0
    history: tuple[float, ...] = ()

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
        """Stored parameters and bytes, counted from the tensors."""
        return Size(sum(tensor.numel() for tensor in self.tensors.values()), sum(entry["bytes"] for entry in self.ledger()))


def dense_shapes(rows: int, cols: int) -> Shapes:
    """The matrix itself, kept where a compressed form would not be smaller."""
    return {"matrix": (rows, cols)}


def dense(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder of a matrix that is stored as it is."""
    return tensors["matrix"]


def store_dense(matrix: Tensor, dtype: str) -> CompressedMatrix:
    """`matrix` itself in a storage dtype."""
    from offcomp.numerics.storage import pack

    return CompressedMatrix(pack({"matrix": matrix}, dtype), dense)


def choose_size(method: Method, rows: int, cols: int, budget: Budget) -> int:
    """The largest rank or latent width within the budget; 0 where the dense matrix itself fits it.

    Raises BudgetTooSmall where not even size 1 fits.
    """
    if budget.admits(dense_shapes(rows, cols)):
        return 0
    size = largest_size_within(budget, lambda s: method.tensor_shapes(rows, cols, s), min(rows, cols))
    if size == 0:
        smallest = smallest_size(method, rows, cols, budget.dtype).in_unit(budget.unit)
        raise BudgetTooSmall(
            f"{method.size_name} 1 of a ({rows}, {cols}) matrix stores {smallest} {budget.unit} "
            f"but the budget is {budget.limit}; lower the ratio by at least {smallest / max(1, budget.limit):.3g} times"
        )
    return size


def smallest_size(method: Method, rows: int, cols: int, dtype: str) -> Size:
    """What the smallest form of a method stores for a (rows, cols) matrix."""
    return stored_size(method.tensor_shapes(rows, cols, 1), dtype)
