"""Magnitude pruning equals a plain sort, with positions stored in every form."""

from __future__ import annotations

from itertools import pairwise, product
from math import ceil, log2

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offcomp.methods.base import choose_size
from offcomp.methods.pruning.method import Pruning
from offcomp.numerics.accounting import Budget, stored_size

FORMS = ("auto", "mask", "indices")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def budget_of(method: Pruning, matrix: Tensor, kept: int) -> Budget:
    return Budget(stored_size(method.tensor_shapes(*matrix.shape, kept), "float32").num_bytes, "bytes")


def largest(matrix: Tensor, kept: int) -> Tensor:
    """The matrix pruned by numpy's stable sort, which keeps the first of equal magnitudes in reading order."""
    flat = matrix.flatten().numpy()
    order = np.argsort(-np.abs(flat), kind="stable")[:kept]
    result = np.zeros_like(flat)
    result[order] = flat[order]
    return torch.from_numpy(result.reshape(matrix.shape))


@pytest.mark.parametrize(("positions", "kept"), list(product(FORMS, [1, 37, 150])))
@pytest.mark.parametrize("shape", [(20, 30), (1, 600), (600, 1), (33, 17)])
def test_the_largest_entries_are_kept_as_they_are(shape: tuple[int, int], positions: str, kept: int) -> None:
    matrix, method = randn(*shape), Pruning(positions)
    compressed = method.fit(matrix, budget_of(method, matrix, kept))
    assert kept <= compressed.size <= kept + 1  # packing into whole bytes may leave space for one more
    assert torch.equal(compressed.reconstruct(), largest(matrix, compressed.size))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=st.integers(1, 20), cols=st.integers(1, 20), data=st.data())
def test_of_equal_magnitudes_the_first_are_kept(rows: int, cols: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=rows * cols, max_size=rows * cols))
    matrix = torch.tensor(values).reshape(rows, cols)
    method = Pruning(data.draw(st.sampled_from(FORMS)))
    budget = budget_of(method, matrix, data.draw(st.integers(1, rows * cols)))
    compressed = method.fit(matrix, budget)
    kept = compressed.size or rows * cols
    assert torch.equal(compressed.reconstruct(), largest(matrix, kept))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows=st.integers(1, 500), cols=st.integers(1, 500), share=st.floats(0, 1))
def test_auto_stores_the_smaller_of_mask_and_indices(rows: int, cols: int, share: float) -> None:
    kept = max(1, int(share * rows * cols))
    sizes = {form: stored_size(Pruning(form).tensor_shapes(rows, cols, kept), "float16") for form in FORMS}
    assert sizes["auto"].num_bytes == min(sizes["mask"].num_bytes, sizes["indices"].num_bytes)


@pytest.mark.parametrize(("rows", "cols", "kept"), [(2304, 384, 1000), (384, 1536, 90_000), (5, 1, 3), (1, 1, 1), (7, 256, 9)])
def test_sizes_are_those_of_the_formulas(rows: int, cols: int, kept: int) -> None:
    mask = stored_size(Pruning("mask").tensor_shapes(rows, cols, kept), "float32")
    assert mask.num_parameters == 2 + kept + rows * cols
    assert mask.num_bytes == 8 + 4 * kept + ceil(rows * cols / 8)
    indices = stored_size(Pruning("indices").tensor_shapes(rows, cols, kept), "float32")
    assert indices.num_parameters == 2 + 2 * kept + rows
    column_bits, count_bits = max(1, ceil(log2(cols))), ceil(log2(cols + 1))
    assert indices.num_bytes == 8 + 4 * kept + ceil(kept * column_bits / 8) + ceil(rows * count_bits / 8)


def test_sizes_grow_in_both_units_across_the_change_from_indices_to_mask() -> None:
    sizes = [stored_size(Pruning().tensor_shapes(24, 32, kept), "float32") for kept in Pruning().sizes(24, 32)]
    names = [set(Pruning().tensor_shapes(24, 32, kept)) for kept in (1, 24 * 32)]
    assert "columns" in names[0]
    assert "mask" in names[1]
    for before, after in pairwise(sizes):
        assert after.num_parameters > before.num_parameters
        assert after.num_bytes > before.num_bytes


def test_one_scale_serves_all_kept_values_in_int8() -> None:
    matrix = randn(30, 40)
    compressed = Pruning().fit(matrix, Budget(900, "bytes", "int8"))
    assert compressed.tensors["values.scale"].shape == (1,)
    kept = compressed.reconstruct() != 0
    step = matrix.abs().max() / 127
    assert (compressed.reconstruct() - matrix)[kept].abs().max() <= 0.51 * step


def test_pruning_finds_its_budget_in_a_large_matrix_at_once() -> None:
    method, limit = Pruning(), 4096 * 11008
    size = choose_size(method, 4096, 11008, Budget(limit, "bytes", "float16"))
    assert stored_size(method.tensor_shapes(4096, 11008, size), "float16").num_bytes <= limit
    assert stored_size(method.tensor_shapes(4096, 11008, size + 1), "float16").num_bytes > limit
