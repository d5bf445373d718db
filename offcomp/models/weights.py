"""Read and write weight matrices of an instantiated model, always by full parameter path and in canonical view.

The canonical view of a weight is W (rows, cols) = (out_features, in_features): a Conv1D is seen transposed, a fused
weight is seen one piece at a time. No module is ever swapped: the model that is evaluated is the ordinary one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from offcomp.errors import ModelError
from offcomp.models.catalogue import ModuleSpec, StoredWeight, module_specs
from offcomp.models.matrix_model import Matrices
from offcomp.numerics.storage import num_not_finite

MATRIX_MODULES = (nn.Linear, nn.Embedding, Conv1D)


def list_modules(model: PreTrainedModel) -> tuple[ModuleSpec, ...]:
    """Every Linear, Conv1D and Embedding weight of a model, on any device (meta too), tied weights once.

    The order is the model's own. `model.config.model_type` selects the family.
    """
    if isinstance(model, Matrices):
        return model.specs()
    paths: dict[int, list[str]] = {}
    modules: dict[int, nn.Linear | nn.Embedding | Conv1D] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, MATRIX_MODULES) and isinstance(module.weight, nn.Parameter):
            paths.setdefault(id(module.weight), []).append(path)
            modules.setdefault(id(module.weight), module)
    weights = [
        StoredWeight(tuple(paths[key]), tuple(module.weight.shape), transposed=isinstance(module, Conv1D))
        for key, module in modules.items()
    ]
    return module_specs(model.config.model_type, weights)


def _parameter(model: nn.Module, path: str) -> nn.Parameter:
    """The parameter at a full path; ModelError where there is none."""
    try:
        return model.get_parameter(path)
    except AttributeError as error:
        raise ModelError(f"The model has no weight '{path}'; list its modules again.") from error


def stored_view(model: nn.Module, spec: ModuleSpec) -> Float[Tensor, "rows cols"]:
    """The canonical view of a module's stored values: writing into it writes into the model."""
    return canonical_view(_parameter(model, spec.path).detach(), spec)


def canonical_view(stored: Tensor, spec: ModuleSpec) -> Float[Tensor, "rows cols"]:
    """The matrix of a module in the stored tensor that holds it. Raises ModelError where it does not fit in there."""
    canonical = stored.T if spec.transposed else stored
    view = canonical[spec.start : spec.start + spec.rows]
    if tuple(view.shape) != spec.shape or (not spec.fused and canonical.shape != view.shape):
        raise ModelError(
            f"'{spec.path}' has the shape {tuple(stored.shape)}, in which {spec.name} {spec.shape} does not fit; "
            "list the modules of this model again."
        )
    return view


def read(model: nn.Module, spec: ModuleSpec) -> Float[Tensor, "rows cols"]:
    """A contiguous float32 copy of a module's matrix W (rows, cols), on the model's device.

    Raises:
        ModelError: the model has no such weight, or it has another shape.
    """
    return stored_view(model, spec).to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def write(model: nn.Module, spec: ModuleSpec, matrix: Float[Tensor, "rows cols"]) -> None:
    """Copy W (rows, cols) into the model, cast to the dtype and device of the parameter.

    Raises:
        ModelError: no such weight, another shape, or values that are not finite in the parameter's dtype.
    """
    view = stored_view(model, spec)
    view.copy_(_as_stored(view, spec, matrix))


def _as_stored(view: Tensor, spec: ModuleSpec, matrix: Tensor) -> Tensor:
    """A checked (rows, cols) matrix in the dtype and on the device of the stored one."""
    if tuple(matrix.shape) != spec.shape:
        raise ModelError(f"{spec.name} has the shape {spec.shape}, but the new matrix has {tuple(matrix.shape)}.")
    cast = matrix.detach().to(view)
    bad = num_not_finite(cast)
    if bad:
        raise ModelError(f"The new matrix of {spec.name} has {bad} values that are not finite as {view.dtype}.")
    return cast


def replace(model: nn.Module, matrices: Mapping[ModuleSpec, Tensor]) -> None:
    """Write matrices (rows, cols) into the model for good, and check that each weight holds its own and tied paths follow.

    Raises:
        ModelError: a matrix does not fit (see `write`), two of them overlap, or a tied weight does not follow.
    """
    for spec, matrix in matrices.items():
        write(model, spec, matrix)
    for spec, matrix in matrices.items():
        _check_written(model, spec, matrix)


@contextmanager
def substituted(model: nn.Module, matrices: Mapping[ModuleSpec, Tensor]) -> Iterator[None]:
    """The model with other matrices (rows, cols) inside the block; every original bit is back after it, come what may.

    Raises:
        ModelError: as `replace`.
    """
    kept = {spec: stored_view(model, spec).clone() for spec in matrices}
    try:
        replace(model, matrices)
        del matrices  # they may be large, and the block long
        yield
    finally:
        for spec, original in kept.items():
            stored_view(model, spec).copy_(original)


def _check_written(model: nn.Module, spec: ModuleSpec, matrix: Tensor) -> None:
    """The weight holds the matrix, and so do the paths tied to it."""
    view = stored_view(model, spec)
    if not torch.equal(view, _as_stored(view, spec, matrix)):
        raise ModelError(f"{spec.name} was overwritten by another module of the same substitution; list it once.")
    stored = _parameter(model, spec.path)
    for path in spec.tied:
        tied = _parameter(model, path)
        if tied.data_ptr() != stored.data_ptr() and not torch.equal(tied, stored):
            raise ModelError(f"'{path}' no longer shares the values of '{spec.path}'; tie the model's weights again.")


def check_finite(model: nn.Module) -> None:
    """No parameter holds NaN or an infinite value.

    Raises:
        ModelError: with the first weight at fault and how many of its values are not finite.
    """
    for path, parameter in model.named_parameters():
        bad = num_not_finite(parameter)
        if bad:
            raise ModelError(f"The weight '{path}' has {bad} values that are NaN or infinite; the model is damaged.")
