"""Finding modules that gain from a joint matrix: errors equal those of direct SVDs, and merging stops when it gains nothing."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from offcomp.errors import BudgetTooSmall
from offcomp.models import weights
from offcomp.models.catalogue import ModuleSpec
from offcomp.models.loading import load
from offcomp.planning.grams import Grams
from offcomp.planning.grouping import STACKS, group_shape
from offcomp.planning.merge_search import all_pairs, merge_steps, merged, survey
from offcomp.planning.merge_survey import Suggestion, Survey, best_cut, groups_after
from offcomp.runs.compress import stack
from tests.minilm import minilm_info
from tests.planning.test_grams import random_matrix, spec

RATIO = 2.0


def truncated(matrix: Tensor, budget: int) -> tuple[float, int]:
    """(squared error, stored parameters) of the approximation by a direct SVD within a budget."""
    rows, cols = matrix.shape
    if rows * cols <= budget:
        return 0.0, rows * cols
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    rank = budget // (rows + cols)
    approximation = (left[:, :rank] * values[:rank]) @ right[:rank]
    return (matrix.double() - approximation).square().sum().item(), rank * (rows + cols)


def by_brute_force(matrices: dict[ModuleSpec, Tensor], stacking: str, ratio: float) -> tuple[float, float]:
    """(separate, joint) relative errors, from SVDs of the matrices themselves."""
    separate = [truncated(matrix, int(matrix.numel() / ratio)) for matrix in matrices.values()]
    joint, stored = truncated(stack(matrices, stacking), sum(size for _, size in separate))
    assert stored <= sum(size for _, size in separate)
    energy = sum(matrix.double().square().sum().item() for matrix in matrices.values())
    return (sum(error for error, _ in separate) / energy) ** 0.5, (joint / energy) ** 0.5


def low_rank_matrix(rows: int, cols: int, basis: Tensor, seed: int) -> Tensor:
    """A matrix whose rows lie nearly in the span of `basis` (rank, cols)."""
    noise = 0.05 * random_matrix(rows, cols, seed + 100)
    return random_matrix(rows, len(basis), seed) @ basis + noise


def together(matrices: dict[ModuleSpec, Tensor], stacking: str, ratio: float) -> Suggestion:
    """The suggestion to join all matrices in this stacking, compared with each matrix alone."""
    found = survey(Grams(matrices.__getitem__), minilm_info(), list(matrices), ratio).together
    return next(each for each in found if each.stack == stacking)


def test_every_pair_of_a_kind_has_the_errors_of_direct_decompositions() -> None:
    loaded = load("minilm-l6")
    specs = [member for member in loaded.info.modules if member.kind == "attention_output"]
    matrices = {member: weights.read(loaded.model, member) for member in specs}
    found = {(pair.modules, pair.stack): pair for pair in all_pairs(Grams.of_model(loaded.model), specs, RATIO)}
    assert len(found) == 15 * 2  # "residual" equals one of the two stackings
    for pair in combinations(specs, 2):
        for stacking in ("rows", "columns"):
            separate, joint = by_brute_force({member: matrices[member] for member in pair}, stacking, RATIO)
            suggestion = found[tuple(member.name for member in pair), stacking]
            assert suggestion.separate_error == pytest.approx(separate, abs=1e-6)
            assert suggestion.joint_error == pytest.approx(joint, abs=1e-6)
            assert suggestion.gain == pytest.approx(separate - joint, abs=2e-6)


@pytest.mark.parametrize("ratio", [1.0, 1.4, 3.0, 5.0])
@pytest.mark.parametrize("stacking", STACKS)
def test_mixed_groups_have_the_errors_of_direct_decompositions(stacking: str, ratio: float) -> None:
    kinds = ("query", "attention_output", "ffn_in", "ffn_out")
    shapes = {"rows": [(20, 16), (9, 16)], "columns": [(16, 20), (16, 9)], "residual": [(20, 16), (16, 20), (40, 16), (16, 40)]}
    members = [spec(0, *shape, kind=kind) for shape, kind in zip(shapes[stacking], kinds, strict=False)]
    matrices = {member: random_matrix(*member.shape, seed=index) for index, member in enumerate(members)}
    found = together(matrices, stacking, ratio)
    separate, joint = by_brute_force(matrices, stacking, ratio)
    assert (found.separate_error, found.joint_error) == (pytest.approx(separate, abs=1e-6), pytest.approx(joint, abs=1e-6))


def test_the_joint_matrix_never_stores_more_than_the_separate_ones() -> None:
    members = [spec(index, 13, 11) for index in range(3)]
    matrices = {member: random_matrix(13, 11, seed) for seed, member in enumerate(members)}
    for ratio in (1.2, 2.0, 4.0):
        found = together(matrices, "rows", ratio)
        rank = int(13 * 11 / ratio) // 24
        assert found.stored_parameters == 3 * rank * 24 <= 3 * 13 * 11 / ratio


def test_members_with_one_basis_gain_and_strangers_lose() -> None:
    basis = random_matrix(5, 24, 1)
    alike = [spec(index, 24, 24) for index in range(2)]
    stranger = spec(2, 24, 24)
    matrices = {member: low_rank_matrix(24, 24, basis, index) for index, member in enumerate(alike)}
    matrices[stranger] = low_rank_matrix(24, 24, random_matrix(5, 24, 50), 9)
    best, *others = all_pairs(Grams(matrices.__getitem__), list(matrices), 3.0)
    assert (best.modules, best.stack) == (("query.0", "query.1"), "rows")
    assert best.gain > 0.1
    assert max(other.gain for other in others) < 0
    assert "one basis for their 24-dimensional input space" in best.reason and "falls from" in best.reason
    assert "rises from" in others[-1].reason


def test_merging_finds_planted_groups_and_leaves_the_others_alone() -> None:
    matrices: dict[ModuleSpec, Tensor] = {}
    for group, members in enumerate([(0, 1, 2), (3, 4)]):
        basis = random_matrix(5, 24, 40 + group)
        for index in members:
            matrices[spec(index, 24, 24)] = low_rank_matrix(24, 24, basis, index)
    output = [spec(index, 24, 30, kind="attention_output") for index in (5, 6)]
    shared = random_matrix(5, 24, 77)
    matrices |= {member: low_rank_matrix(30, 24, shared, member.layer or 0).T for member in output}
    matrices[spec(7, 24, 24)] = random_matrix(24, 24, 7)
    found = merged(Grams(matrices.__getitem__), list(matrices), 3.0, threshold=0.02)
    groups = {frozenset(each.modules): each.stack for each in found}
    assert groups == {
        frozenset({"query.0", "query.1", "query.2"}): "rows",
        frozenset({"query.3", "query.4"}): "rows",
        frozenset({"attention_output.5", "attention_output.6"}): "columns",
    }
    assert [each.gain for each in found] == sorted((each.gain for each in found), reverse=True)
    assert all(each.gain > 0.02 for each in found)


def test_a_threshold_that_nothing_reaches_suggests_nothing() -> None:
    matrices = {spec(index, 12, 12): random_matrix(12, 12, index) for index in range(4)}
    assert merged(Grams(matrices.__getitem__), list(matrices), 3.0, threshold=1.0) == []
    assert merged(Grams(matrices.__getitem__), list(matrices)[:1], 3.0) == []


def test_what_is_merged_can_be_stacked_and_no_module_is_in_two_groups() -> None:
    loaded = load("minilm-l6")
    specs = [
        member for member in loaded.info.modules if member.kind in ("query", "attention_output") and member.layer in (0, 1)
    ]
    found = merged(Grams.of_model(loaded.model), specs, RATIO, threshold=0.0)
    names = [name for each in found for name in each.modules]
    assert len(names) == len(set(names)) > 1
    for each in found:
        assert group_shape([loaded.info.module(name) for name in each.modules], each.stack)[1] == each.cols
        assert each.gain > 0


def test_a_module_that_cannot_reach_the_ratio_is_named() -> None:
    members = [spec(0, 4, 4), spec(1, 30, 4)]
    matrices = {member: random_matrix(*member.shape, seed=0) for member in members}
    with pytest.raises(
        BudgetTooSmall, match=r"rank 1 of query.0 \(4, 4\) has 8 parameters, too many at ratio 3; lower the ratio"
    ):
        all_pairs(Grams(matrices.__getitem__), members, 3.0)


def test_a_suggestion_is_json_with_its_gain_and_reason() -> None:
    made = Suggestion(("a", "b"), "rows", 2.0, 1000, 0.5, 0.45, 16)
    document = made.to_dict()
    assert document["modules"] == ["a", "b"] and document["gain"] == pytest.approx(0.05)
    assert document["reason"] == (
        "Stacked by rows, the modules share one basis for their 16-dimensional input space: the relative error falls from "
        "0.500 to 0.450 with the same 1,000 parameters."
    )


def test_matrices_of_zeros_suggest_nothing() -> None:
    matrices = {spec(index, 8, 8): torch.zeros(8, 8) for index in range(2)}
    assert [pair.gain for pair in all_pairs(Grams(matrices.__getitem__), list(matrices), 2.0)] == [0.0, 0.0]


def test_a_survey_has_every_pair_the_whole_and_all_merges_of_minilm() -> None:
    loaded = load("minilm-l6")
    specs = [member for member in loaded.info.modules if member.kind == "attention_output"]
    found = survey(Grams.of_model(loaded.model), loaded.info, specs, RATIO)
    whole = {each.stack: (round(each.separate_error, 3), round(each.joint_error, 3)) for each in found.together}
    assert whole == {"rows": (0.519, 0.583), "columns": (0.519, 0.500), "residual": (0.519, 0.500)}
    assert len(found.pairs) == 3 * 15
    assert set(found.merges) == {"best", "rows", "columns", "residual"}
    steps = found.merges["best"]
    assert [step.parts for step in steps][:3] == [(1, 2), (3, 4), (6, 7)]
    assert steps[-1].error == pytest.approx(whole["columns"][1], abs=5e-4)
    assert steps[-1].gain < 0 < steps[-2].gain
    assert best_cut(found, "best") == 4
    (group,) = groups_after(steps, 4, 6)
    assert group.modules == tuple(f"attention_output.{layer}" for layer in range(1, 6))
    assert Survey.from_dict(found.to_dict()) == found
    compact = Survey.from_dict(found.to_dict(compact=True))
    assert compact.pairs[0].gain == pytest.approx(found.pairs[0].gain, abs=2e-6)
    assert all(step.gain <= 0 for step in found.merges["rows"])


def test_merges_go_on_to_the_last_that_fits_and_their_errors_add_up() -> None:
    matrices = {spec(index, 12, 12): random_matrix(12, 12, index) for index in range(4)}
    matrices[spec(4, 7, 30)] = random_matrix(7, 30, 9)
    grams = Grams(matrices.__getitem__)
    steps = merge_steps(grams, list(matrices), 3.0)
    assert [step.parts[0] < step.parts[1] < 5 + n for n, step in enumerate(steps)] == [True] * 3
    assert not any(4 in step.parts for step in steps)
    whole = together({member: matrices[member] for member in list(matrices)[:4]}, steps[-1].joint.stack, 3.0)
    assert steps[-1].joint == whole
