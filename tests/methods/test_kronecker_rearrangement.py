"""Factors of a rearranged matrix against those of the matrix laid out in full; the largest entries against a plain sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from offcomp.methods.kronecker.rearrangement import rearranged_factors
from offcomp.methods.pruning.top_k import PIECE_ENTRIES, largest_mask
from offcomp.numerics.svd import low_rank_factors


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("shape", "left", "rank"),
    [
        ((24, 30), (4, 5), 3),
        ((24, 30), (12, 15), 4),
        ((1, 60), (1, 6), 2),
        ((1200, 600), (30, 20), 60),  # few of many eigenvectors
        ((1200, 600), (30, 20), 400),
        ((600, 1200), (20, 40), 20),
    ],
)
def test_they_are_the_factors_of_the_matrix_laid_out(shape: tuple[int, int], left: tuple[int, int], rank: int) -> None:
    matrix, (m1, n1) = randn(*shape), left
    m2, n2 = shape[0] // m1, shape[1] // n1
    laid_out = matrix.reshape(m1, m2, n1, n2).transpose(1, 2).reshape(m1 * n1, m2 * n2)
    expected, found = low_rank_factors(laid_out, rank), rearranged_factors(matrix, (m1, n1), (m2, n2), rank)
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("count", [1, 1000, 250_000, 500_000, 524_888])
def test_the_largest_entries_are_those_of_a_stable_sort(count: int, rounded: bool) -> None:
    matrix = randn(724, 725)
    assert matrix.numel() > 2 * PIECE_ENTRIES
    matrix = matrix.mul(2).round() if rounded else matrix
    order = np.argsort(-matrix.abs().flatten().numpy(), kind="stable")[:count]
    expected = torch.zeros(matrix.numel(), dtype=torch.bool)
    expected[torch.from_numpy(order)] = True
    assert torch.equal(largest_mask(matrix, count).flatten(), expected)
