"""Describe a model without loading its weights, or load it. Only safetensors files are read; custom code is never run.

Loading a folder or catalogue model never accesses the network. Nothing is printed.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from offcomp.errors import ModelError
from offcomp.models.bundled_models import catalogue_model
from offcomp.models.catalogue import ModelInfo
from offcomp.models.checkpoint import Checkpoint, as_model_error, check_not_changed, network_on_meta, open_checkpoint
from offcomp.models.conversions import Conversion, Sources, conversions_of
from offcomp.models.families import family_of
from offcomp.models.held_layers import hold, holding
from offcomp.models.identity import identify
from offcomp.models.kinds_file import corrected
from offcomp.models.matrix_model import Matrices
from offcomp.models.safetensors_files import stored_dtype, stored_tensors, weight_files
from offcomp.models.sentence_modules import SentenceModules, sentence_modules
from offcomp.models.skeleton import check_memory
from offcomp.models.sources import check_checksum
from offcomp.models.stored_parameters import parameter_dtypes, stored_parameters
from offcomp.models.tokens import read_tokenizer
from offcomp.models.weights import check_finite, list_modules


@dataclass(frozen=True)
class LoadedModel:
    """A standard transformers model in float32 and evaluation mode, with gradients disabled.

    Between forward passes, its layers may have the dtype of its files (see `held_layers`). `tokenizer` is None if the folder
    contains no tokenizer. `folder` is None for a model created in memory. `pooling` replaces the pooling mode that the folder
    specifies; "" keeps it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    info: ModelInfo
    folder: Path | None = None
    pooling: str = ""

    def to(self, device: torch.device) -> LoadedModel:
        """Move the weights to a device. Returns this model."""
        self.model.to(device)
        return self

    @cached_property
    def sentence_modules(self) -> SentenceModules:
        """How hidden states become sentence embeddings. Raises ModelError if the folder requires an unsupported feature."""
        modules = SentenceModules() if self.folder is None else sentence_modules(self.folder)
        return replace(modules, pooling=(self.pooling,)) if self.pooling else modules


def describe(model: str, *, as_recognised: bool = False) -> ModelInfo:
    """Describe a model without loading its weights, by building it on the meta device, which allocates no memory.

    Args:
        model: a catalogue name, a folder or a hub id. A hub model is downloaded first, unless it is cached.
        as_recognised: whether to leave out a file of corrected kinds.

    Raises:
        ModelError: the model is unknown, unsafe, damaged, too large or unsupported.
    """
    with quiet():
        checkpoint = open_checkpoint(model)
        info = _described(checkpoint, as_recognised=as_recognised)
        check_not_changed(checkpoint)
        return info


def load(model: str, *, checked: bool = False, held: bool = False) -> LoadedModel:
    """Load a model in float32 and evaluation mode, with its tokenizer and description.

    Args:
        model: a catalogue name, a folder or a hub id. A hub model is downloaded first, unless it is cached.
        checked: whether an earlier load checked the values; if so, the checks are skipped and unused values are not read.
        held: whether to hold layers in the dtype of the files between forward passes. Weights must then not be used elsewhere.

    Raises:
        ModelError: see `describe`; also if weights are missing or not finite, or do not match the pinned checksum.
    """
    with quiet():
        checkpoint = open_checkpoint(model)
        info = _described(checkpoint)
        entry = catalogue_model(model)
        if entry and not checked:
            check_checksum(entry, checkpoint.folder)
        network = _instantiated(checkpoint, held=held)
        if not checked:
            check_finite(network)
        tokenizer = read_tokenizer(checkpoint.folder, checkpoint.config)
        check_not_changed(checkpoint)
        return LoadedModel(network, tokenizer, info, checkpoint.folder)


def stored_weights(model: str) -> tuple[Path, dict[str, Sources], list[Conversion]]:
    """Return a model's folder, the stored tensors of each parameter by path, and how all other parameters are built.

    Raises:
        ModelError: see `describe`.
    """
    checkpoint, network = open_on_meta(model)
    return checkpoint.folder, *conversions_of(network, checkpoint.tensors)


def open_on_meta(model: str) -> tuple[Checkpoint, PreTrainedModel]:
    """Open a model's checkpoint, and build the model on the meta device, without its weights.

    Raises:
        ModelError: see `describe`.
    """
    with quiet():
        checkpoint = open_checkpoint(model)
        network = network_on_meta(checkpoint)
        check_memory(checkpoint.folder, checkpoint.tensors, network)
        return checkpoint, network


def stored_dtypes(loaded: LoadedModel) -> dict[str, torch.dtype]:
    """The dtype of each parameter, by path: in the model's files or, if it has none, in memory."""
    if loaded.folder is None:
        return {path: parameter.dtype for path, parameter in loaded.model.named_parameters(remove_duplicate=False)}
    tensors = stored_tensors(weight_files(loaded.folder))
    names = parameter_dtypes(loaded.model, tensors, loaded.info.dtype)
    return {path: getattr(torch, name) for path, name in names.items()}


def last_hidden_state(model: PreTrainedModel, **batch: Tensor) -> Tensor:
    """The last hidden states (batch, tokens, hidden) for a tokenised batch.

    Only the encoder of an encoder-decoder model is run. `labels` and `decoder_*` inputs are ignored. The caller decides
    whether gradients are recorded.
    """
    inputs = {key: value for key, value in batch.items() if key != "labels" and not key.startswith("decoder_")}
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    return encoder(**inputs).last_hidden_state


@contextmanager
def quiet() -> Iterator[None]:
    """Temporarily suppress all warnings, and the progress bars and log messages of transformers."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _described(checkpoint: Checkpoint, *, as_recognised: bool = False) -> ModelInfo:
    """Describe a checkpoint by building its model on the meta device."""
    network = network_on_meta(checkpoint)
    check_memory(checkpoint.folder, checkpoint.tensors, network)
    dtype = stored_dtype(checkpoint.folder)
    listed = list_modules(network) if as_recognised else corrected(list_modules(network), checkpoint.folder)
    identity = identify(checkpoint.folder, as_recognised=True) if as_recognised else checkpoint.identity
    modules, num_bytes, unlisted = stored_parameters(network, listed, checkpoint.tensors, dtype)
    family = family_of(checkpoint.config.model_type)
    return ModelInfo(
        model=checkpoint.source.model,
        source=checkpoint.source.source,
        family=family.name if family else None,
        model_type=checkpoint.config.model_type,
        architecture=checkpoint.architecture.__name__,
        dtype=dtype,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        matrix_parameters=sum(spec.num_parameters for spec in modules),
        num_layers=getattr(checkpoint.config.get_text_config(), "num_hidden_layers", 0),
        fingerprint=identity.fingerprint,
        modules=modules,
        reads=identity.reads,
        num_bytes=num_bytes,
        matrix_bytes=sum(spec.num_bytes for spec in modules),
        unlisted=unlisted,
        reads_text=reads_text(checkpoint.architecture),
    )


def reads_text(architecture: type[PreTrainedModel]) -> bool:
    """Return whether this class takes text tokens as input, as opposed to images, audio or time series."""
    if issubclass(architecture, Matrices):
        return False
    takes_tokens = "input_ids" in inspect.signature(architecture.forward).parameters
    return takes_tokens and architecture.main_input_name == "input_ids" and "text" in architecture.input_modalities


def _instantiated(checkpoint: Checkpoint, *, held: bool) -> PreTrainedModel:
    """Instantiate the model with its weights. Raises ModelError if any weights are missing or have the wrong shape."""
    attention = "sdpa" if checkpoint.architecture._supports_sdpa else "eager"
    architecture = checkpoint.architecture
    if held:
        dtypes = parameter_dtypes(network_on_meta(checkpoint), checkpoint.tensors, stored_dtype(checkpoint.folder))
        architecture = holding(architecture, {path: getattr(torch, dtype) for path, dtype in dtypes.items()})
    with as_model_error(checkpoint.folder, "load"):
        network, report = architecture.from_pretrained(
            checkpoint.folder,
            config=checkpoint.config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, with names
            **checkpoint.arguments,
        )
    for fault in ("missing_keys", "mismatched_keys"):
        names = sorted(item if isinstance(item, str) else item[0] for item in report[fault])
        if names:
            raise mismatch(checkpoint, fault.replace("_", " "), names)
    network.__class__ = checkpoint.architecture
    if held:
        hold(network)
    return network.requires_grad_(False)  # already in evaluation mode


def mismatch(checkpoint: Checkpoint, fault: str, names: Sequence[str]) -> ModelError:
    """The error for stored weights that do not match the model class: "missing keys" or "mismatched keys", with their names."""
    return ModelError(
        f"The weights in '{checkpoint.folder}' do not match the model class {checkpoint.architecture.__name__}: "
        f"{fault} {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}."
    )
