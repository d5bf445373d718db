"""Read and write weight matrices of an instantiated model by full parameter path, always in their canonical view.

The canonical view of a weight is W (rows, cols) = (out_features, in_features): a Conv1D weight is transposed, and a
fused weight is split into pieces. Modules are never replaced, so evaluation runs the original architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from offcomp.errors import ModelError
from offcomp.models.catalogue import ModuleSpec, module_specs
from offcomp.models.matrix_model import Matrices
from offcomp.models.matrix_parameters import matrix_parameters, sizes_of
from offcomp.numerics.storage import num_not_finite

MATRIX_MODULES = (nn.Linear, nn.Embedding, Conv1D)
NO_VECTORS: Mapping[str, Tensor] = MappingProxyType({})


def list_modules(model: PreTrainedModel) -> tuple[ModuleSpec, ...]:
    """All weight matrices of a model, in model order: of linear layers, embeddings, routers and experts. Tied ones once.

    The model may be on any device, including meta. `model.config.model_type` selects the family.
    """
    if isinstance(model, Matrices):
        return model.specs()
    return module_specs(model.config.model_type, matrix_parameters(model), sizes_of(model))


def stored_view(model: nn.Module, spec: ModuleSpec) -> Float[Tensor, "rows cols"]:
    """A module's stored values. A view of the model's parameter, unless the module's rows are not adjacent in it."""
    return canonical_view(_parameter(model, spec.path).detach(), spec)


def canonical_view(stored: Tensor, spec: ModuleSpec) -> Float[Tensor, "rows cols"]:
    """A module's matrix within its stored tensor; a view unless its rows are not adjacent. Raises ModelError as `blocks`."""
    return blocks(stored, spec).flatten(0, 1)


def blocks(stored: Tensor, spec: ModuleSpec) -> Float[Tensor, "blocks block cols"]:
    """A view of a module's matrix within its stored tensor, as blocks of adjacent rows; writing to it modifies the tensor.

    Raises ModelError if the shapes do not match.
    """
    matrix = (stored if spec.expert is None else stacked_experts(stored, spec)[spec.expert]).flatten(1)
    canonical = matrix.T if spec.transposed else matrix
    block, stride = (spec.block, spec.stride) if spec.stride else (spec.rows, canonical.shape[0])
    fits = canonical.shape[0] % stride == 0 and spec.start + block <= stride
    view = canonical.unflatten(0, (-1, stride))[:, spec.start : spec.start + block] if fits else canonical[None]
    if (
        view.shape[0] * view.shape[1] != spec.rows
        or view.shape[2] != spec.cols
        or not (spec.fused or (fits and block == stride))
    ):
        raise ModelError(
            f"'{spec.path}' has the shape {tuple(stored.shape)}, which does not match {spec.name} of shape {spec.shape}; "
            "list the model's modules again."
        )
    return view


def stacked_experts(stored: Tensor, spec: ModuleSpec) -> Tensor:
    """The tensor (experts, ., .) that an expert belongs to; a view of one that has all experts one above the other (DBRX)."""
    return stored.unflatten(0, (-1, spec.cols if spec.transposed else spec.rows)) if stored.ndim == 2 else stored


def _parameter(model: nn.Module, path: str) -> nn.Parameter:
    """The parameter with this full path. Raises ModelError if it does not exist."""
    try:
        return model.get_parameter(path)
    except AttributeError as error:
        raise ModelError(f"The model has no weight '{path}'; list its modules again.") from error


def read(model: nn.Module, spec: ModuleSpec) -> Float[Tensor, "rows cols"]:
    """A contiguous float32 copy of a module's matrix W (rows, cols), on the model's device.

    Raises:
        ModelError: the model has no such weight, or its shape does not match.
    """
    return stored_view(model, spec).to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def write(model: nn.Module, spec: ModuleSpec, matrix: Float[Tensor, "rows cols"]) -> None:
    """Copy W (rows, cols) into the model, cast to the dtype and device of the parameter.

    Raises:
        ModelError: the model has no such weight, its shape does not match, or a value is not finite in the parameter's dtype.
    """
    view = blocks(_parameter(model, spec.path).detach(), spec)
    view.copy_(_as_stored(view, spec, matrix).view(view.shape))


def _as_stored(view: Tensor, spec: ModuleSpec, matrix: Tensor) -> Tensor:
    """Check the matrix (rows, cols) and cast it to the dtype and device of `view`. Raises ModelError."""
    if tuple(matrix.shape) != spec.shape:
        raise ModelError(f"{spec.name} has the shape {spec.shape}, but the new matrix has the shape {tuple(matrix.shape)}.")
    return _finite(matrix.detach().to(view), spec.name)


def _finite(values: Tensor, name: str) -> Tensor:
    """Check the values for the weight with this name, and return them. Raises ModelError if any is not finite."""
    if bad := num_not_finite(values):
        raise ModelError(f"The new weight for {name} has {bad} values that are not finite in {values.dtype}.")
    return values


def replace(model: nn.Module, matrices: Mapping[ModuleSpec, Tensor], vectors: Mapping[str, Tensor] = NO_VECTORS) -> None:
    """Write matrices (rows, cols) into the model permanently, then verify each weight and all weights tied to it.

    `vectors` maps the full paths of other parameters, such as biases, to their new values.

    Raises:
        ModelError: a matrix is rejected (see `write`), two matrices overlap, or a tied weight was not updated; or a vector does
            not exist in the model, has a different shape, or has a value that is not finite in the parameter's dtype.
    """
    for spec, matrix in matrices.items():
        write(model, spec, matrix)
    for spec, matrix in matrices.items():
        _check_written(model, spec, matrix)
    for path, vector in vectors.items():
        parameter = _parameter(model, path).data
        if vector.shape != parameter.shape:
            raise ModelError(f"'{path}' has the shape {tuple(parameter.shape)}, but its new value has {tuple(vector.shape)}.")
        parameter.copy_(_finite(vector.detach().to(parameter), path))


@contextmanager
def substituted(
    model: nn.Module, matrices: Mapping[ModuleSpec, Tensor], vectors: Mapping[str, Tensor] = NO_VECTORS
) -> Iterator[None]:
    """Like `replace`, but only inside the `with` block; the original values are always restored exactly on exit.

    Raises:
        ModelError: see `replace`.
    """
    originals = {spec: stored_view(model, spec).clone() for spec in matrices}
    original_vectors = {path: _parameter(model, path).detach().clone() for path in vectors}
    try:
        replace(model, matrices, vectors)
        del matrices  # they may be large, and the block may run for a long time
        yield
    finally:
        for path, vector in original_vectors.items():
            _parameter(model, path).data.copy_(vector)
        for spec, original in originals.items():
            view = blocks(_parameter(model, spec.path).detach(), spec)
            view.copy_(original.view(view.shape))


def _check_written(model: nn.Module, spec: ModuleSpec, matrix: Tensor) -> None:
    """Check that the weight and all weights tied to it equal the matrix. Raises ModelError."""
    view = stored_view(model, spec)
    if not torch.equal(view, _as_stored(view, spec, matrix)):
        raise ModelError(f"{spec.name} was overwritten by another module in the same substitution; list it only once.")
    stored = _parameter(model, spec.path)
    for path in spec.tied:
        tied = _parameter(model, path)
        if tied.data_ptr() != stored.data_ptr() and not torch.equal(tied, stored):
            raise ModelError(f"'{path}' no longer shares the values of '{spec.path}'; tie the model's weights again.")


def check_finite(model: nn.Module) -> None:
    """Check that no parameter contains NaN or infinite values.

    Raises:
        ModelError: a value is not finite; the message names the first affected weight and counts its non-finite values.
    """
    for path, parameter in model.named_parameters():
        check_values(path, parameter)


def check_values(path: str, values: Tensor) -> None:
    """Raise ModelError if the weight with this path has NaN or infinite values."""
    if bad := num_not_finite(values):
        raise ModelError(f"The weight '{path}' has {bad} values that are NaN or infinite; the model is damaged.")
