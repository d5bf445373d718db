"""Sums of Kronecker products recover matrices of this form, and have the error implied by the rearranged spectrum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offcomp.methods.kronecker.method import Kronecker
from offcomp.numerics.accounting import Budget, stored_size


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fit(method: Kronecker, matrix: Tensor, terms: int) -> Tensor:
    """The reconstruction from this number of terms."""
    budget = Budget(stored_size(method.tensor_shapes(*matrix.shape, terms), "float32").num_parameters)
    compressed = method.fit(matrix, budget)
    assert compressed.size == terms
    return compressed.reconstruct()


def rearranged(matrix: Tensor, left: tuple[int, int]) -> np.ndarray:
    """The rearrangement of Van Loan and Pitsianis, block by block: row i n1 + j contains the entries of block (i, j)."""
    rows, cols = matrix.shape
    m2, n2 = rows // left[0], cols // left[1]
    blocks = [matrix[i * m2 : (i + 1) * m2, j * n2 : (j + 1) * n2].flatten() for i in range(left[0]) for j in range(left[1])]
    return torch.stack(blocks).double().numpy()


SHAPES = [((24, 16), (3, 4)), ((24, 16), (24, 1)), ((16, 36), (2, 9)), ((60, 8), (5, 8)), ((8, 60), (1, 6))]


@pytest.mark.parametrize(("shape", "left"), SHAPES)
def test_a_kronecker_product_is_recovered_by_one_term(shape: tuple[int, int], left: tuple[int, int]) -> None:
    right = (shape[0] // left[0], shape[1] // left[1])
    first, second = randn(*left), randn(*right, seed=1)
    matrix = torch.from_numpy(np.kron(first.numpy(), second.numpy()))
    method = Kronecker(left_rows=left[0], left_cols=left[1])
    assert method.factor_shapes(*shape) == (left, right)
    torch.testing.assert_close(fit(method, matrix, 1), matrix, rtol=1e-5, atol=1e-5)


def test_a_sum_of_three_products_is_recovered_by_three_terms_and_not_by_two() -> None:
    matrix = sum((torch.kron(randn(6, 4, seed=s), randn(5, 8, seed=s + 9)) for s in range(3)), torch.zeros(30, 32))
    method = Kronecker(left_rows=6, left_cols=4)
    torch.testing.assert_close(fit(method, matrix, 3), matrix, rtol=1e-4, atol=1e-4)
    assert (fit(method, matrix, 2) - matrix).norm() > 0.1 * matrix.norm()


@pytest.mark.parametrize(("shape", "left"), SHAPES)
def test_the_error_is_the_tail_of_the_spectrum_of_the_rearranged_matrix(shape: tuple[int, int], left: tuple[int, int]) -> None:
    matrix, method = randn(*shape), Kronecker(left_rows=left[0], left_cols=left[1])
    spectrum = np.linalg.svd(rearranged(matrix, left), compute_uv=False)
    terms = max(1, len(spectrum) // 3)
    error = (fit(method, matrix, terms) - matrix).double().norm().item()
    assert error == pytest.approx(np.linalg.norm(spectrum[terms:]), rel=1e-5)


def test_the_stored_factors_are_those_of_numpys_kron() -> None:
    matrix, method = randn(24, 16), Kronecker(left_rows=4, left_cols=2)
    shapes = method.tensor_shapes(24, 16, 3)
    compressed = method.fit(matrix, Budget(stored_size(shapes, "float32").num_parameters))
    left, right = (compressed.tensors[name].numpy() for name in ("left", "right"))
    expected = sum(np.kron(a.reshape(4, 2), b.reshape(6, 8)) for a, b in zip(left, right, strict=True))
    np.testing.assert_allclose(compressed.reconstruct().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_parameter_count_is_that_of_the_formula() -> None:
    for (rows, cols), left in SHAPES:
        method = Kronecker(left_rows=left[0], left_cols=left[1])
        (m1, n1), (m2, n2) = method.factor_shapes(rows, cols)
        assert stored_size(method.tensor_shapes(rows, cols, 7), "float32").num_parameters == 7 * (m1 * n1 + m2 * n2) + 2


@settings(max_examples=200, deadline=None, derandomize=True)
@given(rows=st.integers(1, 300), cols=st.integers(1, 300))
def test_by_default_no_other_proper_factors_are_cheaper(rows: int, cols: int) -> None:
    (m1, n1), (m2, n2) = Kronecker().factor_shapes(rows, cols)
    assert (m1 * m2, n1 * n2) == (rows, cols)
    every = [(a, b) for a in range(1, rows + 1) for b in range(1, cols + 1) if rows % a == 0 and cols % b == 0]
    proper = [shape for shape in every if shape not in {(rows, 1), (1, cols)}]
    assert (m1, n1) in (proper or every)
    assert m1 * n1 + m2 * n2 == min(a * b + rows * cols // (a * b) for a, b in proper or every)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows=st.integers(1, 300), cols=st.integers(1, 300), left_rows=st.integers(1, 400), left_cols=st.integers(1, 400))
def test_wanted_factors_are_rounded_down_to_divisors(rows: int, cols: int, left_rows: int, left_cols: int) -> None:
    (m1, n1), (m2, n2) = Kronecker(left_rows=left_rows, left_cols=left_cols).factor_shapes(rows, cols)
    assert (m1 * m2, n1 * n2) == (rows, cols)
    assert m1 == max(d for d in range(1, min(rows, left_rows) + 1) if rows % d == 0)
    assert n1 == max(d for d in range(1, min(cols, left_cols) + 1) if cols % d == 0)


def test_the_last_size_is_the_full_rank_of_the_rearranged_matrix() -> None:
    for method in (Kronecker(), Kronecker(left_rows=5, left_cols=20)):
        spectrum = np.linalg.svd(rearranged(randn(30, 20), method.factor_shapes(30, 20)[0]), compute_uv=False)
        assert method.sizes(30, 20) == range(1, len(spectrum) + 1)
