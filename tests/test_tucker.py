"""Tucker decomposition against tensorly called directly, and what the shapes of slabs and ranks must keep."""

from __future__ import annotations

import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import partial_tucker, tucker
from torch import Tensor

from offcomp.methods.base import CompressedMatrix
from offcomp.methods.tucker import Tucker
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
    """Slabs that share a row and a column space of this rank."""
    cores = randn(slabs, rank, rank)
    return (randn(height, rank, seed=1) @ cores @ randn(rank, cols, seed=2)).reshape(slabs * height, cols)


@pytest.mark.parametrize("size", [4, 9])
def test_with_all_slabs_it_is_as_good_as_tensorlys_partial_tucker(size: int) -> None:
    matrix = sharing_slabs(4, 20, 20, 6) + 0.3 * randn(80, 20, seed=3)
    tensor = matrix.reshape(4, 20, 20).double().numpy()
    (core, (left, right)), _ = partial_tucker(tensor, [size, size], modes=[1, 2], n_iter_max=20, tol=0)
    expected = tensorly.tenalg.multi_mode_dot(core, [left, right], modes=[1, 2]).reshape(80, 20)
    ours = relative_error(matrix, fit(Tucker(iterations=20), matrix, size).reconstruct())
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
    assert relative_error(matrix, fit(Tucker(), matrix, 5).reconstruct()) < 1e-5
    assert relative_error(matrix, fit(Tucker(), matrix, 4).reconstruct()) > 0.05


def test_one_slab_is_the_svd() -> None:
    matrix = randn(40, 60)
    tail = torch.linalg.svdvals(matrix.double())[7:].norm() / matrix.double().norm()
    assert relative_error(matrix, fit(Tucker(), matrix, 7).reconstruct()) == pytest.approx(tail.item(), rel=1e-5)


def test_orthogonal_iteration_only_improves_the_higher_order_svd() -> None:
    matrix = randn(120, 24) * torch.linspace(1, 0.1, 24)
    errors = [relative_error(matrix, fit(Tucker(iterations=n), matrix, 8).reconstruct()) for n in (0, 1, 5, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


@pytest.mark.parametrize(
    ("shape", "slabs", "expected"),
    [
        ((2304, 384), 0, (6, 384, 384)),
        ((1536, 384), 0, (4, 384, 384)),
        ((384, 1536), 0, (1, 384, 1536)),
        ((30522, 384), 0, (6, 5087, 384)),  # 79 does not divide 30522
        ((30522, 384), 5, (3, 10174, 384)),
        ((7, 3), 4096, (7, 1, 3)),
        ((1, 9), 0, (1, 1, 9)),
    ],
)
def test_slabs_are_equal_and_about_square_or_as_many_as_asked_for(
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
