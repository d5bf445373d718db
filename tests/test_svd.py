"""Truncated SVD as a method: exact, and as good as its spectrum says."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from offcomp.methods import SVD
from offcomp.methods.base import choose_size, dense_shapes
from offcomp.numerics.accounting import Budget, Size, budget_for_ratio, stored_size


def randn(rows: int, cols: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def original_size(rows: int, cols: int) -> Size:
    return stored_size(dense_shapes(rows, cols), "float32")


def low_rank_matrix(rows: int, cols: int, rank: int, noise: float = 0.0) -> Tensor:
    return randn(rows, rank) @ randn(rank, cols, seed=1) + noise * randn(rows, cols, seed=2)


def ill_conditioned(rows: int, cols: int) -> Tensor:
    """Singular values from 1 down to 1e-10, as far as float32 entries can hold them."""
    side = min(rows, cols)
    left = torch.linalg.qr(randn(rows, side).double()).Q
    right = torch.linalg.qr(randn(cols, side, seed=1).double()).Q
    return (left * torch.logspace(0, -10, side, dtype=torch.float64) @ right.T).float()


MATRICES = {
    "square": randn(64, 64),
    "stacked layers, very tall": randn(576, 24),
    "very wide": randn(24, 576),
    "low rank and noise": low_rank_matrix(90, 60, 5, noise=0.01),
    "ill-conditioned tall": ill_conditioned(120, 40),
    "ill-conditioned wide": ill_conditioned(40, 120),
    "rows of unlike length": randn(80, 40) * torch.logspace(0, -6, 80)[:, None],
}


@pytest.mark.parametrize("ratio", [1.5, 3.0, 10.0])
@pytest.mark.parametrize("name", MATRICES)
def test_the_error_is_the_tail_of_the_spectrum(name: str, ratio: float) -> None:
    matrix = MATRICES[name]
    compressed = SVD().fit(matrix, budget_for_ratio(original_size(*matrix.shape), ratio, "parameters", "float32"))
    assert compressed.size >= 1
    tail = torch.linalg.svdvals(matrix.double())[compressed.size :].norm()
    error = (matrix.double() - compressed.reconstruct().double()).norm()
    assert abs(error - tail) <= 1e-6 * matrix.double().norm()


@pytest.mark.parametrize("name", MATRICES)
def test_the_reconstruction_is_that_of_a_direct_svd(name: str) -> None:
    matrix = MATRICES[name]
    rank = 4
    compressed = SVD().fit(matrix, Budget(rank * sum(matrix.shape)))
    assert compressed.size == rank
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    expected = left[:, :rank] * values[:rank] @ right[:rank]
    assert (compressed.reconstruct().double() - expected).norm() <= 1e-6 * expected.norm()


def test_a_matrix_of_low_rank_is_recovered() -> None:
    matrix = low_rank_matrix(90, 60, 5)
    compressed = SVD().fit(matrix, Budget(5 * (90 + 60)))
    assert compressed.size == 5
    torch.testing.assert_close(compressed.reconstruct(), matrix, rtol=0, atol=2e-5)


@pytest.mark.parametrize("rows, cols", [(60, 40), (40, 60)])
def test_a_larger_budget_is_never_worse(rows: int, cols: int) -> None:
    matrix = randn(rows, cols)
    budgets = range(rows + cols, rows * cols + 1, 25)
    errors = [(matrix - SVD().fit(matrix, Budget(limit)).reconstruct()).double().norm().item() for limit in budgets]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(errors))
    assert errors[-1] < 0.2 * errors[0]


def test_the_rank_stays_below_the_break_even_rank() -> None:
    rows, cols = 60, 40
    break_even = rows * cols / (rows + cols)  # 24 exactly: it stores as much as the matrix, so the matrix stays dense
    just_below = SVD().fit(randn(rows, cols), Budget(rows * cols - 1))
    assert just_below.size == break_even - 1
    assert SVD().fit(randn(rows, cols), Budget(rows * cols)).form == "dense"


@pytest.mark.parametrize(
    "rows, cols, ratio, rank", [(768, 768, 10.0, 38), (9216, 768, 10.0, 70), (2304, 384, 3.0, 109), (30522, 768, 2.0, 374)]
)
def test_ranks_at_known_ratios(rows: int, cols: int, ratio: float, rank: int) -> None:
    budget = budget_for_ratio(original_size(rows, cols), ratio, "parameters", "float32")
    assert choose_size(SVD(), rows, cols, budget) == rank
    assert rank == int(rows * cols / ratio) // (rows + cols)


def test_stored_parameters_follow_the_formula_of_the_docstring() -> None:
    compressed = SVD().fit(randn(50, 30), Budget(700))
    assert compressed.stored.num_parameters == compressed.size * (50 + 30)
    assert compressed.size == 700 // 80


@pytest.mark.parametrize("rows, cols", [(50, 30), (30, 50)])
def test_the_sign_of_the_components_is_the_same_for_every_fit_and_seed(rows: int, cols: int) -> None:
    matrix = randn(rows, cols)
    first, second = (SVD().fit(matrix.clone(), Budget(700), seed=seed) for seed in (0, 5))
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name])


def test_half_the_bytes_hold_twice_the_rank() -> None:
    matrix = randn(64, 64)
    budget = {dtype: Budget(4 * 10 * 128, "bytes", dtype) for dtype in ("float32", "float16")}
    assert SVD().fit(matrix, budget["float32"]).size == 10
    assert SVD().fit(matrix, budget["float16"]).size == 20


def test_there_is_no_training_and_so_no_history() -> None:
    assert SVD().fit(randn(50, 30), Budget(700)).history == ()
