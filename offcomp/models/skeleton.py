"""Check that a model built from its config on the meta device matches the tensors in its files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from offcomp.errors import ModelError
from offcomp.models.safetensors_files import StoredTensor, find_tensor, same_values

MAX_BUFFER_BYTES = 4 * 10**9
COMPILED = "_orig_mod."
WRAPPERS = {COMPILED: "torch.compile", "module.": "DataParallel"}


def untie(network: PreTrainedModel, tensors: Mapping[str, StoredTensor]) -> None:
    """Untie weights that are tied by default but have different values in the files.

    transformers does the same when loading a model. T5 v1.1 checkpoints, for example, always have a separate LM head.
    """
    stored = partial(find_tensor, tensors, network.base_model_prefix)
    for target, origin in network.all_tied_weights_keys.items():
        left, right = stored(target), stored(origin)
        if left and right and not same_values(left, right):
            parent, _, name = target.rpartition(".")
            own = torch.empty_like(network.get_parameter(target))
            network.get_submodule(parent).register_parameter(name, nn.Parameter(own))


def check_memory(folder: Path, tensors: Mapping[str, StoredTensor], network: PreTrainedModel) -> None:
    """Check that the model is not much larger than its files, so that a config cannot exhaust memory. Raises ModelError."""
    needed = sum(parameter.numel() for parameter in network.parameters())
    stored = sum(tensor.num_parameters for tensor in tensors.values())
    buffers = sum(buffer.nbytes for buffer in network.buffers())
    if buffers > MAX_BUFFER_BYTES or needed > 1.5 * stored + 10**6:
        raise ModelError(
            f"The config of '{folder}' describes {needed:,} parameters and {buffers:,} bytes of buffers, but its files contain "
            f"{stored:,} values; restore the config that belongs to the files (at most {MAX_BUFFER_BYTES:,} bytes of buffers)."
        )


def check_names(folder: Path, tensors: Mapping[str, StoredTensor], network: PreTrainedModel) -> None:
    """Check that the files use the model's parameter names.

    If a model is saved while it is wrapped, every name has an extra prefix: `_orig_mod.` from torch.compile, `module.` from
    DataParallel, or `model.` from a custom class. As a result, transformers cannot find the model's parameters.

    Raises:
        ModelError: the names match only without such a prefix; the message names the prefix and says how to remove it.
    """
    prefix = network.base_model_prefix
    missing = [path for path, _ in network.named_parameters() if find_tensor(tensors, prefix, path) is None]
    for extra in _extra_names(tensors):
        renamed = {key.replace(extra, "", -1 if extra == COMPILED else 1): tensor for key, tensor in tensors.items()}
        matched = [path for path in missing if find_tensor(renamed, prefix, path)]
        if matched and 2 * len(matched) >= len(missing):
            example = next(key for key in tensors if extra in key)
            raise ModelError(
                f"The weights in '{folder}' have '{extra}' in their names ('{example}'), as if the model had been saved while "
                f"wrapped in {WRAPPERS.get(extra, 'another module')}; save the inner model instead, or rename the weights: "
                "`from safetensors.torch import load_file, save_file; w = load_file(f); "
                f"save_file({{k.replace('{extra}', ''): v for k, v in w.items()}}, f)`."
            )


def _extra_names(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Possible wrapper prefixes: torch.compile's marker anywhere, or the first 1 to 3 parts of the keys if shared by all."""
    extra = [COMPILED] if any(COMPILED in key for key in tensors) else []
    split = [key.split(".") for key in tensors]
    for depth in range(1, 4):
        heads = {".".join(names[:depth]) for names in split}
        if len(heads) == 1 and min(map(len, split)) > depth:
            extra.append(f"{heads.pop()}.")
    return extra
