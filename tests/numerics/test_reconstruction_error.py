"""Reconstruction errors equal values calculated by hand, and zero rows and matrices follow their rules."""

from __future__ import annotations

from dataclasses import astuple
from math import inf, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offcomp.numerics.reconstruction_error import ReconstructionError, reconstruction_error


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_known_values() -> None:
    original = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    reconstruction = torch.tensor([[3.0, 0.0], [5.0, 0.0]])
    error = reconstruction_error([(original, reconstruction)])
    # differences 0, 4, -5, 5; cosines 3/5 and 0
    assert error.relative_error == pytest.approx(sqrt(66 / 50))
    assert error.rmse == pytest.approx(sqrt(66 / 4))
    assert error.mae == pytest.approx(14 / 4)
    assert error.cosine_distance == pytest.approx((0.4 + 1.0) / 2)


def test_an_exact_copy_has_no_error() -> None:
    matrix = randn(40, 30)
    error = reconstruction_error([(matrix, matrix.clone())])
    assert (error.relative_error, error.rmse, error.mae) == (0, 0, 0)
    assert error.cosine_distance == pytest.approx(0, abs=1e-15)


def test_opposite_rows_have_cosine_distance_two_and_scaled_rows_none() -> None:
    matrix = randn(5, 7)
    assert reconstruction_error([(matrix, -matrix)]).cosine_distance == pytest.approx(2)
    assert reconstruction_error([(matrix, 3 * matrix)]).cosine_distance == pytest.approx(0, abs=1e-12)
    assert reconstruction_error([(matrix, -matrix)]).relative_error == pytest.approx(2)


@pytest.mark.parametrize(
    "original, reconstruction, distance",
    [
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [1.0, 0.0], 1.0),
        ([1.0, 0.0], [0.0, 0.0], 1.0),
        ([0.0, 0.0], [1e-30, 0.0], 1.0),
    ],
)
def test_a_zero_row_counts_nothing_if_it_stays_zero_and_one_otherwise(
    original: list[float], reconstruction: list[float], distance: float
) -> None:
    exact_row = [1.0, 2.0]
    error = reconstruction_error([(torch.tensor([original, exact_row]), torch.tensor([reconstruction, exact_row]))])
    assert error.cosine_distance == pytest.approx(distance / 2)


def test_a_zero_matrix_that_is_kept_has_no_error_and_one_that_is_not_is_infinitely_wrong() -> None:
    zero = torch.zeros(3, 2)
    assert reconstruction_error([(zero, zero)]) == ReconstructionError(0.0, 0.0, 0.0, 0.0)
    assert reconstruction_error([(zero, torch.ones(3, 2))]) == ReconstructionError(inf, 1.0, 1.0, 1.0)


def test_a_matrix_that_vanishes_has_relative_error_one() -> None:
    error = reconstruction_error([(randn(6, 4), torch.zeros(6, 4))])
    assert (error.relative_error, error.cosine_distance) == (pytest.approx(1), 1)


def test_several_pairs_measure_like_one_above_the_other() -> None:
    pairs = [(randn(rows, 6, seed=rows), randn(rows, 6, seed=100 + rows)) for rows in (3, 1, 8)]
    stacked = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])
    assert astuple(reconstruction_error(pairs)) == pytest.approx(astuple(reconstruction_error([stacked])), rel=1e-12)


def test_pairs_of_unlike_widths_weigh_entries_and_rows_alike() -> None:
    pairs = [(torch.ones(1, 2), torch.zeros(1, 2)), (torch.ones(3, 4), torch.ones(3, 4))]
    error = reconstruction_error(pairs)
    assert error.rmse == pytest.approx(sqrt(2 / 14))
    assert error.mae == pytest.approx(2 / 14)
    assert error.relative_error == pytest.approx(sqrt(2 / 14))
    assert error.cosine_distance == pytest.approx(1 / 4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from([1e-30, 1e-3, 2.0, 1e4, 1e30]))
def test_relative_error_and_cosine_distance_do_not_depend_on_the_scale(seed: int, scale: float) -> None:
    original, reconstruction = randn(7, 5, seed=seed), randn(7, 5, seed=seed + 1)
    plain = reconstruction_error([(original, reconstruction)])
    scaled = reconstruction_error([(original * scale, reconstruction * scale)])
    assert scaled.relative_error == pytest.approx(plain.relative_error, rel=1e-5)
    assert scaled.cosine_distance == pytest.approx(plain.cosine_distance, rel=1e-5)
    assert scaled.rmse == pytest.approx(plain.rmse * scale, rel=1e-5)
    assert scaled.mae == pytest.approx(plain.mae * scale, rel=1e-5)


def test_half_precision_matrices_are_compared_in_float64() -> None:
    original = torch.full((2, 300), 300.0, dtype=torch.float16)  # its squares overflow float16
    error = reconstruction_error([(original, original - 150)])
    assert error.relative_error == pytest.approx(0.5)
    assert error.rmse == pytest.approx(150)
