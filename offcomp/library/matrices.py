"""Every method on a bare matrix, without a model: `SVD(rank=64).fit(W)`.

SVD(rank=64).fit(W)                                  exactly rank 64
SVD(energy=0.9, multiple=8).fit(W)                   90 % of the squared singular values, rank rounded up to a multiple of 8
Kronecker(ratio=4).fit(W)                            at most a quarter of the parameters
Quantization(ratio=8, unit="bytes").fit(W)           at most an eighth of the bytes
Autoencoder(ratio=4, epochs=10).fit(W)               options of the method are keyword arguments, too
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from offcomp import methods
from offcomp.errors import InputError
from offcomp.methods import make_method, own_options
from offcomp.methods.base import CompressedMatrix, Method, dense_shapes, rank_budget
from offcomp.methods.codebook.method import CodebookAutoencoder as CodebookMethod
from offcomp.methods.kronecker.method import Kronecker as KroneckerMethod
from offcomp.methods.pruning.method import Pruning as PruningMethod
from offcomp.methods.quantization.method import Quantization as QuantizationMethod
from offcomp.methods.residual.method import ResidualAutoencoder as ResidualMethod
from offcomp.methods.trellis.method import TrellisAutoencoder as TrellisMethod
from offcomp.methods.tucker.method import Tucker as TuckerMethod
from offcomp.numerics.accounting import DTYPE_CHOICES, STORED, UNITS, budget_for_ratio, stored_size
from offcomp.numerics.storage import num_not_finite
from offcomp.numerics.svd import singular_values
from offcomp.planning.spectrum import energy_rank

OWN_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


class Compressor:
    """A method, its options and the size to compress to. `fit` compresses one matrix.

    Args:
        ratio: compression ratio, original size / stored size; 2 if neither a rank nor a share of the energy is given.
        rank: rank, latent width or number of terms.
        energy: share of the squared singular values to keep, above 0 and at most 1 (SVD only).
        multiple: ranks are rounded to a multiple of this number: down if chosen from a ratio, up if chosen from energy.
        unit: what the ratio counts, "parameters" or "bytes".
        dtype: storage dtype; "stored" keeps the dtype of the matrix (float64 becomes float32).
        seed: seed of the method's random generator.
        options: options of the method by name; they may also be passed as keyword arguments.

    Raises:
        InputError: an argument or option is unknown or out of range, or several sizes are given.
    """

    method_class: ClassVar[type[Method]]

    def __init__(
        self,
        *,
        ratio: float | None = None,
        rank: int | None = None,
        energy: float | None = None,
        multiple: int = 1,
        unit: str = "parameters",
        dtype: str = STORED,
        seed: int = 0,
        options: dict[str, Any] | None = None,
        **more_options: Any,
    ) -> None:
        if sum(size is not None for size in (ratio, rank, energy)) > 1:
            raise InputError("request a ratio, a rank or a share of the energy, not several of them")
        if energy is not None and (self.method_class is not methods.SVD or not 0 < energy <= 1):
            raise InputError(f"energy is {energy!r}; it must be a share above 0 and at most 1, and applies to SVD only")
        if ratio is not None and not ratio >= 1:
            raise InputError(f"ratio is {ratio!r}; it must be 1 or more")
        for name, value, choices in (("unit", unit, UNITS), ("dtype", dtype, DTYPE_CHOICES)):
            if value not in choices:
                raise InputError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
        if multiple != 1 and (multiple < 1 or not self.method_class.has_rank):
            raise InputError(f"multiple is {multiple!r}; it must be 1 or more, and applies to methods with a rank only")
        self.ratio, self.rank, self.energy, self.multiple = ratio, rank, energy, multiple
        self.unit, self.dtype, self.seed = unit, dtype, seed
        self.method = make_method(self.method_class.name, own_options(self.method_class) | (options or {}) | more_options)

    def __repr__(self) -> str:
        named = {name: getattr(self, name) for name in ("ratio", "rank", "energy")}
        size = next((f"{name}={value}" for name, value in named.items() if value is not None), "ratio=2")
        return f"{type(self).__name__}({size})"

    def fit(self, matrix: Tensor | ArrayLike) -> CompressedMatrix:
        """Compress a matrix (rows, cols), a tensor or an array. The matrix is not modified.

        With a ratio, a matrix that would not become smaller is stored dense.

        Raises:
            InputError: the matrix does not have two dimensions, has no entries or contains values that are not finite; the rank
                is out of range; or the method needs calibration text (use `offcomp.compress`).
            BudgetTooSmall: not even the smallest size fits the ratio.
        """
        tensor = torch.as_tensor(matrix).detach()
        if tensor.ndim != 2 or not tensor.numel():
            raise InputError(
                f"the matrix has the shape {tuple(tensor.shape)}; it must have two dimensions and at least one entry"
            )
        own = OWN_DTYPES.get(tensor.dtype, "float32")
        wide = tensor.to(torch.float32, copy=True)
        if bad := num_not_finite(wide):
            raise InputError(f"the matrix has {bad} values that are NaN or infinite in float32; replace or rescale them")
        (rows, cols), dtype = wide.shape, own if self.dtype == STORED else self.dtype
        rank = self.rank if self.energy is None else self._energy_rank(wide, self.energy)
        if rank is None:
            original = stored_size(dense_shapes(rows, cols), own)
            ratio = 2.0 if self.ratio is None else float(self.ratio)
            budget = budget_for_ratio(original, ratio, self.unit, dtype, self.multiple)
        else:
            budget = rank_budget(self.method, rows, cols, rank, unit=self.unit, dtype=dtype)
        return self.method.fit(wide, budget, size=rank, seed=self.seed)

    def _energy_rank(self, matrix: Tensor, energy: float) -> int:
        return energy_rank(singular_values(matrix).cpu().numpy(), energy, self.multiple)


class SVD(Compressor):
    """The truncated SVD; see `offcomp.methods.svd.method`."""

    method_class = methods.SVD


class Autoencoder(Compressor):
    """The autoencoder of Banaei et al. (arXiv 2302.04045); see `offcomp.methods.autoencoder.method`."""

    method_class = methods.Autoencoder


class ResidualAutoencoder(Compressor):
    """An autoencoder that starts from the SVD; see `offcomp.methods.residual.method`."""

    method_class = ResidualMethod


class CodebookAutoencoder(Compressor):
    """An autoencoder with discrete latents; see `offcomp.methods.codebook.method`."""

    method_class = CodebookMethod


class TrellisAutoencoder(Compressor):
    """An autoencoder with discrete latents along a row, stored in an entropy code; see `offcomp.methods.trellis.method`."""

    method_class = TrellisMethod


class Kronecker(Compressor):
    """A sum of Kronecker products; see `offcomp.methods.kronecker.method`."""

    method_class = KroneckerMethod


class Tucker(Compressor):
    """A Tucker decomposition; see `offcomp.methods.tucker.method`."""

    method_class = TuckerMethod


class Pruning(Compressor):
    """Magnitude pruning; see `offcomp.methods.pruning.method`."""

    method_class = PruningMethod


class Quantization(Compressor):
    """Row-wise or block-wise quantization; see `offcomp.methods.quantization.method`."""

    method_class = QuantizationMethod


@cache
def compressor(method: type[Method]) -> type[Compressor]:
    """Create a `Compressor` for a method that has none in this module, such as a method from another package."""
    return type(method.__name__, (Compressor,), {"method_class": method, "__doc__": method.__doc__, "__module__": __name__})
