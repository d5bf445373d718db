"""Metrics of one side of a matrix: roots, floors, shrinkage, and the low-rank factors that are optimal in them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from offcomp.numerics.metrics import FLOOR, Block, Metric, metric_of
from offcomp.numerics.svd import low_rank_factors, singular_values
from offcomp.numerics.weighted_norm import SideWeights
from tests.synthetic_hints import moment

SHAPES = [(36, 12), (12, 36), (20, 20), (1, 8), (8, 1)]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(metric: Metric) -> Tensor:
    """The metric as a dense matrix."""
    half = metric.root(torch.eye(sum(metric.sizes), dtype=torch.float64))
    return half @ half


def stacked_metric(moments: Sequence[Tensor], shrinkage: float = 0.0) -> Metric:
    """A metric with one block per moment."""
    return Metric([len(each) for each in moments], lambda index: Block.of(moments[index], shrinkage))


def metrics_of(size: int) -> list[Metric]:
    """One metric of each kind for a side of this size."""
    weights = torch.linspace(0.1, 3, size, dtype=torch.float64)
    upper = size // 2
    blocks = [weights[:upper]] if upper else []
    return [
        metric_of(weights),
        metric_of(moment(size, 1)),
        stacked_metric([*blocks, moment(size - upper, 2)]),
    ]


def error_in(matrix: Tensor, approximation: Tensor, rows: Metric | None, columns: Metric | None) -> Tensor:
    difference = matrix - approximation
    difference = difference if rows is None else rows.root(difference)
    return (difference if columns is None else columns.root(difference.T)).norm()


@pytest.mark.parametrize("size", [1, 2, 7, 24])
def test_the_root_squares_to_the_moment_and_its_inverse_undoes_it(size: int) -> None:
    weights, second = torch.linspace(0.1, 3, size, dtype=torch.float64), moment(size, 1)
    torch.testing.assert_close(dense(metric_of(weights)), torch.diag(weights))
    torch.testing.assert_close(dense(metric_of(second)), second)
    both = dense(stacked_metric([weights, second]))
    torch.testing.assert_close(both, torch.block_diag(torch.diag(weights), second))
    for metric in metrics_of(size):
        entries = randn(size, 3)
        torch.testing.assert_close(metric.inverse_root(metric.root(entries)), entries)
        torch.testing.assert_close(torch.cat(list(metric.root_blocks(entries))), metric.root(entries))


def test_shrinkage_keeps_the_trace_and_ends_at_the_scaled_identity() -> None:
    second = moment(10, 1)
    for shrinkage in (0.0, 0.3, 1.0):
        expected = (1 - shrinkage) * second + shrinkage * second.diagonal().mean() * torch.eye(10, dtype=torch.float64)
        torch.testing.assert_close(dense(metric_of(second, shrinkage)), expected)
        torch.testing.assert_close(dense(metric_of(second.diagonal(), shrinkage)), torch.diag(expected.diagonal()))
    assert metric_of(second, 1.0).condition == pytest.approx(1)
    assert metric_of(second, 0.3).condition < metric_of(second).condition


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e12])
def test_a_singular_moment_is_lifted_in_proportion_to_its_scale(scale: float) -> None:
    inputs = randn(3, 10) * scale
    metric = metric_of(inputs.T @ inputs / 3)
    assert metric.condition <= 10 / FLOOR * 1.001
    assert metric.root(randn(10, 2)).isfinite().all()
    assert metric.inverse_root(randn(10, 2)).isfinite().all()
    assert metric.condition == pytest.approx(metric_of(inputs.T @ inputs / scale**2).condition, rel=1e-3)


def computed_and_held(size: int, computed: list[int]) -> tuple[Metric, Metric]:
    """Two copies of a metric of two blocks: one computes a block at each use, recording its index; the other holds both."""
    moments = [torch.linspace(0.1, 3, 4, dtype=torch.float64), moment(size, 2)]

    def block(index: int) -> Block:
        computed.append(index)
        return Block.of(moments[index], 0.2)

    return Metric([4, size], block), stacked_metric(moments, 0.2).held()


def test_a_block_is_computed_for_each_use_unless_it_is_held() -> None:
    computed: list[int] = []
    (metric, held), entries = computed_and_held(9, computed), randn(13, 5)
    assert metric.sizes == held.sizes and not computed
    torch.testing.assert_close(metric.root(entries), held.root(entries))
    assert computed == [0, 1]
    assert metric.condition == pytest.approx(held.condition) and computed == [0, 1]
    kept = metric.held()
    torch.testing.assert_close(kept.inverse_root(kept.root(entries)), entries)
    assert computed == [0, 1, 0, 1]
    unused, _ = computed_and_held(9, computed)
    assert unused.condition == pytest.approx(held.condition)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("width", [6, 20])
def test_weights_of_both_sides_are_those_of_the_metrics_whose_blocks_they_compute_once(
    transposed: bool, both: bool, width: int
) -> None:
    computed: list[int] = []
    rows, same_rows = computed_and_held(9, computed)
    columns = metric_of(moment(width, 5)) if both else None
    weights, error = SideWeights.of(rows, columns), randn(13, width).float()
    inner = torch.eye(width, dtype=torch.float64) if columns is None else dense(columns)
    expected = dense(same_rows) @ error.double() @ inner
    diagonal = dense(same_rows).diagonal()[:, None] * inner.diagonal()
    assert computed == [0, 1]
    if transposed:
        weights, error, expected, diagonal = weights.transposed, error.T, expected.T, diagonal.T
    for _ in range(3):
        torch.testing.assert_close(weights.weighted(error).double(), expected, rtol=1e-4, atol=1e-5)
        assert weights.squared(error) == pytest.approx((error.double() * expected).sum().item(), rel=1e-9)
        assert weights.squared_in_float32(error) == pytest.approx(weights.squared(error), rel=1e-5)
    scaled = error.clone()
    weights.scale(scaled, -0.5)
    torch.testing.assert_close(scaled.double(), error.double() / diagonal.sqrt(), rtol=1e-4, atol=1e-5)
    positions = torch.tensor([0, 17, 77])
    found = weights.diagonal_at(positions, error.shape[1]).double()
    torch.testing.assert_close(found, diagonal.reshape(-1)[positions], rtol=1e-5, atol=0)
    assert computed == [0, 1]


@pytest.mark.parametrize("shape", [(1200, 1400), (1400, 1200), (12, 30), (30, 12)])
def test_blocks_are_computed_once_for_a_fit(shape: tuple[int, int]) -> None:
    computed: list[int] = []

    def block(index: int) -> Block:
        computed.append(index)
        return Block.of(torch.linspace(0.1, 3, shape[0], dtype=torch.float64), 0.0)

    low_rank_factors(randn(*shape).float(), 3, Metric([shape[0]], block), None)
    assert computed == [0]


def test_a_zero_moment_counts_all_alike() -> None:
    for metric in (metric_of(torch.zeros(4, 4)), metric_of(torch.zeros(4))):
        torch.testing.assert_close(dense(metric), torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("rows, cols", SHAPES)
@pytest.mark.parametrize("kinds", [(r, c) for r in range(4) for c in range(4)])
def test_the_factors_are_those_of_a_direct_svd_of_the_weighted_matrix(rows: int, cols: int, kinds: tuple[int, int]) -> None:
    matrix = randn(rows, cols)
    row_metric, column_metric = ([None, *metrics_of(size)][kind] for size, kind in zip((rows, cols), kinds, strict=True))
    weighted = matrix if row_metric is None else row_metric.root(matrix)
    weighted = weighted if column_metric is None else column_metric.root(weighted.T).T
    left, values, right = torch.linalg.svd(weighted, full_matrices=False)
    torch.testing.assert_close(singular_values(matrix, row_metric, column_metric), values, rtol=1e-6, atol=1e-7)
    rank = max(1, min(rows, cols) // 3)
    best = left[:, :rank] * values[:rank] @ right[:rank]
    best = best if row_metric is None else row_metric.inverse_root(best)
    best = best if column_metric is None else column_metric.inverse_root(best.T).T
    factors = low_rank_factors(matrix, rank, row_metric, column_metric)
    product = factors[0] @ factors[1]
    assert (product - best).norm() <= 1e-8 * best.norm()
    tail = values[rank:].norm()
    assert abs(error_in(matrix, product, row_metric, column_metric) - tail) <= 1e-8 * values.norm()


@pytest.mark.parametrize("rows, cols", [(36, 12), (12, 36)])
def test_factors_in_a_metric_share_out_the_singular_values_of_their_product(rows: int, cols: int) -> None:
    left, right = low_rank_factors(randn(rows, cols), 5, None, metric_of(moment(cols, 1)))
    roots = torch.linalg.svdvals(left @ right)[:5].sqrt()
    torch.testing.assert_close(left.T @ left, torch.diag(roots.square()))
    torch.testing.assert_close(right @ right.T, torch.diag(roots.square()))
    assert (right.gather(1, right.abs().argmax(1, keepdim=True)) > 0).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 30),
    cols=st.integers(1, 30),
    tokens=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    kind=st.sampled_from(["full", "zero", "zero rows", "rank one"]),
    scale=st.sampled_from([1e-30, 1.0, 1e4]),
    share=st.floats(0, 1),
)
def test_no_moment_however_singular_makes_the_factors_fail(
    *, rows: int, cols: int, tokens: tuple[int, int], kind: str, scale: float, share: float
) -> None:
    matrix = randn(rows, cols) * scale
    if kind == "zero":
        matrix.zero_()
    elif kind == "zero rows":
        matrix[: rows // 2] = 0
    elif kind == "rank one":
        matrix = matrix[:, :1] @ matrix[:1]
    inputs, gradients = randn(tokens[0], cols, seed=1), randn(tokens[1], rows, seed=2)
    row_metric, column_metric = metric_of(gradients.T @ gradients), metric_of(inputs.T @ inputs)
    rank = max(1, round(share * min(rows, cols)))
    left, right = low_rank_factors(matrix.float(), rank, row_metric, column_metric)
    assert left.isfinite().all()
    assert right.isfinite().all()
    zero = error_in(matrix.float().double(), torch.zeros_like(matrix), row_metric, column_metric)
    error = error_in(matrix.float().double(), left.double() @ right.double(), row_metric, column_metric)
    assert error <= zero * (1 + 1e-3)


def test_metrics_of_ones_give_the_plain_singular_values() -> None:
    matrix = randn(20, 9)
    ones = singular_values(matrix, metric_of(torch.ones(20)), metric_of(torch.eye(9)))
    torch.testing.assert_close(ones, singular_values(matrix))
