"""Check a model folder, choose the model class, and build the model on the meta device.

Inconsistent files are rejected before any large allocation.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedConfig, PreTrainedModel

from offcomp.errors import ModelError, first_line
from offcomp.models import hub
from offcomp.models.folder_faults import check_depth
from offcomp.models.identity import Identity, identify
from offcomp.models.matrix_model import Matrices, MatricesConfig
from offcomp.models.safetensors_files import StoredTensor, stored_tensors, weight_files
from offcomp.models.skeleton import check_names, untie
from offcomp.models.sources import Source, check_folder, resolve

LIBRARY_FAULTS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(RuntimeError, AssertionError, ImportError, SafetensorError, StrictDataclassError),
)
"""Exceptions that transformers raises for invalid configs or files."""


@dataclass(frozen=True)
class Checkpoint:
    """A validated model folder, with everything needed to instantiate the model."""

    source: Source
    folder: Path
    config: Any
    architecture: type[PreTrainedModel]
    arguments: dict[str, Any]
    tensors: dict[str, StoredTensor]
    identity: Identity


def open_checkpoint(model: str) -> Checkpoint:
    """Resolve a model, check its folder, and choose the class to instantiate. Raises ModelError."""
    source = resolve(model)
    folder = source.folder or hub.snapshot(model)
    check_folder(folder)  # report faults before hashing
    identity = identify(folder)
    fields = check_folder(folder)
    model_type = fields["model_type"]
    bare = model_type == MatricesConfig.model_type
    if not bare and model_type not in CONFIG_MAPPING:
        raise ModelError(f"'{folder}' has the model type '{model_type}', which this version of transformers does not support.")
    with as_model_error(folder, "read the config of"):
        config = (MatricesConfig if bare else CONFIG_MAPPING[model_type]).from_dict(
            PreTrainedConfig._decode_special_floats(fields)
        )
        architecture = Matrices if bare else _architecture(config)
    tensors = stored_tensors(weight_files(folder))
    check_depth(fields, tensors)
    has_pooler = any("pooler." in key for key in tensors)
    takes_pooler = "add_pooling_layer" in inspect.signature(architecture).parameters
    arguments = {"add_pooling_layer": False} if takes_pooler and not has_pooler else {}
    return Checkpoint(source, folder, config, architecture, arguments, tensors, identity)


def check_not_changed(checkpoint: Checkpoint) -> None:
    """Check that the files have not changed since they were hashed. Raises ModelError."""
    if identify(checkpoint.folder) != checkpoint.identity:
        raise ModelError(
            f"The files of '{checkpoint.source.model}' changed while they were being read; try again once they are complete."
        )


def _architecture(config: Any) -> type[PreTrainedModel]:
    """The class named in the config if transformers provides it for this config type, otherwise the base model class."""
    named = getattr(transformers, str((config.architectures or [""])[0]), None)
    is_model = inspect.isclass(named) and issubclass(named, PreTrainedModel)
    if is_model and getattr(named, "config_class", None) is type(config):
        return cast("type[PreTrainedModel]", named)
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"the model type '{config.model_type}' has no base model class")
    base = MODEL_MAPPING[type(config)]
    return base[0] if isinstance(base, tuple) else base


def network_on_meta(checkpoint: Checkpoint) -> PreTrainedModel:
    """Build the model on the meta device, with weights tied as in the files."""
    with as_model_error(checkpoint.folder, "build the model of"), torch.device("meta"):
        network = checkpoint.architecture(checkpoint.config, **checkpoint.arguments)
    check_names(checkpoint.folder, checkpoint.tensors, network)
    untie(network, checkpoint.tensors)
    return network


@contextmanager
def as_model_error(folder: Path, action: str) -> Iterator[None]:
    """Convert exceptions raised by transformers to a one-sentence ModelError."""
    try:
        yield
    except LIBRARY_FAULTS as error:
        raise ModelError(f"transformers cannot {action} '{folder}': {first_line(error)}") from error
