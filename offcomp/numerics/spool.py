"""Tensors that are used again and again and would together outweigh what a run may hold: on disk meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from tempfile import TemporaryFile, gettempdir

import numpy as np
import torch
from torch import Tensor

from offcomp.errors import StorageError


class Spool:
    """A file without a name in the folder for temporary files, gone with its last reader however the process ends."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115  # open as long as its readers

    def put(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Write a tensor; returns what reads it again, anew each time. Raises StorageError where there is no room."""
        file, shape, device = self._file, tensor.shape, tensor.device
        values = tensor.detach().cpu().contiguous().numpy()
        kind, count = values.dtype, values.size
        start = file.seek(0, os.SEEK_END)
        try:
            values.tofile(file)
        except OSError as error:
            raise StorageError(
                f"{gettempdir()} has no room for {values.nbytes / 1e6:.0f} MB of metrics ({error}); free some space, or set "
                "TMPDIR to another folder"
            ) from error
        del values

        def read() -> Tensor:
            file.seek(start)
            return torch.from_numpy(np.fromfile(file, kind, count)).view(shape).to(device)

        return read
