"""Eigendecompositions by torch and by SciPy agree."""

from __future__ import annotations

import pytest
import torch

from offcomp.numerics import eigenvectors as module
from offcomp.numerics.eigenvectors import eigenvectors, leading_eigenvectors

SIDE, RANK = 24, 7


@pytest.mark.parametrize("small_side", [SIDE, SIDE - 1], ids=["torch", "scipy"])
def test_small_and_large_matrices_are_decomposed_alike(small_side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL_SIDE", small_side)
    basis = torch.linalg.qr(torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    spectrum = torch.arange(1.0, SIDE + 1, dtype=torch.float64)
    symmetric = basis * spectrum @ basis.T
    values, vectors = eigenvectors(symmetric)
    torch.testing.assert_close(values, spectrum)
    torch.testing.assert_close((vectors.T @ basis).abs(), torch.eye(SIDE, dtype=torch.float64))
    leading = leading_eigenvectors(symmetric, RANK)
    torch.testing.assert_close((leading.T @ basis).abs(), torch.eye(SIDE, dtype=torch.float64).flip(0)[:RANK])
