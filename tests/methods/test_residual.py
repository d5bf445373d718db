"""The residual autoencoder is never worse than SVD, has the sizes of its formulas, and its parts equal plain references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from offcomp.errors import BudgetTooSmall, InputError
from offcomp.methods import SVD, ResidualAutoencoder
from offcomp.methods.base import CompressedMatrix, Hints
from offcomp.methods.decoders import DECODERS
from offcomp.methods.residual import alternation, training
from offcomp.methods.residual.pivots import LARGEST, interpolate
from offcomp.methods.residual.sparse import Sparse, best_entries
from offcomp.methods.residual.training import Decoder
from offcomp.methods.svd.group_metrics import group_metrics
from offcomp.numerics.accounting import STORAGE_DTYPES, UNITS, Budget, stored_size
from offcomp.numerics.mlp import SLOPE
from offcomp.numerics.positions import decode_positions, encode_positions, position_shapes
from offcomp.numerics.storage import unpack
from offcomp.numerics.svd import low_rank_factors
from offcomp.numerics.weighted_norm import SideWeights
from tests.method_contract import share_of_dense
from tests.methods.test_every_method import degenerate_matrices
from tests.synthetic_hints import synthetic_hints

LINEAR = ResidualAutoencoder(sparse_share=0.0, hidden_share=0.0)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def heavy_tailed(rows: int, cols: int, seed: int = 0) -> Tensor:
    """A low-rank matrix with noise and a few large entries, as in trained weights."""
    return randn(rows, 4, seed=seed) @ randn(4, cols, seed=seed + 1) + randn(rows, cols, seed=seed + 2) ** 3 / 2


def error(matrix: Tensor, compressed: CompressedMatrix) -> float:
    return (matrix.double() - compressed.reconstruct().double()).norm().item()


def whitened_error(matrix: Tensor, compressed: CompressedMatrix, hints: Hints) -> float:
    """The norm of the error, weighted by the metrics of SVD's preset 'whitened'."""
    rows, columns = group_metrics(hints, ("none", "full"), 0.0, torch.device("cpu"))
    half = matrix.double() - compressed.reconstruct().double()
    half = half if rows is None else rows.root(half)
    return (half if columns is None else columns.root(half.T)).norm().item()


# Never worse than SVD


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    matrix=degenerate_matrices(),
    share=st.floats(0.15, 1.1),
    unit=st.sampled_from(UNITS),
    dtype=st.sampled_from(STORAGE_DTYPES),
    sparse_share=st.sampled_from([0.0, 0.4, 0.6]),
)
def test_it_is_never_worse_than_svd_and_fits_wherever_svd_does(
    *, matrix: Tensor, share: float, unit: str, dtype: str, sparse_share: float
) -> None:
    budget = share_of_dense(share, unit, dtype, *matrix.shape)
    try:
        plain = SVD().fit(matrix, budget)
    except BudgetTooSmall:
        return
    compressed = ResidualAutoencoder(sparse_share=sparse_share, rounds=2, steps=5).fit(matrix, budget)
    assert compressed.stored.in_unit(unit) <= budget.limit
    assert compressed.reconstruct().isfinite().all()
    assert error(matrix, compressed) <= error(matrix, plain)


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("shape", [(60, 60), (150, 40), (40, 150)])
def test_it_is_strictly_better_on_a_matrix_with_heavy_tails(shape: tuple[int, int], unit: str, dtype: str) -> None:
    matrix = heavy_tailed(*shape)
    budget = share_of_dense(0.5, unit, dtype, *shape)
    compressed = ResidualAutoencoder(steps=30).fit(matrix, budget)
    assert compressed.decoder == ("residual_columns" if shape[0] < shape[1] else "residual_rows")
    assert error(matrix, compressed) < 0.9 * error(matrix, SVD().fit(matrix, budget))


@pytest.mark.parametrize("share", [0.15, 0.3, 0.6])
@pytest.mark.parametrize("shape", [(40, 40), (60, 24), (24, 60)])
def test_it_is_never_worse_than_whitened_svd_in_the_metric_of_the_text(shape: tuple[int, int], share: float) -> None:
    matrix, hints = heavy_tailed(*shape), synthetic_hints(*shape)
    budget = share_of_dense(share, "parameters", "float32", *shape)
    compressed = ResidualAutoencoder(metric="whitened", steps=10).fit(matrix, budget, hints=hints)
    plain = SVD(preset="whitened").fit(matrix, budget, hints=hints)
    assert whitened_error(matrix, compressed, hints) <= whitened_error(matrix, plain, hints)


def test_it_is_strictly_better_where_the_text_has_been_heard() -> None:
    matrix, hints = heavy_tailed(96, 32), synthetic_hints(96, 32)
    budget = share_of_dense(0.5, "parameters", "float32", 96, 32)
    compressed = ResidualAutoencoder(metric="whitened", sparse_share=0.1).fit(matrix, budget, hints=hints)
    plain = SVD(preset="whitened").fit(matrix, budget, hints=hints)
    assert whitened_error(matrix, compressed, hints) < 0.95 * whitened_error(matrix, plain, hints)


def test_the_whitened_metric_asks_for_text() -> None:
    with pytest.raises(InputError, match="calibration text"):
        ResidualAutoencoder(metric="whitened").fit(randn(8, 8), Budget(40))


def test_svd_itself_is_stored_where_nothing_beats_it() -> None:
    matrix = randn(40, 2) @ randn(2, 30, seed=1)  # of rank 2, so that only rounding errors remain
    budget = Budget(stored_size(SVD().tensor_shapes(40, 30, 2), "int8").num_bytes, "bytes", "int8")
    compressed, plain = ResidualAutoencoder(steps=5).fit(matrix, budget), SVD().fit(matrix, budget)
    assert compressed.decoder == plain.decoder == "low_rank"
    assert error(matrix, compressed) == error(matrix, plain)


@pytest.mark.parametrize("rank", [1, 3, 7])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (90, 30)])
def test_a_matrix_of_low_rank_is_exact_at_its_degrees_of_freedom(shape: tuple[int, int], rank: int) -> None:
    rows, cols = shape
    matrix = randn(rows, rank) @ randn(rank, cols, seed=1)
    budget = Budget(rank * (rows + cols - rank) + rank)  # plus one number per pivot
    assert error(matrix, LINEAR.fit(matrix, budget)) < 1e-5 * matrix.norm()
    if rank > 1:
        assert error(matrix, SVD().fit(matrix, budget)) > 1e-2 * matrix.norm()


def test_hidden_units_help_where_rows_lie_on_a_bent_surface() -> None:
    latents = randn(400, 2)
    matrix = torch.nn.functional.leaky_relu(latents @ randn(2, 12, seed=1) + randn(12, seed=2)) @ randn(12, 24, seed=3)
    budget = share_of_dense(0.2, "parameters", "float32", 400, 24)
    bent = ResidualAutoencoder(sparse_share=0.0, hidden_share=0.25, steps=300).fit(matrix, budget)
    assert bent.diagnostics["hidden_units"] > 0
    assert error(matrix, bent) < 0.8 * error(matrix, LINEAR.fit(matrix, budget))
    assert bent.history[-1] < bent.history[0]


# Sizes


@pytest.mark.parametrize("method", [ResidualAutoencoder(steps=2), LINEAR, ResidualAutoencoder(sparse_share=0.2, steps=2)])
@pytest.mark.parametrize("shape", [(50, 40), (40, 50), (120, 30)])
def test_stored_parameters_follow_the_formula_of_the_docstring(method: ResidualAutoencoder, shape: tuple[int, int]) -> None:
    n, m = max(shape), min(shape)
    compressed = method.fit(heavy_tailed(*shape), share_of_dense(0.5, "parameters", "float32", *shape))
    r = compressed.size
    hidden_share = method.hidden_share if n >= 2 * m else 0.0
    units = (r - 1) * (n + m - r) / (1 - method.sparse_share - hidden_share)
    h, k = int(hidden_share * units / (r + m + 1)), int(method.sparse_share * units / 2)
    assert dict(compressed.diagnostics) == {"hidden_units": h, "sparse_entries": k}
    expected = (n - r) * r + r * m + r + h * (r + m + 1) + (2 * k + 1 if k else 0)
    assert compressed.stored.num_parameters == expected


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=st.integers(2, 300), cols=st.integers(2, 300), dtype=st.sampled_from(STORAGE_DTYPES), unit=st.sampled_from(UNITS))
def test_its_smallest_form_is_no_larger_than_that_of_svd(rows: int, cols: int, dtype: str, unit: str) -> None:
    smallest = stored_size(ResidualAutoencoder().tensor_shapes(rows, cols, 1), dtype).in_unit(unit)
    assert smallest <= stored_size(SVD().tensor_shapes(rows, cols, 1), dtype).in_unit(unit)


@pytest.mark.parametrize("shape", [(90, 30), (30, 90), (40, 40)])
def test_a_saved_matrix_decodes_to_the_same_reconstruction(shape: tuple[int, int]) -> None:
    compressed = ResidualAutoencoder(steps=5).fit(heavy_tailed(*shape), share_of_dense(0.5, "bytes", "float16", *shape))
    decode = {form.__name__: form for form in DECODERS}[compressed.decoder]
    read = load(save(dict(compressed.tensors)))
    assert torch.equal(decode(unpack(read)), compressed.reconstruct())


# Its parts


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), total=st.integers(1, 5000))
def test_positions_come_back_from_an_elias_fano_code(data: st.DataObject, total: int) -> None:
    chosen = data.draw(st.sets(st.integers(0, total - 1)))
    positions = torch.tensor(sorted(chosen), dtype=torch.int64)
    code = encode_positions(positions, total)
    assert {name: tuple(tensor.shape) for name, tensor in code.items()} == {
        name: codes.shape for name, codes in position_shapes(len(chosen), total).items()
    }
    assert torch.equal(decode_positions(code["low"], code["high"], len(chosen), total), positions)


def test_a_position_takes_about_two_bits_more_than_its_share_of_the_information() -> None:
    for one_in in (4, 16, 64, 1024):
        count = 10_000
        stored = sum(8 * codes.shape[0] for codes in position_shapes(count, count * one_in).values())
        assert stored / count <= 2.01 + torch.tensor(float(one_in)).log2()


@pytest.mark.parametrize("rows, rank, true_rank", [(30, 5, 5), (5, 5, 5), (200, 20, 20), (30, 6, 3), (30, 4, 0), (1, 1, 1)])
def test_the_interpolative_form_is_exact_and_bounded(rows: int, rank: int, true_rank: int) -> None:
    factor = randn(rows, true_rank) @ randn(true_rank, rank, seed=1)
    pivots, coefficients = interpolate(factor)
    assert torch.equal(coefficients[pivots], torch.eye(rank, dtype=torch.float64))
    torch.testing.assert_close(coefficients @ factor[pivots].double(), factor.double(), rtol=0, atol=1e-4)
    assert coefficients.abs().max() <= LARGEST


def test_swaps_bound_coefficients_that_pivoted_qr_leaves_large() -> None:
    n = 24
    upper = torch.eye(n) - torch.triu(torch.full((n, n), 0.6), 1)  # Kahan's matrix, a hard case for pivoted QR
    factor = torch.cat([(torch.diag(0.8 ** torch.arange(n)) @ upper).T, randn(40, n, seed=3) * 1e-3])
    pivots, coefficients = interpolate(factor)
    assert coefficients.abs().max() <= LARGEST
    torch.testing.assert_close(coefficients @ factor[pivots].double(), factor.double(), rtol=0, atol=1e-6)


def some_weights(rows: int, cols: int) -> SideWeights:
    return SideWeights.of(*group_metrics(synthetic_hints(rows, cols), ("full", "full"), 0.1, torch.device("cpu")))


def test_side_weights_are_half_the_gradient_of_the_squared_error() -> None:
    weights = some_weights(12, 9)
    matrix = randn(12, 9, seed=5)
    base, small = weights.squared(matrix), 1e-3 * randn(12, 9, seed=6)
    change = weights.squared(matrix + small) - base - weights.squared(small)
    assert change == pytest.approx(2 * (weights.weighted(matrix) * small).sum().item(), rel=1e-3)
    single = torch.zeros(12, 9)
    single[3, 4] = 1
    assert weights.squared(single) == pytest.approx(weights.diagonal_at(torch.tensor([3 * 9 + 4]), 9).item(), rel=1e-5)


def test_the_values_of_the_sparse_part_solve_the_weighted_problem_at_their_places() -> None:
    weights, matrix = some_weights(12, 9), randn(12, 9, seed=5)
    found = best_entries(matrix.clone(), Sparse.empty(matrix.device), 10, weights)
    columns = []
    for place in found.positions.tolist():
        unit = torch.zeros(108)
        unit[place] = 1
        columns.append(weights.weighted(unit.view(12, 9)).reshape(-1)[found.positions])
    expected = torch.linalg.solve(torch.stack(columns), weights.weighted(matrix).reshape(-1)[found.positions])
    left, best = matrix.clone(), matrix.clone()
    found.add_to(left, -1.0)
    Sparse(found.positions, expected).add_to(best, -1.0)
    assert weights.squared(left) <= 1.001 * weights.squared(best) < 0.9 * weights.squared(matrix)


def test_without_metrics_the_sparse_part_is_the_largest_entries_as_they_are() -> None:
    matrix = randn(12, 9)
    found = best_entries(matrix.clone(), Sparse.empty(matrix.device), 10, SideWeights())
    left = matrix.clone()
    found.add_to(left, -1.0)
    assert left.norm() == pytest.approx(matrix.abs().flatten().sort().values[:-10].norm().item(), rel=1e-5)
    assert (left == 0).sum() == 10


def test_gradients_equal_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    target, latents = randn(12, 9), randn(12, 3, seed=4)
    decoder = Decoder(randn(3, 9), randn(3, 4, seed=1), randn(4, seed=2), randn(4, 9, seed=3))
    absorbed = torch.zeros(108, dtype=torch.bool)
    absorbed[[2, 30, 31, 70, 107]] = True
    leaves = [tensor.clone().requires_grad_() for tensor in (latents, *decoder.parameters)]
    hidden = torch.nn.functional.leaky_relu(leaves[0] @ leaves[2] + leaves[3], SLOPE)
    loss = ((target - leaves[0] @ leaves[1] - hidden @ leaves[4]) * ~absorbed.view(12, 9)).square().mean() / 2
    expected = torch.autograd.grad(loss, leaves)
    for rows_at_once in (1024, 5):
        monkeypatch.setattr(training, "ROWS_AT_ONCE", rows_at_once)
        found = training.gradients(target, latents, decoder, absorbed.view(12, 9))
        torch.testing.assert_close(found, [*expected], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("best", [0, 1, 3])
def test_the_best_round_is_kept(best: int, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([3.0 - number if number <= best else 9.0 for number in range(4)])
    rounds: list[tuple[Tensor, Tensor]] = []

    def recorded(matrix: Tensor, rank: int, *metrics: Any) -> tuple[Tensor, Tensor]:
        rounds.append(low_rank_factors(matrix, rank, *metrics))
        return rounds[-1]

    monkeypatch.setattr(alternation, "low_rank_factors", recorded)
    monkeypatch.setattr(SideWeights, "squared_in_float32", lambda *_: next(errors))
    target = heavy_tailed(30, 20)
    latents, linear, sparse = alternation.fit_linear(target, 3, 12, 4, weights=SideWeights(), report=lambda _done: None)
    assert latents is rounds[best][0] and linear is rounds[best][1]
    assert len(rounds) == 4 and len(sparse.positions) == 12
    assert not torch.equal(rounds[0][0], rounds[1][0])
