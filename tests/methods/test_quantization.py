"""Quantization equals explicit rounding, uses all of its levels, and searches for the best range."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from offcomp.methods import CompressedMatrix
from offcomp.methods.quantization.grids import searched_grid, spanning_grid
from offcomp.methods.quantization.method import BITS, Quantization
from offcomp.numerics.accounting import Budget, stored_size


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fit(method: Quantization, matrix: Tensor, bits: int, dtype: str = "float32") -> CompressedMatrix:
    limit = stored_size(method.tensor_shapes(*matrix.shape, bits), dtype).num_bytes
    compressed = method.fit(matrix, Budget(limit, "bytes", dtype))
    assert compressed.size == bits
    return compressed


def error(matrix: Tensor, method: Quantization, bits: int) -> float:
    return (fit(method, matrix, bits).reconstruct() - matrix).double().norm().item()


def plainly_rounded(matrix: Tensor, bits: int, block: int, symmetric: bool) -> np.ndarray:
    """Reference implementation of rounding to nearest, one block of a row at a time."""
    result = np.empty(matrix.shape)
    levels = 2**bits - 1
    for row, entries in enumerate(matrix.double().numpy()):
        for start in range(0, len(entries), block):
            part = entries[start : start + block]
            half = np.abs(part).max()
            low, high = (-half, half) if symmetric else (part.min(), part.max())
            step = (high - low) / levels or 1.0
            result[row, start : start + block] = low + step * np.clip(np.rint((part - low) / step), 0, levels)
    return result


@pytest.mark.parametrize(("bits", "symmetric"), list(product(BITS, [True, False])))
@pytest.mark.parametrize("block", [0, 16, 24, 33])
def test_without_a_search_it_rounds_to_nearest(bits: int, symmetric: bool, block: int) -> None:
    matrix = randn(9, 33)
    reconstruction = fit(Quantization(block, symmetric=symmetric, search=False), matrix, bits).reconstruct()
    expected = torch.from_numpy(plainly_rounded(matrix, bits, block or 33, symmetric)).float()
    step = 2 * matrix.abs().max() / (2**bits - 1)
    close = (reconstruction - expected).abs() < 1e-5
    assert close.float().mean() > 0.995  # float32 may round a tie to either side
    assert (reconstruction - expected).abs().max() <= 1.01 * step


@pytest.mark.parametrize(("bits", "symmetric"), list(product(BITS, [True, False])))
def test_all_levels_are_used_and_no_more(bits: int, symmetric: bool) -> None:
    matrix = torch.linspace(-1, 1, 4096)[None]
    for search in (False, True):
        reconstruction = fit(Quantization(0, symmetric=symmetric, search=search), matrix, bits).reconstruct()
        assert len(reconstruction.unique()) == 2**bits


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_entries_on_the_grid_are_exact(bits: int, symmetric: bool) -> None:
    codes = torch.randint(0, 2**bits, (6, 64), generator=torch.Generator().manual_seed(bits))
    codes[:, 0], codes[:, 1] = 0, 2**bits - 1
    matrix = 0.25 * (codes - (2**bits - 1) / 2) + (0.0 if symmetric else 3.0)
    torch.testing.assert_close(fit(Quantization(symmetric=symmetric), matrix, bits).reconstruct(), matrix)


@pytest.mark.parametrize(("symmetric", "block"), list(product([True, False], [0, 24])))
@pytest.mark.parametrize("bits", BITS)
def test_the_search_is_never_worse_than_the_full_range(bits: int, symmetric: bool, block: int) -> None:
    matrix = randn(20, 100) ** 3  # a few large entries
    searched, plain = (error(matrix, Quantization(block, symmetric=symmetric, search=s), bits) for s in (True, False))
    assert searched <= plain * (1 + 1e-6)
    if bits <= 3 and block == 0:
        assert searched < 0.8 * plain


@pytest.mark.parametrize(("bits", "best"), [(2, 0.1188), (3, 0.03744), (4, 0.01154)])
def test_normal_entries_come_near_the_best_uniform_grid(bits: int, best: float) -> None:
    # Mean squared errors of optimal uniform quantizers of a normal variable: Max, "Quantizing for minimum distortion", 1960.
    matrix = randn(8, 20_000)
    for symmetric in (True, False):
        assert error(matrix, Quantization(symmetric=symmetric), bits) ** 2 / matrix.numel() < 1.03 * best


def test_a_refined_share_beats_every_share_of_a_fine_scan_within_a_little() -> None:
    blocks = randn(30, 64) ** 3
    scale, lowest = searched_grid(blocks, 3, True)
    full, full_lowest = spanning_grid(blocks, 3, True)

    def errors(scale: Tensor, lowest: Tensor) -> Tensor:
        codes = ((blocks - lowest[:, None]) / scale[:, None]).round().clamp(0, 7)
        return (lowest[:, None] + scale[:, None] * codes - blocks).square().sum(1)

    scanned = torch.stack([errors(share * full, share * full_lowest) for share in torch.linspace(0.05, 1, 400)]).amin(0)
    assert (errors(scale, lowest) <= 1.1 * scanned).all()


def test_smaller_blocks_have_smaller_errors_and_more_bits_too() -> None:
    matrix = randn(16, 256) * torch.logspace(0, 1, 256)
    by_block = [error(matrix, Quantization(block), 4) for block in (16, 64, 256)]
    by_bits = [error(matrix, Quantization(), bits) for bits in reversed(BITS)]
    assert by_block == sorted(by_block)
    assert by_bits == sorted(by_bits)


@pytest.mark.parametrize(("symmetric", "block"), list(product([True, False], [0, 20, 64])))
def test_sizes_are_those_of_the_formula(symmetric: bool, block: int) -> None:
    rows, cols, bits = 10, 64, 5
    method = Quantization(block, symmetric=symmetric)
    per_row = -(-cols // (block or cols)) * (1 if symmetric else 2)
    stored = stored_size(method.tensor_shapes(rows, cols, bits), "float32")
    assert stored.num_parameters == rows * cols + rows * per_row + 3
    assert stored.num_bytes == rows * cols * bits // 8 + 4 * rows * per_row + 12


def test_a_matrix_of_many_bands_is_rounded_like_its_rows_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, method = randn(50, 40), Quantization(16)
    whole = fit(method, matrix, 3)
    monkeypatch.setattr("offcomp.numerics.chunks.CHUNK_ENTRIES", 80)
    banded = fit(method, matrix, 3)
    assert all(torch.equal(tensor, banded.tensors[name]) for name, tensor in whole.tensors.items())
    assert torch.equal(whole.reconstruct(), banded.reconstruct())


@pytest.mark.parametrize("search", [True, False])
def test_constant_and_zero_rows_are_exact(search: bool) -> None:
    matrix = torch.stack([torch.zeros(20), torch.full((20,), -2.5), torch.full((20,), 1e-3)])
    for symmetric, bits in product((True, False), (2, 8)):
        reconstruction = fit(Quantization(symmetric=symmetric, search=search), matrix, bits).reconstruct()
        torch.testing.assert_close(reconstruction, matrix)
