"""Singular values and low-rank factors from the Gram matrix equal those of torch's direct SVD in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offcomp.numerics.svd import low_rank_factors, singular_values

SHAPES = [(1, 1), (1, 12), (12, 1), (30, 30), (96, 4), (4, 96), (288, 12), (12, 288), (50, 20), (20, 50)]


def randn(rows: int, cols: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(rows: int, cols: int, spectrum: Tensor, seed: int = 0) -> Tensor:
    """A float64 matrix with these singular values and random singular vectors."""
    left = torch.linalg.qr(randn(rows, len(spectrum), seed)).Q
    right = torch.linalg.qr(randn(cols, len(spectrum), seed + 1)).Q
    return left * spectrum @ right.T


def truncated(matrix: Tensor, rank: int) -> Tensor:
    """The reference: a truncated direct SVD."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return left[:, :rank] * values[:rank] @ right[:rank]


@pytest.mark.parametrize("rows, cols", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_values_equal_those_of_a_direct_svd(rows: int, cols: int, dtype: torch.dtype) -> None:
    matrix = randn(rows, cols).to(dtype)
    values = singular_values(matrix)
    assert values.dtype == torch.float64
    assert values.shape == (min(rows, cols),)
    assert (values.diff() <= 0).all()
    expected = torch.linalg.svdvals(matrix.double())
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6 * expected[0].item())


@pytest.mark.parametrize("rows, cols", [(72, 24), (24, 72), (40, 40)])
@pytest.mark.parametrize("smallest", [1e-2, 1e-6, 1e-10])
def test_singular_values_of_an_ill_conditioned_matrix_are_exact_to_1e8_of_the_largest(
    rows: int, cols: int, smallest: float
) -> None:
    spectrum = torch.logspace(0, torch.tensor(smallest).log10().item(), min(rows, cols), dtype=torch.float64)
    matrix = with_spectrum(rows, cols, 7 * spectrum)
    torch.testing.assert_close(singular_values(matrix), 7 * spectrum, rtol=0, atol=1e-7)
    well_above = spectrum > 1e-4
    torch.testing.assert_close(singular_values(matrix)[well_above], 7 * spectrum[well_above], rtol=1e-6, atol=0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    seed=st.integers(0, 100),
    scale=st.sampled_from([1e-30, 1.0, 1e4]),
    share=st.floats(0, 1),
)
def test_the_squared_error_at_a_rank_is_the_sum_of_the_squared_values_left_out(
    rows: int, cols: int, seed: int, scale: float, share: float
) -> None:
    matrix = randn(rows, cols, seed) * scale
    rank = max(1, round(share * min(rows, cols)))
    left, right = low_rank_factors(matrix, rank)
    error = (matrix - left @ right).norm()
    tail = torch.linalg.svdvals(matrix)[rank:].norm()
    assert abs(error - tail) <= 1e-6 * matrix.norm()


@pytest.mark.parametrize("rows, cols", [(72, 24), (24, 72), (40, 40)])
@pytest.mark.parametrize("rank", [1, 3, 12, 24])
def test_the_error_of_an_ill_conditioned_matrix_is_the_tail_too(rows: int, cols: int, rank: int) -> None:
    spectrum = torch.logspace(0, -10, min(rows, cols), dtype=torch.float64)
    matrix = with_spectrum(rows, cols, spectrum)
    left, right = low_rank_factors(matrix, rank)
    assert abs((matrix - left @ right).norm() - spectrum[rank:].norm()) <= 1e-8


@pytest.mark.parametrize("rows, cols", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_have_the_shapes_and_dtype_asked_for_and_give_the_truncation_of_a_direct_svd(
    rows: int, cols: int, dtype: torch.dtype
) -> None:
    matrix = randn(rows, cols).to(dtype)
    for rank in {1, (min(rows, cols) + 1) // 2, min(rows, cols)}:
        left, right = low_rank_factors(matrix, rank)
        assert (left.shape, right.shape) == ((rows, rank), (rank, cols))
        assert left.dtype == right.dtype == dtype
        difference = (left @ right).double() - truncated(matrix, rank)
        assert difference.norm() <= 1e-6 * matrix.double().norm()


@pytest.mark.parametrize("rows, cols", SHAPES)
def test_factors_of_full_rank_give_the_matrix_back(rows: int, cols: int) -> None:
    matrix = randn(rows, cols)
    left, right = low_rank_factors(matrix, min(rows, cols))
    torch.testing.assert_close(left @ right, matrix, rtol=0, atol=1e-12 * matrix.norm().item())


def test_components_come_in_order_so_a_smaller_rank_is_a_slice_of_a_larger_one() -> None:
    matrix = randn(30, 20)
    left, right = low_rank_factors(matrix, 9)
    fewer_left, fewer_right = low_rank_factors(matrix, 4)
    torch.testing.assert_close(left[:, :4], fewer_left)
    torch.testing.assert_close(right[:4], fewer_right)


@pytest.mark.parametrize("rows, cols", [(30, 20), (20, 30)])
def test_both_factors_carry_the_root_of_the_singular_values_on_orthogonal_vectors(rows: int, cols: int) -> None:
    matrix = randn(rows, cols)
    left, right = low_rank_factors(matrix, 8)
    expected = torch.diag(torch.linalg.svdvals(matrix)[:8])
    torch.testing.assert_close(left.T @ left, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(right @ right.T, expected, rtol=1e-9, atol=1e-9)


def rank_one_matrices() -> list[Tensor]:
    """Matrices of rank one with an exact Gram matrix, so that its other computed eigenvalues are far below rounding errors."""
    constant = [torch.ones(rows, cols) for rows in range(2, 62, 3) for cols in range(2, 62, 3)]
    ramps = [torch.arange(float(rows))[:, None] * torch.ones(cols) for rows in range(2, 40, 5) for cols in (4, 11, 21)]
    return constant + ramps


def test_no_component_of_a_rank_deficient_matrix_is_larger_than_the_first() -> None:
    """Otherwise noise divided by a tiny singular value would use up the range of float16 and the codes of int8."""
    largest_allowed = 1 + 1e-6
    wrong = []
    for matrix in rank_one_matrices():
        left, right = low_rank_factors(matrix, min(matrix.shape))
        root = matrix.double().norm().sqrt().item()  # the root of the only singular value
        reach = max(left.double().norm(dim=0).max().item(), right.double().norm(dim=1).max().item()) / root
        if not reach <= largest_allowed:
            wrong.append((tuple(matrix.shape), f"{reach:.3g}"))
    assert not wrong


def test_a_zero_matrix_has_zero_factors() -> None:
    left, right = low_rank_factors(torch.zeros(6, 4), 3)
    assert not left.any()
    assert not right.any()
    assert not singular_values(torch.zeros(6, 4)).any()


@pytest.mark.parametrize("rows, cols", [(30, 20), (20, 30)])
def test_the_largest_right_entry_of_every_component_is_positive(rows: int, cols: int) -> None:
    for matrix in (randn(rows, cols), -randn(rows, cols)):
        _left, right = low_rank_factors(matrix, 12)
        assert (right.gather(1, right.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("rows, cols", [(30, 20), (20, 30)])
def test_the_sign_of_a_component_does_not_depend_on_rounding(rows: int, cols: int) -> None:
    matrix = with_spectrum(rows, cols, torch.linspace(10, 1, 20, dtype=torch.float64))
    left, right = low_rank_factors(matrix, 6)
    nudged_left, nudged_right = low_rank_factors(matrix * (1 + 1e-9 * randn(rows, cols, seed=9)), 6)
    torch.testing.assert_close(nudged_left, left, rtol=0, atol=1e-6)
    torch.testing.assert_close(nudged_right, right, rtol=0, atol=1e-6)


def test_equal_input_gives_equal_factors_and_is_left_alone() -> None:
    matrix = randn(25, 40)
    copy = matrix.clone()
    first, second = low_rank_factors(matrix, 5), low_rank_factors(copy, 5)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(matrix, copy)


def test_a_transposed_matrix_has_the_transposed_approximation() -> None:
    matrix = randn(35, 15)
    left, right = low_rank_factors(matrix, 4)
    other_left, other_right = low_rank_factors(matrix.T, 4)
    torch.testing.assert_close(other_left @ other_right, (left @ right).T)
