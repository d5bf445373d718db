"""Describe a transformers model that is already in memory, so that it can be compressed without being saved first."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offcomp.errors import ModelError
from offcomp.models.catalogue import BYTES_PER_VALUE, ModelInfo
from offcomp.models.families import family_of
from offcomp.models.loading import LoadedModel, reads_text
from offcomp.models.stored_parameters import parameters_by_tie
from offcomp.models.weights import list_modules


def loaded_from(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> LoadedModel:
    """A live model with its description. The model itself is neither copied nor modified.

    Raises:
        ModelError: a weight matrix is not in float32, float16 or bfloat16, or the model is on the meta device.
    """
    parameters = [parameter for _, parameter in parameters_by_tie(model)]
    if any(parameter.is_meta for parameter in parameters):
        raise ModelError("The model is on the meta device, so it has no weights; load them first.")
    modules = []
    for spec in list_modules(model):
        dtype = str(model.get_parameter(spec.path).dtype).removeprefix("torch.")
        if dtype not in BYTES_PER_VALUE:
            raise ModelError(f"The weight '{spec.path}' is in {dtype}; convert the model to {', '.join(BYTES_PER_VALUE)}.")
        modules.append(replace(spec, dtype=dtype))
    listed = {path for spec in modules for path in (spec.path, *spec.tied)}
    family = family_of(model.config.model_type)
    info = ModelInfo(
        model=model.config.name_or_path or type(model).__name__,
        source="live",
        family=family.name if family else None,
        model_type=model.config.model_type,
        architecture=type(model).__name__,
        dtype=_common_dtype((modules and [spec.dtype for spec in modules]) or ["float32"]),
        num_parameters=sum(parameter.numel() for parameter in parameters),
        matrix_parameters=sum(spec.num_parameters for spec in modules),
        num_layers=getattr(model.config.get_text_config(), "num_hidden_layers", 0),
        fingerprint="",
        modules=tuple(modules),
        num_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        matrix_bytes=sum(spec.num_bytes for spec in modules),
        unlisted=sum(p.numel() for paths, p in parameters_by_tie(model) if p.ndim > 1 and not listed.intersection(paths)),
        reads_text=reads_text(type(model)),
    )
    return LoadedModel(model, tokenizer, info)


def _common_dtype(dtypes: list[str]) -> str:
    return max(set(dtypes), key=dtypes.count)
