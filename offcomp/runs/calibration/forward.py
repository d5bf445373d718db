"""Forward passes through a model, or through the part of it that reaches the modules of interest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from offcomp.errors import InputError
from offcomp.models.catalogue import ModuleSpec
from offcomp.runs.calibration.batches import TokenBatch

TOKENS_AT_ONCE = 512  # maximum per forward pass, so that activations stay small compared with the model
NARROW = 256
"""Up to this hidden size, forward passes run on one thread: operations this small take longer when they are split."""


def parts_of(batches: Sequence[TokenBatch]) -> Iterator[tuple[TokenBatch, bool]]:
    """The parts of all batches, one per forward pass, each with a flag that marks the first part of a batch."""
    for batch in batches:
        for number, part in enumerate(batch.parts(TOKENS_AT_ONCE, at_least=2)):
            yield part, number == 0


def is_narrow(model: PreTrainedModel) -> bool:
    """Whether the hidden size of a model is known and at most NARROW."""
    return 0 < getattr(model.config, "hidden_size", 0) <= NARROW


def has_module(spec: ModuleSpec) -> bool:
    """Whether a weight has a module of its own, unlike an expert in a tensor of experts."""
    return spec.expert is None and spec.path.endswith(".weight")


def modules_of(model: PreTrainedModel, spec: ModuleSpec) -> list[nn.Module]:
    """The modules that use a weight: a single module or several tied embeddings, excluding a head tied to an embedding.

    For an expert in a tensor of experts, this is the module that contains all of them. Raises InputError if any other weight
    has no module of its own.
    """
    if spec.expert is None and not has_module(spec):
        raise InputError(
            f"{spec.name} is part of the parameter '{spec.path}', whose inputs cannot be observed; "
            "leave it out, or choose a method and corrections that need no text"
        )
    tied = [model.get_submodule(path.rpartition(".")[0]) for path in (spec.path, *spec.tied)]
    alike = [module for module in tied if is_embedding(module) == is_embedding(tied[0])]
    return list(dict.fromkeys(alike))


def is_embedding(module: nn.Module) -> bool:
    """Whether a module takes token ids as input, rather than vectors."""
    return isinstance(module, nn.Embedding)


def entry_point(model: PreTrainedModel, specs: Sequence[ModuleSpec]) -> nn.Module:
    """The part of the model to run to reach these modules: without the head, unless it contains one of them."""
    base = model.base_model
    inside = {id(module) for module in base.modules()}
    return model if any(id(module) not in inside for spec in specs for module in modules_of(model, spec)) else base


def run(entry: nn.Module, batch: TokenBatch) -> None:
    """Run a forward pass through a model or a part of it."""
    with torch.no_grad():
        entry(**batch.inputs)


@contextmanager
def without_cache(model: PreTrainedModel) -> Iterator[None]:
    """Within the `with` statement, decoders run without a cache of keys and values, since no text is generated."""
    configs = {id(part.config): part.config for part in model.modules() if isinstance(part, PreTrainedModel)}
    caching = [config for config in configs.values() if getattr(config, "use_cache", False)]
    try:
        for config in caching:
            config.use_cache = False
        yield
    finally:
        for config in caching:
            config.use_cache = True
