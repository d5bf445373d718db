"""Tucker decompositions are as accurate as those of tensorly, and their slabs and ranks satisfy all constraints."""

from __future__ import annotations

import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import partial_tucker, tucker
from torch import Tensor

from offcomp.methods.base import CompressedMatrix
from offcomp.methods.tucker.method import Tucker
from offcomp.numerics.accounting import Budget, stored_size


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fit(method: Tucker, matrix: Tensor, size: int) -> CompressedMatrix:
    budget = Budget(stored_size(method.tensor_shapes(*matrix.shape, size), "float32").num_parameters)
    compressed = method.fit(matrix, budget)
    assert compressed.size == size
    return compressed


def relative_error(exact: Tensor, approximate: Tensor) -> float:
    return ((exact.double() - approximate.double()).norm() / exact.double().norm()).item()


def sharing_slabs(slabs: int, height: int, cols: int, rank: int) -> Tensor:
    """A stack of slabs that share a row space and a column space of this rank."""
    cores = randn(slabs, rank, rank)
    return (randn(height, rank, seed=1) @ cores @ randn(rank, cols, seed=2)).reshape(slabs * height, cols)


@pytest.mark.parametrize("size", [4, 9])
def test_with_all_slabs_it_is_as_good_as_tensorlys_partial_tucker(size: int) -> None:
    matrix = sharing_slabs(4, 20, 20, 6) + 0.3 * randn(80, 20, seed=3)
    tensor = matrix.reshape(4, 20, 20).double().numpy()
    (core, (left, right)), _ = partial_tucker(tensor, [size, size], modes=[1, 2], n_iter_max=20, tol=0)
    expected = tensorly.tenalg.multi_mode_dot(core, [left, right], modes=[1, 2]).reshape(80, 20)
    ours = relative_error(matrix, fit(Tucker(slabs=4, iterations=20), matrix, size).reconstruct())
    assert ours == pytest.approx(relative_error(matrix, torch.from_numpy(expected)), rel=1e-4)


def test_with_mixed_slabs_it_is_as_good_as_tensorlys_tucker() -> None:
    matrix = sharing_slabs(6, 16, 12, 5) + 0.2 * randn(96, 12, seed=3)
    method = Tucker(slabs=6, slab_rank=3, iterations=20)
    assert method.ranks(96, 12, 5) == (3, 5, 5)
    expected = tucker(matrix.reshape(6, 16, 12).double().numpy(), [3, 5, 5], n_iter_max=20, tol=0)
    expected = torch.from_numpy(tensorly.tucker_to_tensor(expected).reshape(96, 12))
    ours = relative_error(matrix, fit(method, matrix, 5).reconstruct())
    assert ours == pytest.approx(relative_error(matrix, expected), rel=1e-4)


def test_slabs_that_share_both_spaces_are_recovered() -> None:
    matrix = sharing_slabs(6, 30, 30, 5)
    assert relative_error(matrix, fit(Tucker(slabs=6), matrix, 5).reconstruct()) < 1e-5
    assert relative_error(matrix, fit(Tucker(slabs=6), matrix, 4).reconstruct()) > 0.05


def test_one_slab_is_the_svd() -> None:
    matrix = randn(40, 60)
    assert relative_error(matrix, fit(Tucker(slabs=1), matrix, 7).reconstruct()) == pytest.approx(tail(matrix, 7), rel=1e-5)


def tail(matrix: Tensor, rank: int) -> float:
    """Relative error of the SVD at this rank."""
    values = torch.linalg.svdvals(matrix.double())
    return (values[rank:].norm() / values.norm()).item()


def attention_like(members: int, side: int, seed: int = 0) -> Tensor:
    """Stacked square matrices that share nothing but a slowly decaying spectrum, like that of trained weights."""
    fall = torch.linspace(1, 0.2, side)
    parts = [randn(side, side, seed=seed + 2 * n) * fall @ randn(side, side, seed=seed + 2 * n + 1) for n in range(members)]
    return torch.cat(parts)


@pytest.mark.parametrize(("members", "ratio"), [(1, 2.0), (1, 3.0), (4, 2.0)])
def test_the_default_slabs_lose_less_than_slabs_as_high_as_wide(members: int, ratio: float) -> None:
    matrix = attention_like(members, 96)
    budget = Budget(int(matrix.numel() / ratio))
    low, square = (method.fit(matrix, budget) for method in (Tucker(), Tucker(slabs=members)))
    assert low.stored.num_parameters <= budget.limit
    assert relative_error(matrix, low.reconstruct()) < relative_error(matrix, square.reconstruct()) - 0.003


@pytest.mark.parametrize("size", [16, 30])
def test_from_its_height_on_the_default_is_the_svd_and_256_numbers(size: int) -> None:
    matrix = attention_like(2, 64)
    compressed = fit(Tucker(), matrix, size)
    assert compressed.stored.num_parameters == size * (128 + 64) + 16 * 16
    assert relative_error(matrix, compressed.reconstruct()) == pytest.approx(tail(matrix, size), rel=1e-5)


def test_with_one_truncated_side_there_is_nothing_to_iterate() -> None:
    matrix = randn(128, 40)
    once, often = (fit(Tucker(iterations=n), matrix, 20) for n in (0, 50))
    assert all(torch.equal(once.tensors[name], often.tensors[name]) for name in once.tensors)
    assert Tucker(iterations=0).seconds(128, 40, 20) == Tucker(iterations=50).seconds(128, 40, 20)
    assert Tucker(iterations=0).seconds(128, 40, 10) < Tucker(iterations=50).seconds(128, 40, 10)


def test_orthogonal_iteration_only_improves_the_higher_order_svd() -> None:
    matrix = randn(120, 24) * torch.linspace(1, 0.1, 24)
    errors = [relative_error(matrix, fit(Tucker(iterations=n), matrix, 8).reconstruct()) for n in (0, 1, 5, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


@pytest.mark.parametrize(
    ("shape", "slabs", "expected"),
    [
        ((2304, 384), 0, (144, 16, 384)),
        ((384, 1536), 0, (24, 16, 1536)),
        ((30522, 384), 0, (5087, 6, 384)),  # the divisors of 30522 are 1, 2, 3, 6, and 5087 upwards
        ((50257, 768), 0, (1733, 29, 768)),
        ((119547, 768), 0, (13283, 9, 768)),  # 9 rather than 37
        ((257, 64), 0, (257, 1, 64)),
        ((13, 64), 0, (1, 13, 64)),
        ((2304, 384), 6, (6, 384, 384)),
        ((30522, 384), 5, (3, 10174, 384)),
        ((7, 3), 4096, (7, 1, 3)),
        ((1, 9), 0, (1, 1, 9)),
    ],
)
def test_slabs_are_equal_and_about_16_high_or_as_many_as_asked_for(
    shape: tuple[int, int], slabs: int, expected: tuple[int, int, int]
) -> None:
    assert Tucker(slabs=slabs).tensor_sides(*shape) == expected


@settings(max_examples=150, deadline=None, derandomize=True)
@given(rows=st.integers(1, 60), cols=st.integers(1, 60), slabs=st.integers(0, 60), slab_rank=st.integers(0, 8))
def test_every_larger_size_stores_more_and_no_rank_exceeds_what_it_can_fill(
    rows: int, cols: int, slabs: int, slab_rank: int
) -> None:
    method = Tucker(slabs=slabs, slab_rank=slab_rank)
    count, height, _ = method.tensor_sides(rows, cols)
    before = 0
    for size in method.sizes(rows, cols):
        p, left, right = method.ranks(rows, cols, size)
        assert 1 <= p <= count
        assert left <= min(height, p * right)
        assert right <= min(cols, p * left)
        stored = stored_size(method.tensor_shapes(rows, cols, size), "float32").num_parameters
        mixing = count * p if 0 < slab_rank < count else 0
        assert stored == p * left * right + height * left + cols * right + mixing
        assert stored > before
        before = stored
