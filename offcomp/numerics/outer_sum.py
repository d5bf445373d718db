"""The sum of x xᵀ over vectors that come some at a time: what a second moment is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from offcomp.numerics.spool import Spool


class OuterSum:
    """Σ x xᵀ of vectors (width,) in float64, 8 · width² bytes.

    With a spool the vectors wait on disk, so that the sum takes no memory before it is asked for.
    """

    def __init__(self, width: int, device: torch.device, spool: Spool | None = None) -> None:
        self._width = width
        self._device = device
        self._spool = spool
        self._waiting: list[Callable[[], Tensor]] = []
        self._total = None if spool else self._zeros()

    def add(self, vectors: Float64[Tensor, "count width"]) -> None:
        """Add some vectors. Raises StorageError where there is no room on disk for those that are to wait there."""
        if self._spool:
            self._waiting.append(self._spool.put(vectors))
        elif self._total is not None:
            self._total.addmm_(vectors.T, vectors)

    def result(self) -> Float64[Tensor, "width width"]:
        """The sum, which is not kept here: for one use."""
        total, self._total = self._zeros() if self._total is None else self._total, None
        for read in self._waiting:
            vectors = read()
            total.addmm_(vectors.T, vectors)
        return total

    def _zeros(self) -> Tensor:
        return torch.zeros(self._width, self._width, dtype=torch.float64, device=self._device)
