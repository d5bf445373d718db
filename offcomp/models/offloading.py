"""Offload a model during compression, reading its matrices from disk one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from offcomp.errors import ModelError, OffcompError
from offcomp.models import hub
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.identity import file_digest
from offcomp.models.loading import LoadedModel, load
from offcomp.models.safetensors_files import StoredTensor, find_tensor, stored_tensors, weight_files
from offcomp.models.sources import resolve
from offcomp.models.weights import canonical_view, read

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class StoredMatrices:
    """The matrices of selected modules, read from the model's files on every access.

    in_memory    copies of matrices that cannot be read directly from the files
    """

    device = torch.device("cpu")

    def __init__(self, loaded: LoadedModel, specs: Sequence[ModuleSpec]) -> None:
        """Locate a loaded model's matrices in its files; those that cannot be read from there are kept as copies in memory."""
        model = loaded.info.model
        tensors = stored_tensors(weight_files(resolve(model).folder or hub.snapshot(model)))
        self._digests = {file: file_digest(file) for file in {tensor.file for tensor in tensors.values()}}
        self.in_memory: dict[ModuleSpec, Tensor] = {}
        self._stored: dict[ModuleSpec, StoredTensor] = {}
        for spec in specs:
            parameter = loaded.model.get_parameter(spec.path)
            stored = find_tensor(tensors, loaded.model.base_model_prefix, spec.path)
            if stored and stored.dtype in DTYPES and torch.equal(_values(stored), parameter):
                self._stored[spec] = stored
            else:
                self.in_memory[spec] = read(loaded.model, spec)

    def read(self, spec: ModuleSpec) -> Tensor:
        """A contiguous float32 copy of a module's matrix W (rows, cols). Raises ModelError if the file has changed."""
        if spec in self.in_memory:
            return self.in_memory[spec].clone()
        stored = self._stored[spec]
        values = _values(stored)
        if file_digest(stored.file) != self._digests[stored.file]:
            raise ModelError(f"'{stored.file}' changed while it was in use; run the plan again.")
        return canonical_view(values, spec).contiguous()


def read_matrix(model: PreTrainedModel | StoredMatrices, spec: ModuleSpec) -> Tensor:
    """A contiguous float32 copy of a module's matrix W (rows, cols), whether the model is loaded or offloaded."""
    return model.read(spec) if isinstance(model, StoredMatrices) else read(model, spec)


def _values(stored: StoredTensor) -> Tensor:
    """Read a stored tensor as float32."""
    try:
        values = np.fromfile(stored.file, np.uint8, stored.end - stored.start, offset=stored.start)
        return torch.from_numpy(values).view(DTYPES[stored.dtype]).view(stored.shape).float()
    except (OSError, RuntimeError) as error:  # deleted or truncated in the meantime
        raise ModelError(f"'{stored.file}' cannot be read ({error}); run the plan again.") from error


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
    fresh = load(loaded.info.model, checked=True)
    if fresh.info.reads != loaded.info.reads:
        raise ModelError(f"The files of '{loaded.info.model}' changed while it was being compressed; run the plan again.")
    for parameter, values in zip(loaded.model.parameters(), fresh.model.parameters(), strict=True):
        parameter.data = values.data
