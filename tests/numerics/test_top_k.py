"""The largest entries equal those found by a stable sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offcomp.numerics.top_k import largest_entries, largest_mask


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("count", [0, 1, 1000, 250_000, 500_000, 524_888])
def test_the_largest_entries_are_those_of_a_stable_sort(count: int, rounded: bool) -> None:
    matrix = torch.randn(724, 725, generator=torch.Generator().manual_seed(0))
    matrix = matrix.mul(2).round() if rounded else matrix
    order = np.argsort(-matrix.abs().flatten().numpy(), kind="stable")[:count]
    expected = torch.zeros(matrix.numel(), dtype=torch.bool)
    expected[torch.from_numpy(order)] = True
    assert torch.equal(largest_mask(matrix, count).flatten(), expected)
    assert torch.equal(largest_entries(matrix, count), torch.from_numpy(np.sort(order)))
