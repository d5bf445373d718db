"""Accumulate Σ x xᵀ over batches of vectors, as needed for a second moment."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from offcomp.numerics.spool import Spool


class OuterSum:
    """Σ x xᵀ over vectors (width,), in float64: 8 · width² bytes.

    With a spool the vectors are kept on disk, so the sum takes no memory until it is requested.
    """

    def __init__(self, width: int, device: torch.device, spool: Spool | None = None) -> None:
        self._width = width
        self._device = device
        self._spool = spool
        self._waiting: list[Callable[[], Tensor]] = []
        self._total = None if spool else self._zeros()

    def add(self, vectors: Float64[Tensor, "count width"]) -> None:
        """Add a batch of vectors. Raises StorageError if they go to the spool and the disk is full."""
        if self._spool:
            self._waiting.append(self._spool.put(vectors))
        elif self._total is not None:
            self._total.addmm_(vectors.T, vectors)

    def result(self) -> Float64[Tensor, "width width"]:
        """Return the sum and drop it from this object; call it only once."""
        total, self._total = self._zeros() if self._total is None else self._total, None
        for read in self._waiting:
            vectors = read()
            total.addmm_(vectors.T, vectors)
        return total

    def _zeros(self) -> Tensor:
        return torch.zeros(self._width, self._width, dtype=torch.float64, device=self._device)
