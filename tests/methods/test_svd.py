"""The method SVD has the error that the spectrum implies, and each of its presets equals its formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from offcomp.errors import InputError
from offcomp.methods import SVD
from offcomp.methods.base import choose_size, dense_shapes
from offcomp.methods.hints import ModuleStatistics
from offcomp.methods.svd.group_metrics import group_metrics
from offcomp.numerics.accounting import Budget, Size, budget_for_ratio, stored_size
from tests.synthetic_hints import SyntheticHints, member_statistics, synthetic_hints


def randn(rows: int, cols: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def original_size(rows: int, cols: int) -> Size:
    return stored_size(dense_shapes(rows, cols), "float32")


def low_rank_matrix(rows: int, cols: int, rank: int, noise: float = 0.0) -> Tensor:
    return randn(rows, rank) @ randn(rank, cols, seed=1) + noise * randn(rows, cols, seed=2)


def ill_conditioned(rows: int, cols: int) -> Tensor:
    """A matrix with singular values from 1 down to 1e-10, as nearly as float32 entries allow."""
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
    break_even = rows * cols / (rows + cols)  # exactly 24, which stores as many parameters as the matrix
    just_below = SVD().fit(randn(rows, cols), Budget(rows * cols - 1))
    assert just_below.size == break_even - 1
    assert SVD().fit(randn(rows, cols), Budget(rows * cols)).decoder == "dense"


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


# ------------------------------------------------------------------------------------------------------------- metrics

RANK = 6
TALL, WIDE = (40, 24), (24, 40)


def fitted(matrix: Tensor, hints: Any = None, **options: Any) -> Tensor:
    """The reconstruction at rank `RANK`, in float64."""
    rows, cols = matrix.shape
    extra = rows if options.get("preset") == "direction" else 0
    compressed = SVD(**options).fit(matrix, Budget(RANK * (rows + cols) + extra), hints=hints)
    assert compressed.size == RANK
    return compressed.reconstruct().double()


def one_member(rows: int, cols: int, *, transposed: bool = False, seed: int = 1, **changes: Any) -> SyntheticHints:
    """Hints of a group of one weight, whose shape in the stack is (rows, cols)."""
    shape = (cols, rows) if transposed else (rows, cols)
    return SyntheticHints((rows,), (transposed,), [replace(member_statistics(*shape, seed), **changes)])


def cut(matrix: Tensor) -> Tensor:
    """The best approximation of rank `RANK`, by a direct SVD."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :RANK] * values[:RANK] @ right[:RANK]


def by_rows(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """FWSVD as in its paper: D^-1 SVD_r(D W), D² = diag(weights)."""
    scale = weights.double().sqrt()[:, None]
    return lambda matrix: cut(scale * matrix) / scale


def by_columns(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """ASVD as in its paper: SVD_r(W S) S^-1, S² = diag(weights)."""
    scale = weights.double().sqrt()
    return lambda matrix: cut(matrix * scale) / scale


def by_cholesky(rows: Tensor | None, columns: Tensor | None) -> Callable[[Tensor], Tensor]:
    """L_R^-T SVD_r(L_Rᵀ W L_C) L_C^-1 with Cholesky factors L: DRONE and SVD-LLM; with two metrics, K-FAC."""

    def best(matrix: Tensor) -> Tensor:
        left = torch.linalg.cholesky(rows) if rows is not None else torch.eye(len(matrix), dtype=torch.float64)
        right = torch.linalg.cholesky(columns) if columns is not None else torch.eye(matrix.shape[1], dtype=torch.float64)
        return torch.linalg.solve(left.T, cut(left.T @ matrix @ right)) @ right.inverse()

    return best


REFERENCES: dict[str, Callable[[ModuleStatistics], Callable[[Tensor], Tensor]]] = {
    "fwsvd_rows": lambda s: by_rows(s.fisher.double().sum(1)),
    "fwsvd_columns": lambda s: by_columns(s.fisher.double().sum(0)),
    "l1_sensitivity": lambda s: by_rows(s.sensitivity.double().sum(1)),
    "asvd": lambda s: by_columns(s.column_magnitude),
    "whitened": lambda s: by_cholesky(None, s.column_moment),
    "two_sided": lambda s: by_cholesky(s.row_moment, s.column_moment),
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [TALL, WIDE])
@pytest.mark.parametrize("preset", REFERENCES)
def test_a_preset_equals_its_formula(preset: str, shape: tuple[int, int], transposed: bool) -> None:
    matrix, hints = randn(*shape), one_member(*shape, transposed=transposed)
    weight = matrix.double().T if transposed else matrix.double()
    expected = REFERENCES[preset](hints.members[0])(weight)
    expected = expected.T if transposed else expected
    assert (fitted(matrix, hints, preset=preset) - expected).norm() <= 1e-6 * expected.norm()
    assert (cut(matrix.double()) - expected).norm() > 1e-2 * expected.norm(), "the plain SVD would pass as well"


@pytest.mark.parametrize("shape", [TALL, WIDE])
@pytest.mark.parametrize("shrinkage", [0.0, 0.2])
def test_overridden_sides_equal_the_two_sided_formula(shape: tuple[int, int], shrinkage: float) -> None:
    matrix, hints = randn(*shape), one_member(*shape)
    statistics = hints.members[0]

    def shrunk(moment: Tensor) -> Tensor:
        identity = torch.eye(len(moment), dtype=torch.float64)
        return (1 - shrinkage) * moment + shrinkage * moment.diagonal().mean() * identity

    full = shrunk(statistics.row_moment), shrunk(statistics.column_moment)
    narrow = tuple(torch.diag(moment.diagonal()) for moment in full)
    for row_metric, rows in (("none", None), ("diagonal", narrow[0]), ("full", full[0])):
        for column_metric, columns in (("none", None), ("diagonal", narrow[1]), ("full", full[1])):
            sides = {"row_metric": row_metric, "column_metric": column_metric, "shrinkage": shrinkage}
            found = fitted(matrix, hints, **sides)
            expected = by_cholesky(rows, columns)(matrix.double())
            assert (found - expected).norm() <= 1e-6 * expected.norm()
            assert torch.equal(fitted(matrix, hints, **sides, preset="two_sided"), found)


def test_directions_are_those_of_the_svd_of_unit_rows_at_the_lengths_of_the_rows() -> None:
    matrix = randn(*TALL) * torch.logspace(0, -3, TALL[0])[:, None]
    matrix[3] = 0
    found = fitted(matrix, preset="direction")
    norms = matrix.double().norm(dim=1, keepdim=True)
    units = torch.where(norms > 0, matrix / norms, 0.0)
    approximate = cut(units)
    lengths = approximate.norm(dim=1, keepdim=True)
    expected = torch.where(norms > 0, norms * approximate / lengths, 0.0)
    assert (found - expected).norm() <= 1e-6 * expected.norm()
    assert not found[3].any()
    torch.testing.assert_close(found.norm(dim=1, keepdim=True), norms, rtol=1e-5, atol=0)
    best = (units * expected / norms.clamp_min(1e-30)).sum(1).square().sum()  # Σ cos² of the directions
    plain = torch.nn.functional.cosine_similarity(matrix.double(), cut(matrix.double())).square().sum()
    assert best > plain + 1e-3


def test_row_norms_are_stored_and_counted() -> None:
    compressed = SVD(preset="direction").fit(randn(50, 30), Budget(700))
    assert compressed.size == (700 - 50) // 80
    assert compressed.stored.num_parameters == compressed.size * (50 + 30) + 50
    assert compressed.tensors["row_norms"].shape == (50,)


def test_rows_too_small_to_square_keep_their_direction() -> None:
    matrix = randn(*TALL)
    small = matrix * 1e-25
    torch.testing.assert_close(
        fitted(small, preset="direction") * 1e25, fitted(matrix, preset="direction"), rtol=1e-4, atol=1e-4
    )


def test_the_column_metric_of_stacked_members_is_the_mean_of_their_normalised_moments() -> None:
    matrix = randn(48, 16)
    members = [member_statistics(20, 16, 1), member_statistics(28, 16, 5)]
    loud = replace(members[1], column_moment=members[1].column_moment * 1e6)  # a layer with large activations
    mean = sum(m.column_moment / m.column_moment.diagonal().mean() for m in members)
    expected = by_cholesky(None, mean)(matrix.double())
    for second in (members[1], loud):
        found = fitted(matrix, SyntheticHints((20, 28), (False, False), [members[0], second]), preset="whitened")
        assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_in_a_mixed_stack_readers_weigh_the_columns_and_each_writer_its_own_rows() -> None:
    matrix = randn(50, 16)
    reader, writer = member_statistics(20, 16, 1), member_statistics(16, 30, 5)
    rows = torch.block_diag(torch.eye(20), writer.column_moment / writer.column_moment.diagonal().mean())
    expected = by_cholesky(rows.double(), reader.column_moment)(matrix.double())
    found = fitted(matrix, SyntheticHints((20, 30), (False, True), [reader, writer]), preset="whitened")
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_fisher_weights_keep_their_proportions_between_members() -> None:
    matrix = randn(48, 16)
    members = [member_statistics(20, 16, 1), member_statistics(28, 16, 5)]
    members[1] = replace(members[1], fisher=members[1].fisher * 50)
    weights = torch.cat([member.fisher.double().sum(1) for member in members])
    found = fitted(matrix, SyntheticHints((20, 28), (False, False), members), preset="fwsvd_rows")
    expected = by_rows(weights)(matrix.double())
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("preset", ["asvd", "whitened", "two_sided"])
def test_the_input_side_of_an_embedding_is_its_rows(preset: str) -> None:
    matrix = randn(60, 12)
    share = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share /= share.sum()
    hints = SyntheticHints((60,), (False,), [ModuleStatistics(100, row_moment=share)])
    expected = by_rows(share)(matrix.double())
    assert (fitted(matrix, hints, preset=preset) - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("transposed", [False, True])
def test_a_full_metric_of_an_embeddings_rows_is_that_of_its_tokens(transposed: bool) -> None:
    share = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shape = (12, 60) if transposed else (60, 12)
    hints = SyntheticHints((shape[0],), (transposed,), [ModuleStatistics(100, row_moment=share)])
    sides = group_metrics(hints, ("full", "none"), 0.0, torch.device("cpu"))
    (block,) = (sides[1] if transposed else sides[0]).blocks()
    assert block.vectors is None and len(block.values) == 60
    assert sides[0 if transposed else 1] is None


def test_tokens_that_never_occur_are_still_reconstructed() -> None:
    matrix = low_rank_matrix(60, 12, RANK)
    share = torch.zeros(60, dtype=torch.float64)
    share[:20] = 1 / 20
    hints = SyntheticHints((60,), (False,), [ModuleStatistics(100, row_moment=share)])
    torch.testing.assert_close(fitted(matrix, hints, preset="whitened").float(), matrix, rtol=0, atol=1e-3)


@pytest.mark.parametrize("preset", REFERENCES)
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_little_text_or_none_is_no_crash(preset: str, tokens: int) -> None:
    for shape in (TALL, WIDE):
        hints = synthetic_hints(*shape, tokens=max(tokens, 1))
        if tokens == 0:
            names = ("column_moment", "row_moment", "column_magnitude", "fisher", "sensitivity")
            zeros = [{name: torch.zeros_like(getattr(m, name)) for name in names} for m in hints.members]
            hints.members = [replace(m, **z) for m, z in zip(hints.members, zeros, strict=True)]
        found = fitted(randn(*shape), hints, preset=preset)
        assert found.isfinite().all()
        assert (found - randn(*shape)).norm() < 1.05 * randn(*shape).norm() or tokens
        if tokens == 0:
            assert (found - cut(randn(*shape).double())).norm() <= 1e-5 * found.norm()


@pytest.mark.parametrize("preset", ["fwsvd_rows", "whitened", "two_sided"])
def test_missing_or_foreign_hints_are_refused_in_a_sentence(preset: str) -> None:
    assert SVD(preset=preset).calibrated
    with pytest.raises(InputError, match="SVD with these options needs calibration text; provide some"):
        SVD(preset=preset).fit(randn(50, 30), Budget(700))
    with pytest.raises(InputError, match="hints are for 49 rows, but the matrix has 50"):
        SVD(preset=preset).fit(randn(50, 30), Budget(700), hints=synthetic_hints(49, 30))
    if preset != "whitened":
        bare = SyntheticHints((50,), (False,), [ModuleStatistics(9, column_moment=torch.eye(30))])
        with pytest.raises(InputError, match=r"the hints have no (fisher|row moment)"):
            SVD(preset=preset).fit(randn(50, 30), Budget(700), hints=bare)


def test_only_metrics_from_text_make_it_calibrated() -> None:
    assert not SVD().calibrated
    assert not SVD(preset="direction").calibrated
    assert SVD(column_metric="diagonal").calibrated
    assert not SVD(preset="whitened", column_metric="none").calibrated
    assert SVD(preset="fwsvd_rows").calibrated


def test_moments_that_are_not_finite_are_refused() -> None:
    hints = one_member(50, 30, column_moment=torch.full((30, 30), torch.nan))
    with pytest.raises(InputError, match="not finite"):
        SVD(preset="whitened").fit(randn(50, 30), Budget(700), hints=hints)


def test_the_notes_hold_condition_numbers_and_shrinkage() -> None:
    hints = one_member(50, 30)
    notes = SVD(preset="two_sided", shrinkage=0.1).fit(randn(50, 30), Budget(700), hints=hints).diagnostics
    assert set(notes) == {"row_condition", "column_condition", "shrinkage"}
    values = torch.linalg.eigvalsh(hints.members[0].column_moment)
    shrunk = 0.9 * values + 0.1 * values.mean()
    assert notes["column_condition"] == pytest.approx((shrunk[-1] / shrunk[0]).item(), rel=1e-6)
    assert SVD().fit(randn(50, 30), Budget(700)).diagnostics == {}
