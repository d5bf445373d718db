"""The interface of all compression methods, and the compressed matrices that they produce."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from offcomp.errors import BudgetTooSmall, InputError
from offcomp.methods.hints import Hints
from offcomp.numerics.accounting import Budget, Shapes, Size, largest_size_within, stored_size
from offcomp.numerics.progress import Report, ignore_progress

if TYPE_CHECKING:
    from torch import Tensor

Decode = Callable[[Mapping[str, "Tensor"]], "Tensor"]


class Look(NamedTuple):
    """How charts draw a method: plotly marker symbol, light-theme colour and dark-theme colour (#rrggbb)."""

    marker: str
    light: str
    dark: str


@dataclass(frozen=True)
class Method:
    """Base class of all compression methods: frozen dataclasses whose fields are the method's options.

    A subclass sets its name and declares the tensors to store (`tensor_shapes`). The function `fit` computes these tensors, and
    decoders turn them back into a matrix (`computing_module`). The defaults of everything else suit a data-free method whose
    size is a rank. The result of `fit` holds no reference to the method.

    name            the method's name in a plan; several methods may share a name and differ in their `preset`
    style_key       unique key that identifies the method in charts, in links and on the command line
    decoders        names of its decoders, functions that turn stored tensors back into a matrix; unique among all methods
    look            marker and colours in charts; None for neutral ones
    has_rank        whether the size is a rank, latent width or number of terms, which a plan may request
    memory          rough peak memory that `fit` needs besides its input, for a large matrix, as a multiple of the size of the
                    matrix in float32 (measured by `benchmarks.memory`)
    fast_options    options that make `fit` several times faster, for a first look; empty if it is already fast
    """

    name: ClassVar[str]
    style_key: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    decoders: ClassVar[tuple[str, ...]] = ()
    look: ClassVar[Look | None] = None
    size_name: ClassVar[str] = "rank"
    has_rank: ClassVar[bool] = True
    memory: ClassVar[float] = 2.0
    fast_options: ClassVar[dict[str, Any]] = {}

    @property
    def calibrated(self) -> bool:
        """Whether `fit` needs calibration hints."""
        return False

    @property
    def follows(self) -> bool:
        """Whether to compress matrices only after those before them in the model, so groups are compressed in model order."""
        return False

    def sizes(self, rows: int, cols: int) -> range:
        """The possible sizes (ranks, latent widths) for a (rows, cols) matrix; larger sizes need more storage."""
        return range(1, min(rows, cols) + 1)

    def tensor_shapes(self, rows: int, cols: int, size: int) -> Shapes:
        """Shapes of all tensors stored for a (rows, cols) matrix at this size (rank, latent width)."""
        raise NotImplementedError

    def seconds(self, rows: int, cols: int, size: int) -> float:
        """Estimated duration of `fit` in seconds on two cores, for progress bars and warnings.

        By default, the time to compute a Gram matrix and its eigenvectors.
        """
        side = min(rows, cols)
        return 0.01 + 5e-11 * rows * cols * side + 1e-9 * side**3

    def fit(
        self,
        matrix: Tensor,
        budget: Budget,
        *,
        size: int | None = None,
        hints: Hints | None = None,
        seed: int = 0,
        report: Report = ignore_progress,
    ) -> CompressedMatrix:
        """Compress `matrix` (rows, cols) at the largest size that fits the budget, or store it dense if the dense matrix fits.

        With a `size`, compress at exactly this size, even if the dense matrix takes no more space.

        Raises BudgetTooSmall if no size fits, and InputError if required hints are missing or belong to a different matrix.
        """
        rows, cols = matrix.shape
        self._check(rows, hints)
        size = choose_size(self, rows, cols, budget) if size is None else size
        if size == 0:
            return store_dense(matrix, budget.dtype)
        compressed = self.fit_size(matrix.detach(), size, budget, hints=hints, seed=seed, report=report)
        report(1.0)
        return compressed

    def fit_size(
        self, matrix: Tensor, size: int, budget: Budget, *, hints: Hints | None, seed: int, report: Report
    ) -> CompressedMatrix:
        """Compress `matrix` (rows, cols) at exactly this `size`.

        The default implementation calls `fit` of the `computing_module`. `hints` is never None for a method that needs hints.
        """
        compressed: CompressedMatrix = self.computing_module().fit(
            self, matrix, size, budget, hints=hints, seed=seed, report=report
        )
        return compressed

    @property
    def trains_together(self) -> bool:
        """Whether one call of `fit_together` for several matrices of the same shape is faster than one call of `fit` for each.

        Can be true only for methods that need no calibration hints.
        """
        return False

    def fit_together(
        self, matrices: Tensor, size: int, budget: Budget, *, seed: int = 0, report: Report = ignore_progress
    ) -> Iterator[CompressedMatrix]:
        """Compress stacked matrices (count, rows, cols) at `size`. Each result equals that of `fit`, up to rounding.

        All matrices are fitted in this call. Results are yielded one by one; the error of an unusable one
        is raised once it is reached.
        Called only if `trains_together`. The default implementation calls `fit_together` of the `computing_module`.
        """
        fitted: Iterator[CompressedMatrix] = self.computing_module().fit_together(
            self, matrices, size, budget, seed=seed, report=report
        )
        return fitted

    def seconds_together(self, rows: int, cols: int, size: int, count: int) -> float:
        """Estimated duration of `fit_together` for `count` matrices, in seconds on two cores."""
        return count * self.seconds(rows, cols, size)

    @classmethod
    def computing_module(cls) -> ModuleType:
        """The module that defines `fit` and the decoders: `fit.py` in the method's folder or, if missing, the method's file.

        `fit.py` may import torch at module level; the method's file must not. Raises InputError if an import fails.
        """
        own = sys.modules[cls.__module__]
        beside = f"{own.__package__}.fit"
        try:
            return import_module(beside) if own.__package__ else own
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name == beside:
                return own
            raise InputError(f"{cls.title} cannot be computed ({error}); install what it needs") from None

    def _check(self, rows: int, hints: Hints | None) -> None:
        if not self.calibrated:
            return
        if hints is None:
            raise InputError(
                f"{self.title} with these options needs calibration text; provide some or choose different options"
            )
        if sum(hints.heights) != rows:
            raise InputError(
                f"the hints are for {sum(hints.heights)} rows, but the matrix has {rows}; pass the hints for this matrix"
            )


@dataclass(frozen=True)
class CompressedMatrix:
    """A compressed (rows, cols) matrix: its stored tensors and the function that decodes them.

    tensors         the tensors exactly as in the safetensors file, in the storage dtype
    decode          function that computes a new float32 matrix from float32 tensors, given by name and left unmodified
    size            rank or latent width; 0 if the matrix is stored dense
    history         training losses, per epoch or every few steps; empty for closed-form methods
    codes           name of a packed tensor -> number of integers in it
    diagnostics     named numbers that describe the fit, such as condition numbers
    """

    tensors: Mapping[str, Tensor]
    decode: Decode
    size: int = 0
    history: tuple[float, ...] = ()
    codes: Mapping[str, int] = field(default_factory=dict)
    diagnostics: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        size = f"size {self.size}" if self.size else "stored dense"
        stored = self.stored
        return f"CompressedMatrix({self.decoder}, {size}, {stored.num_parameters:,} parameters, {stored.num_bytes:,} bytes)"

    def relative_error(self, matrix: Tensor) -> float:
        """‖W-Ŵ‖_F / ‖W‖_F for the original matrix W (rows, cols)."""
        from offcomp.numerics.reconstruction_error import reconstruction_error

        return reconstruction_error([(matrix.float(), self.reconstruct())]).relative_error

    def reconstruct(self) -> Tensor:
        """The reconstructed float32 matrix (rows, cols), computed from the stored tensors alone."""
        from offcomp.numerics.storage import unpack

        return self.decode(unpack(self.tensors))

    @property
    def decoder(self) -> str:
        """The name of the decoder, needed to load a saved matrix."""
        return self.decode.__name__

    def ledger(self) -> list[dict[str, Any]]:
        """One entry per stored tensor, with its name, shape, dtype and size in bytes."""
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
        """Number of stored parameters and bytes. Each packed integer counts as one parameter."""
        numbers = sum(self.codes.get(name, tensor.numel()) for name, tensor in self.tensors.items())
        return Size(numbers, sum(entry["bytes"] for entry in self.ledger()))


def dense_shapes(rows: int, cols: int) -> Shapes:
    """Shapes of the tensors stored for an uncompressed (dense) matrix."""
    return {"matrix": (rows, cols)}


def dense(tensors: Mapping[str, Tensor]) -> Tensor:
    """Decoder for a matrix that is stored dense."""
    return tensors["matrix"].clone()


def store_dense(matrix: Tensor, dtype: str) -> CompressedMatrix:
    """Store `matrix` dense, converted to a storage dtype."""
    from offcomp.numerics.storage import pack

    return CompressedMatrix(pack({"matrix": matrix}, dtype), dense)


def choose_size(method: Method, rows: int, cols: int, budget: Budget) -> int:
    """The largest size (rank, latent width) that fits the budget; 0 if the dense matrix already fits.

    Raises BudgetTooSmall if not even the smallest size fits.
    """
    if budget.admits(dense_shapes(rows, cols)):
        return 0
    sizes = multiples_of(budget.multiple, method.sizes(rows, cols))
    size = largest_size_within(budget, lambda s: method.tensor_shapes(rows, cols, s), sizes)
    if size is None:
        smallest = stored_size(method.tensor_shapes(rows, cols, sizes.start), budget.dtype).in_unit(budget.unit)
        raise BudgetTooSmall(
            f"{method.size_name} {sizes.start} of a ({rows}, {cols}) matrix needs {smallest} {budget.unit}, "
            f"but the budget is {budget.limit}; lower the ratio by a factor of {smallest / max(1, budget.limit):.3g} or more"
        )
    return size


def multiples_of(multiple: int, sizes: range) -> range:
    """The sizes that are multiples of `multiple`; if there are none, the smallest size alone."""
    return range(-(-sizes.start // multiple) * multiple, sizes.stop, multiple) or sizes[:1]


def rank_budget(method: Method, rows: int, cols: int, rank: int, *, unit: str, dtype: str) -> Budget:
    """The budget that exactly covers a (rows, cols) matrix at this rank, latent width or number of terms.

    Raises InputError if the method has no rank, or if this rank does not exist for the matrix.
    """
    sizes = method.sizes(rows, cols)
    if not method.has_rank:
        raise InputError(f"{method.title} has no rank; request a ratio")
    if rank not in sizes:
        raise InputError(f"rank {rank} of a ({rows}, {cols}) matrix does not exist; choose one from {sizes[0]} to {sizes[-1]}")
    return Budget(stored_size(method.tensor_shapes(rows, cols, rank), dtype).in_unit(unit), unit, dtype)


def smallest_size(method: Method, rows: int, cols: int, dtype: str) -> Size:
    """The storage that a (rows, cols) matrix needs at the method's smallest size."""
    return stored_size(method.tensor_shapes(rows, cols, method.sizes(rows, cols).start), dtype)
