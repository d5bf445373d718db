"""Disk storage for tensors that are used repeatedly but would not all fit in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import torch
from torch import Tensor

from offcomp.errors import StorageError


class Spool:
    """An unnamed file in the temporary folder (TMPDIR), removed with its last reader however the process ends.

    It is created with the first tensor. Not thread-safe.
    """

    def put(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Write a tensor and return a function that reads a fresh copy at each call, with the same memory layout.

        Raises StorageError if the disk is full.
        """
        order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
        laid_out, device = tensor.detach().permute(order), tensor.device
        shape, places = laid_out.shape, [order.index(place) for place in range(tensor.ndim)]
        values = laid_out.cpu().contiguous().numpy()
        kind, count = values.dtype, values.size
        try:
            start = self._write(values.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise StorageError(
                f"the temporary folder has no space for {values.nbytes / 1e6:.1f} MB ({error}); free some space, or set "
                "TMPDIR to another folder"
            ) from error
        del laid_out, values

        def read() -> Tensor:
            self._file.seek(start)
            return torch.from_numpy(np.fromfile(self._file, kind, count)).view(shape).permute(places).to(device)

        return read

    @cached_property
    def _file(self) -> IO[bytes]:
        return TemporaryFile(buffering=0)

    def _write(self, content: memoryview) -> int:
        """Append all of `content` and return its offset."""
        start = self._file.seek(0, os.SEEK_END)
        while content:
            content = content[self._file.write(content) :]
        return start

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            self._file.close()
