"""Determine the dtype and size in bytes of each parameter in a model's files.

When loading a model, transformers may rename tensors and merge several into one parameter (Mixtral's experts, for example).
This module applies the same rules to find the tensors that make up each parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from offcomp.models.catalogue import BYTES_PER_VALUE, ModuleSpec
from offcomp.models.conversions import Sources, conversions_of, sources_in
from offcomp.models.safetensors_files import FLOATS, StoredTensor, check_dtypes
from offcomp.numerics.accounting import STORED, storage_dtype


def stored_parameters(
    network: PreTrainedModel, modules: Iterable[ModuleSpec], tensors: Mapping[str, StoredTensor], default_dtype: str
) -> tuple[tuple[ModuleSpec, ...], int, int]:
    """Look up how a model's parameters and listed matrices are stored. The model may be on any device, including meta.

    Returns the specs of the listed matrices, each with its stored dtype; the size of all parameters in bytes, counting tied
    ones once; and the number of parameters in other tensors with two or more dimensions.

    Args:
        tensors: all tensors in the files, by key.
        default_dtype: dtype of parameters without a stored tensor of their own, such as slices of a larger tensor.

    Raises:
        ModelError: a parameter is stored in an unsupported dtype.
    """
    sources, dtypes = tensors_of(network, tensors), parameter_dtypes(network, tensors, default_dtype)
    listed = {path for spec in modules for path in (spec.path, *spec.tied)}
    num_bytes = unlisted = 0
    for paths, parameter in parameters_by_tie(network):
        copies = [sources[path] for path in paths if path in sources]
        dtype = dtypes[paths[0]]
        whole = [copy for copy in copies if sum(tensor.num_parameters for _, tensor in copy) == parameter.numel()]
        sizes = [sum(tensor.num_bytes for _, tensor in copy) for copy in whole]
        num_bytes += min(sizes, default=parameter.numel() * BYTES_PER_VALUE[dtype])
        unlisted += parameter.numel() if parameter.ndim > 1 and not listed.intersection(paths) else 0
    return tuple(replace(spec, dtype=dtypes[spec.path]) for spec in modules), num_bytes, unlisted


def parameter_dtypes(network: PreTrainedModel, tensors: Mapping[str, StoredTensor], default_dtype: str) -> dict[str, str]:
    """The dtype in which each parameter is stored, by path. Raises ModelError as `stored_parameters` does."""
    sources = tensors_of(network, tensors)
    dtypes: dict[str, str] = {}
    for paths, _ in parameters_by_tie(network):
        found = [_dtype(sources[path]) for path in paths if path in sources]
        dtypes |= dict.fromkeys(paths, min(found, key=BYTES_PER_VALUE.__getitem__, default=default_dtype))
    return dtypes


def tensors_of(network: PreTrainedModel, tensors: Mapping[str, StoredTensor]) -> dict[str, Sources]:
    """Map each parameter path to the stored tensors, with their keys, from which transformers builds the parameter."""
    return dict(sources_in(*conversions_of(network, tensors)))


def parameters_by_tie(network: nn.Module) -> list[tuple[list[str], nn.Parameter]]:
    """Each distinct parameter, with all paths that refer to it."""
    ties: dict[int, tuple[list[str], nn.Parameter]] = {}
    for path, parameter in network.named_parameters(remove_duplicate=False):
        ties.setdefault(id(parameter), ([], parameter))[0].append(path)
    return list(ties.values())


def _dtype(sources: Sources) -> str:
    """A dtype that can represent the values of all sources. Raises ModelError if a source is stored in an unsupported dtype."""
    for key, tensor in sources:
        check_dtypes(tensor.file.parent, {key: tensor})
    return storage_dtype(STORED, (FLOATS[tensor.dtype] for _, tensor in sources))
