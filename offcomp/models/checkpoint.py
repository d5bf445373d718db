"""A model's folder, checked and opened: its config, class and stored tensors, and the model on the meta device, without values.

Whatever does not fit is refused here, before anything large is allocated.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedModel

from offcomp.errors import ModelError
from offcomp.models import hub
from offcomp.models.folder_faults import check_depth, check_names
from offcomp.models.identity import Identity, identify
from offcomp.models.matrix_model import Matrices, MatricesConfig
from offcomp.models.safetensors_files import (
    StoredTensor,
    check_dtypes,
    find_tensor,
    same_values,
    stored_tensors,
    weight_files,
)
from offcomp.models.sources import MAX_PARAMETERS, Source, check_folder, resolve

MAX_BUFFER_BYTES = 4 * 10**9

LIBRARY_FAULTS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers raises for a config or files that do not fit."""


@dataclass(frozen=True)
class Checkpoint:
    """A checked folder, and how its model is instantiated."""

    source: Source
    folder: Path
    config: Any
    architecture: type[PreTrainedModel]
    arguments: dict[str, Any]
    tensors: dict[str, StoredTensor]
    identity: Identity


def open_checkpoint(model: str) -> Checkpoint:
    """Resolve a model, check its folder, and choose the class to instantiate."""
    source = resolve(model)
    folder = source.folder or hub.snapshot(model)
    check_folder(folder)  # says what is wrong with it before its bytes are hashed
    identity = identify(folder)
    fields = check_folder(folder)
    model_type = fields["model_type"]
    bare = model_type == MatricesConfig.model_type
    if not bare and model_type not in CONFIG_MAPPING:
        raise ModelError(f"'{folder}' has the model type '{model_type}', which this version of transformers lacks.")
    with refusing(folder, "read the config of"):
        config = (MatricesConfig if bare else CONFIG_MAPPING[model_type]).from_dict(fields)
        architecture = Matrices if bare else _architecture(config)
    tensors = stored_tensors(weight_files(folder))
    check_depth(fields, tensors)
    has_pooler = any("pooler." in key for key in tensors)
    takes_pooler = "add_pooling_layer" in inspect.signature(architecture).parameters
    arguments = {"add_pooling_layer": False} if takes_pooler and not has_pooler else {}
    return Checkpoint(replace(source, folder=folder), folder, config, architecture, arguments, tensors, identity)


def check_not_changed(checkpoint: Checkpoint) -> None:
    """What was read belongs to the identity that was taken before. Raises ModelError."""
    if identify(checkpoint.folder) != checkpoint.identity:
        raise ModelError(
            f"The files of '{checkpoint.source.model}' changed while they were read; try again once they are whole."
        )


def _architecture(config: Any) -> type[PreTrainedModel]:
    """The class that the config names, if it is one of transformers for this config; else the base model's class."""
    named = getattr(transformers, str((config.architectures or [""])[0]), None)
    is_model = inspect.isclass(named) and issubclass(named, PreTrainedModel)
    if is_model and getattr(named, "config_class", None) is type(config):
        return cast("type[PreTrainedModel]", named)
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"the model type '{config.model_type}' is no plain model")
    base = MODEL_MAPPING[type(config)]
    return base[0] if isinstance(base, tuple) else base


def skeleton(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model on the meta device, its weights tied as in the files."""
    with refusing(checkpoint.folder, "build the model of"), torch.device("meta"):
        network = checkpoint.architecture(checkpoint.config, **checkpoint.arguments)
    _check_weights(network, checkpoint)
    _untie(network, checkpoint.tensors)
    return network


def _check_weights(network: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """The files call the parameters as the model does, and hold them in dtypes that can be read."""
    paths = [path for path, _ in network.named_parameters()]
    check_names(checkpoint.folder, checkpoint.tensors, network.base_model_prefix, paths)
    stored = {path: find_tensor(checkpoint.tensors, network.base_model_prefix, path) for path in paths}
    check_dtypes(checkpoint.folder, {path: tensor for path, tensor in stored.items() if tensor})


def _untie(network: PreTrainedModel, tensors: dict[str, StoredTensor]) -> None:
    """Give a weight its own tensor where the files hold other values than for the weight it is tied to by default.

    transformers does so while loading: a T5 v1.1 checkpoint has a head of its own, whatever its config says.
    """
    stored = partial(find_tensor, tensors, network.base_model_prefix)
    for target, origin in network.all_tied_weights_keys.items():
        left, right = stored(target), stored(origin)
        if left and right and not same_values(left, right):
            parent, _, name = target.rpartition(".")
            own = torch.empty_like(network.get_parameter(target))
            network.get_submodule(parent).register_parameter(name, nn.Parameter(own))


def check_memory(network: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """The model is about as large as its files, so that a config cannot exhaust the memory."""
    needed = sum(parameter.numel() for parameter in network.parameters())
    stored = sum(tensor.num_parameters for tensor in checkpoint.tensors.values())
    buffers = sum(buffer.nbytes for buffer in network.buffers())
    if needed > MAX_PARAMETERS or buffers > MAX_BUFFER_BYTES or needed > 1.5 * stored + 10**6:
        raise ModelError(
            f"The config of '{checkpoint.folder}' describes {needed:,} parameters and {buffers:,} bytes of buffers, "
            f"but its files hold {stored:,} values, and at most {MAX_PARAMETERS:,} parameters are supported."
        )


@contextmanager
def refusing(folder: Path, action: str) -> Iterator[None]:
    """Turn what transformers raises into one sentence."""
    try:
        yield
    except LIBRARY_FAULTS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"transformers cannot {action} '{folder}': {reason}") from error
