"""Read a model's matrices from its files one at a time, without loading the model, and offload a model that is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from offcomp.errors import ModelError, OffcompError
from offcomp.models.bundled_models import catalogue_model
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.checkpoint import as_model_error, check_not_changed
from offcomp.models.conversions import Sources, conversions_of, sources_in
from offcomp.models.held_layers import is_held
from offcomp.models.identity import file_digest
from offcomp.models.loading import LoadedModel, load, mismatch, open_on_meta, quiet
from offcomp.models.safetensors_files import StoredTensor, weight_files
from offcomp.models.sources import check_checksum
from offcomp.models.tokens import read_tokenizer
from offcomp.models.weights import canonical_view, check_values, read

CHUNK = 1 << 22
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class StoredMatrices:
    """The matrices of a model, read from its files on every access. The model as a whole is never in memory.

    A parameter that transformers builds from several tensors, such as stacked experts, is built alone when it is read.

    checkpoint    the model's files and config
    device        where matrices are fitted; they are read on the CPU
    """

    def __init__(self, model: str, device: torch.device | None = None) -> None:
        """Locate a model's weights in its files. Raises ModelError if the model cannot be used (see `loading.load`)."""
        self.device = device or torch.device("cpu")
        self.checkpoint, self._network = open_on_meta(model)
        entry = catalogue_model(model)
        if entry:
            check_checksum(entry, self.checkpoint.folder)
        renamed, conversions = conversions_of(self._network, self.checkpoint.tensors)
        self._sources = dict(sources_in(renamed, conversions))
        self._conversions = {path: conversion for conversion in conversions for path in conversion.parameters()}
        self._digests = {file: file_digest(file) for file in weight_files(self.checkpoint.folder)}
        check_not_changed(self.checkpoint)
        self._finite: set[tuple[str, int | None]] = set()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The model's tokenizer, or None if the folder has none. Raises ModelError if its files are damaged."""
        with quiet():
            return read_tokenizer(self.checkpoint.folder, self.checkpoint.config)

    def read(self, spec: ModuleSpec) -> Tensor:
        """A contiguous float32 copy of a module's matrix W (rows, cols). Raises ModelError as `view` does."""
        return self.view(spec).contiguous()

    def view(self, spec: ModuleSpec) -> Tensor:
        """A module's matrix W (rows, cols) in float32, as a view of its stored parameter (see `weights.canonical_view`).

        Raises ModelError if a file has changed, or if the parameter is missing, has another shape or is not finite.
        """
        path = next((path for path in (spec.path, *spec.tied) if path in self._sources), spec.path)
        sources = self._sources.get(path)
        if sources is None:
            raise mismatch(self.checkpoint, "missing keys", [path])
        shape, expert = self._network.get_parameter(path).shape, None
        if spec.expert is not None and path in self._conversions:
            expert = self._conversions[path].of_expert(spec.expert, shape[0])
        with as_model_error(self.checkpoint.folder, f"build '{path}' of"):
            values = expert.build(_values).get(path) if expert else self._parameter(path, sources)
        number = spec.expert if expert else None
        if expert:
            sources, shape, spec = expert.sources, torch.Size((1, *shape[1:])), replace(spec, expert=0)
        for file in {tensor.file for _, tensor in sources}:
            if file_digest(file) != self._digests[file]:
                raise ModelError(f"'{file}' changed while it was in use; run the plan again.")
        if values is None or values.shape != shape:
            raise mismatch(self.checkpoint, "mismatched keys", [path])
        if (key := (path, number)) not in self._finite:
            check_values(path, values)
            self._finite.add(key)
        return canonical_view(values, spec)

    def _parameter(self, path: str, sources: Sources) -> Tensor | None:
        """The values of a parameter as transformers builds it from these tensors; None if they do not yield it."""
        if path in self._conversions:
            return self._conversions[path].build(_values).get(path)
        return _values(sources[0][1]) if len(sources) == 1 else None


def read_matrix(model: PreTrainedModel | StoredMatrices, spec: ModuleSpec) -> Tensor:
    """A contiguous float32 copy of a module's matrix W (rows, cols) on the CPU, whether the model is loaded or offloaded."""
    return model.read(spec) if isinstance(model, StoredMatrices) else read(model, spec).cpu()


def _values(stored: StoredTensor) -> Tensor:
    """Read a stored tensor and convert it to float32, one chunk at a time. Raises ModelError if its file cannot be read."""
    values = torch.empty(stored.num_parameters)
    try:
        with stored.file.open("rb") as stream:
            stream.seek(stored.start)
            for chunk in values.split(CHUNK):
                content = torch.empty(len(chunk), dtype=DTYPES[stored.dtype])
                if stream.readinto(content.view(torch.uint8).numpy().data) != content.nbytes:
                    raise ModelError(f"'{stored.file}' was truncated while it was in use; run the plan again.")
                chunk.copy_(content)
    except OSError as error:  # for example, deleted in the meantime
        raise ModelError(f"'{stored.file}' cannot be read ({error}); run the plan again.") from error
    return values.view(stored.shape)


@contextmanager
def offloaded(loaded: LoadedModel) -> Iterator[None]:
    """Free the memory of a model's parameters for the duration of the `with` block.

    On exit, the original weights are reloaded into the same modules.

    Raises ModelError if the model's files have changed in the meantime.
    """
    for parameter in loaded.model.parameters():
        parameter.data = parameter.data.new_empty(0)
    try:
        yield
    except BaseException:
        with suppress(OffcompError, MemoryError):  # report the first error
            _load_again(loaded)
        raise
    _load_again(loaded)


def _load_again(loaded: LoadedModel) -> None:
    """Reload the values of all parameters. Raises ModelError if the files have changed."""
    fresh = load(loaded.info.model, checked=True, held=is_held(loaded.model))
    if fresh.info.reads != loaded.info.reads:
        raise ModelError(f"The files of '{loaded.info.model}' changed while it was being compressed; run the plan again.")
    for parameter, values in zip(loaded.model.parameters(), fresh.model.parameters(), strict=True):
        parameter.data = values.data.to(parameter.device)
