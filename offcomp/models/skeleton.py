"""Whether a model on the meta device, as its config makes it, is the one that its files hold."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from offcomp.errors import ModelError
from offcomp.models.safetensors_files import StoredTensor, find_tensor, same_values
from offcomp.models.sources import MAX_PARAMETERS

MAX_BUFFER_BYTES = 4 * 10**9
COMPILED = "_orig_mod."
WRAPPERS = {"_orig_mod.": "torch.compile", "module.": "DataParallel"}


def untie(network: PreTrainedModel, tensors: Mapping[str, StoredTensor]) -> None:
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


def check_memory(folder: Path, tensors: Mapping[str, StoredTensor], network: PreTrainedModel) -> None:
    """The model is about as large as its files, so that a config cannot exhaust the memory. Raises ModelError."""
    needed = sum(parameter.numel() for parameter in network.parameters())
    stored = sum(tensor.num_parameters for tensor in tensors.values())
    buffers = sum(buffer.nbytes for buffer in network.buffers())
    if needed > MAX_PARAMETERS or buffers > MAX_BUFFER_BYTES or needed > 1.5 * stored + 10**6:
        raise ModelError(
            f"The config of '{folder}' describes {needed:,} parameters and {buffers:,} bytes of buffers, "
            f"but its files hold {stored:,} values, and at most {MAX_PARAMETERS:,} parameters are supported."
        )


def check_names(folder: Path, tensors: Mapping[str, StoredTensor], network: PreTrainedModel) -> None:
    """The files call the parameters as the model does.

    A model that was saved from inside a wrapper has one name more in front of each: `_orig_mod.` of torch.compile, `module.` of
    DataParallel, `model.` of one's own class. transformers finds none of them.

    Raises:
        ModelError: the names fit once something is taken off them; the message says what, and how.
    """
    prefix = network.base_model_prefix
    missing = [path for path, _ in network.named_parameters() if find_tensor(tensors, prefix, path) is None]
    for extra in _extra_names(tensors):
        renamed = {key.replace(extra, "", -1 if extra == COMPILED else 1): tensor for key, tensor in tensors.items()}
        mended = [path for path in missing if find_tensor(renamed, prefix, path)]
        if mended and 2 * len(mended) >= len(missing):
            example = next(key for key in tensors if extra in key)
            raise ModelError(
                f"The weights in '{folder}' have '{extra}' in their names ('{example}'), as of a model saved from inside "
                f"{WRAPPERS.get(extra, 'another one')}; save the model within it, or rename them: `from safetensors.torch "
                "import load_file, save_file; w = load_file(f); "
                f"save_file({{k.replace('{extra}', ''): v for k, v in w.items()}}, f)`."
            )


def _extra_names(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """What may be too much in the keys: torch.compile's mark anywhere, or the names that all keys begin with, 3 at most."""
    found = [COMPILED] if any(COMPILED in key for key in tensors) else []
    split = [key.split(".") for key in tensors]
    for depth in range(1, 4):
        heads = {".".join(names[:depth]) for names in split}
        if len(heads) == 1 and min(map(len, split)) > depth:
            found.append(f"{heads.pop()}.")
    return found
