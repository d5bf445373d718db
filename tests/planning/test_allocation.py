"""Allocating a budget over groups: never above it, never worse than uniform, close to exhaustive search, and invertible."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from offcomp.errors import BudgetTooSmall, InputError
from offcomp.models.loading import load
from offcomp.models.sources import bundled_info
from offcomp.planning.allocation import (
    _isotonic,
    allocated_plan,
    error_for_loss,
    smallest_total_for_error,
    uniform,
    waterfill,
    weights_for,
)
from offcomp.planning.error_curves import ErrorCurve, error_curve, svd_curve, svd_sizes, with_floor
from offcomp.planning.grouping import group_shape
from offcomp.planning.plan import Group, Plan, make_groups, members
from offcomp.planning.sizes import dtype_of, predict, predict_group
from offcomp.planning.spectra import find
from offcomp.planning.spectrum import MatrixSpectrum
from offcomp.runs.compress import compress_group
from offcomp.runs.measured_curve import measured_curve
from tests.planning.test_spectra import NOWHERE
from tests.test_layers import loaded_by

INFO = bundled_info("minilm-l6")
assert INFO is not None
SPECS = [spec for spec in INFO.modules if spec.default and spec.layer is not None]
EACH = Plan(model="minilm-l6", groups=make_groups(SPECS, "module"))


def group_spectrum(group: Group) -> MatrixSpectrum:
    specs = members(group, INFO)
    values = find(INFO, specs, group.stack, NOWHERE)
    assert values is not None
    return MatrixSpectrum(*group_shape(specs, group.stack), values)


def curves_of(plan: Plan, unit: str = "parameters") -> list[ErrorCurve]:
    return [svd_curve(group.name, group_spectrum(group), unit=unit, dtype=dtype_of(group, INFO)) for group in plan.groups]


@dataclass(frozen=True)
class Drawn:
    """Tiny error curves: those of SVD, from (rows, cols, singular values), and arbitrary ones, from points (size, error)."""

    svd: list[tuple[int, int, list[float]]]
    points: list[list[tuple[int, float]]]

    @property
    def curves(self) -> list[ErrorCurve]:
        made = []
        for rows, cols, values in self.svd:
            spectrum = np.sort(np.array(values[: min(rows, cols)], dtype=np.float32))[::-1]
            made.append(svd_curve(f"g{len(made)}", MatrixSpectrum(rows, cols, spectrum)))
        for points in self.points:
            sizes, errors = zip(*points, strict=True)
            made.append(error_curve(f"g{len(made)}", sizes, errors, energy=10.0, original=60))
        return made


SIDES = st.integers(2, 9)
MATRICES = st.tuples(SIDES, SIDES, st.lists(st.floats(0.01, 9), min_size=9, max_size=9))
POINTS = st.lists(st.tuples(st.integers(1, 50), st.floats(0, 9)), min_size=1, max_size=6)
TINY = st.builds(Drawn, st.lists(MATRICES, min_size=2, max_size=3), st.just([]))
ANY = st.one_of(TINY, st.builds(Drawn, st.lists(MATRICES, max_size=1), st.lists(POINTS, min_size=1, max_size=3)))
WEIGHTINGS = st.sampled_from(["relative", "frobenius"])


def brute_force(curves: list[ErrorCurve], total: int, weights: np.ndarray) -> float:
    """The smallest objective of all combinations within the total."""
    best = np.inf
    for choice in product(*(range(len(curve.sizes)) for curve in curves)):
        points = list(zip(curves, choice, strict=True))
        if sum(curve.sizes[index] for curve, index in points) <= total:
            best = min(best, sum(w * curve.errors[index] for w, (curve, index) in zip(weights, points, strict=True)))
    return float(best)


def last_purchase(curves: list[ErrorCurve], weights: np.ndarray) -> float:
    """The largest gain of one step along a hull, which bounds how far the greedy search may be from the optimum."""
    steps = [w * -np.diff(curve.errors[curve.hull]) for w, curve in zip(weights, curves, strict=True)]
    return max((float(gains.max()) for gains in steps if gains.size), default=0.0)


# ------------------------------------------------------------------------------------------------------- the curves


def test_the_curve_of_svd_holds_every_rank_below_break_even_and_the_dense_matrix() -> None:
    spectrum = MatrixSpectrum(6, 4, np.array([4, 3, 2, 1], dtype=np.float32))
    curve = svd_curve("x", spectrum)
    assert curve.sizes.tolist() == [10, 20, 24]
    assert curve.errors.tolist() == [14.0, 5.0, 0.0]
    assert (curve.energy, curve.original, curve.is_dense) == (30.0, 24, True)
    assert svd_sizes((6, 4), "parameters", "float32").tolist() == [10, 20, 30, 40]
    assert svd_curve("x", spectrum, unit="bytes", dtype="float16").sizes.tolist() == [20, 40, 48]


def test_a_dense_matrix_above_the_original_is_no_candidate() -> None:
    """The group of a float16 checkpoint is stored in float32, so that its dense matrix would be larger than the original."""
    spectrum = MatrixSpectrum(6, 4, np.array([4, 3, 2, 1], dtype=np.float32))
    curve = svd_curve("x", spectrum, unit="bytes", dtype="float32", original_bytes=48)
    assert curve.sizes.tolist() == [40] and not curve.is_dense


def test_points_that_cost_more_for_nothing_are_left_out() -> None:
    curve = error_curve("x", [30, 10, 20, 20], [0.0, 5.0, 6.0, 2.0], energy=9, original=50, dense=40)
    assert curve.sizes.tolist() == [10, 20, 30] and curve.errors.tolist() == [5.0, 2.0, 0.0]
    assert not curve.is_dense


@pytest.mark.parametrize(("sizes", "errors"), [([], []), ([1], [-1.0]), ([-1], [1.0]), ([1], [float("nan")])])
def test_impossible_points_are_refused(sizes: list[int], errors: list[float]) -> None:
    with pytest.raises(InputError, match="error curve of 'x'"):
        error_curve("x", sizes, errors, energy=1, original=1)


@settings(derandomize=True, deadline=None)
@given(ANY)
def test_the_hull_lies_below_its_curve_and_turns_one_way(drawn: Drawn) -> None:
    for curve in drawn.curves:
        hull = curve.hull
        assert hull[0] == 0 and hull[-1] == len(curve.sizes) - 1
        below = np.interp(curve.sizes, curve.sizes[hull], curve.errors[hull])
        assert (below <= curve.errors + 1e-9).all()
        slopes = np.diff(curve.errors[hull]) / np.diff(curve.sizes[hull])
        assert (np.diff(slopes) > 0).all()


def test_floors_leave_out_small_points_but_never_all() -> None:
    curve = error_curve("x", [10, 20, 30], [3.0, 2.0, 1.0], energy=9, original=100)
    assert with_floor(curve, 0.15).sizes.tolist() == [20, 30]
    assert with_floor(curve, 0.2).sizes.tolist() == [20, 30]
    assert with_floor(curve, 0.9).sizes.tolist() == [30]
    assert with_floor(curve, 0.0).sizes.tolist() == [10, 20, 30]
    for outside in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            with_floor(curve, outside)


# ------------------------------------------------------------------------------------------------------- water-filling


@settings(derandomize=True, deadline=None, max_examples=200)
@given(ANY, st.floats(0, 1.1), WEIGHTINGS)
def test_water_filling_keeps_to_its_total_and_is_as_good_as_trying_everything(
    drawn: Drawn, share: float, weighting: str
) -> None:
    curves = drawn.curves
    weights = weights_for(curves, weighting)
    least, most = (sum(int(curve.sizes[end]) for curve in curves) for end in (0, -1))
    total = int(least + share * (most - least))
    found = waterfill(curves, total, weights)
    assert found.total <= total
    best = brute_force(curves, total, weights)
    assert best - 1e-9 <= found.objective <= best + last_purchase(curves, weights) + 1e-9
    assert found.objective == pytest.approx(np.dot(weights, found.errors))
    assert waterfill(curves, total, weights).sizes == found.sizes


@settings(derandomize=True, deadline=None, max_examples=200)
@given(ANY, st.floats(0, 1.1), WEIGHTINGS)
def test_water_filling_is_never_worse_than_uniform(drawn: Drawn, share: float, weighting: str) -> None:
    curves = drawn.curves
    weights = weights_for(curves, weighting)
    total = int(share * sum(curve.original for curve in curves))
    try:
        same = uniform(curves, total, weights)
    except BudgetTooSmall:
        return
    assert same.total <= total
    assert waterfill(curves, total, weights).objective <= same.objective


@settings(derandomize=True, deadline=None)
@given(TINY, WEIGHTINGS)
def test_everything_is_bought_where_the_total_is_enough(drawn: Drawn, weighting: str) -> None:
    curves = drawn.curves
    total = sum(curve.original for curve in curves)
    assert waterfill(curves, total, weights_for(curves, weighting)).errors == (0.0,) * len(curves)


@pytest.mark.parametrize("weighting", ["relative", "frobenius"])
@pytest.mark.parametrize("ratio", [1.5, 2, 5, 10, 50])
def test_on_minilm_water_filling_beats_uniform_within_the_same_total(ratio: float, weighting: str) -> None:
    curves = curves_of(EACH)
    weights = weights_for(curves, weighting)
    total = int(sum(curve.original for curve in curves) / ratio)
    found, same = waterfill(curves, total, weights), uniform(curves, total, weights)
    assert found.total <= total and same.total <= total
    assert found.relative_error < same.relative_error


def test_uniform_is_what_a_plan_with_one_ratio_stores() -> None:
    plan = EACH.replace(groups=tuple(group.replace(ratio=3.0) for group in EACH.groups))
    curves = curves_of(plan)
    original = sum(curve.original for curve in curves)
    same = uniform(curves, original // 3, weights_for(curves))
    assert same.sizes == tuple(group.num_parameters for group in predict(plan, INFO).groups)


def test_floors_are_kept_and_may_be_too_much() -> None:
    curves = curves_of(EACH)
    total = sum(curve.original for curve in curves) // 10
    free = waterfill(curves, total, weights_for(curves, "frobenius"))
    fraction = [size / curve.original for size, curve in zip(free.sizes, curves, strict=True)]
    assert min(fraction) < 0.04  # without a floor, matrices of small norm get almost nothing
    floored = [with_floor(curve, 0.05) for curve in curves]
    found = waterfill(floored, total, weights_for(curves, "frobenius"))
    assert found.total <= total
    assert min(size / curve.original for size, curve in zip(found.sizes, curves, strict=True)) >= 0.05
    assert found.objective >= free.objective
    with pytest.raises(BudgetTooSmall, match=r"together need at least .*, but the total is"):
        waterfill([with_floor(curve, 0.2) for curve in curves], total, weights_for(curves))


def test_a_share_below_the_smallest_point_is_named() -> None:
    curves = [error_curve(name, [40], [1.0], energy=2, original=100) for name in ("one", "two")]
    with pytest.raises(BudgetTooSmall, match="group 'one' needs at least 40, but its share of the total is 39"):
        uniform(curves, 78, weights_for(curves))


def test_weights_make_errors_comparable() -> None:
    small = error_curve("small", [10], [1.0], energy=1.0, original=20, dense=20)
    large = error_curve("large", [10, 20], [9.0, 8.0], energy=100.0, original=20)
    sensitive = {"small": 1.0, "large": 200.0}
    assert weights_for([small, large], "relative").tolist() == [1.0, 0.01]
    assert weights_for([small, large], "frobenius", sensitive).tolist() == [1.0, 200.0]
    assert waterfill([small, large], 30, weights_for([small, large])).sizes == (20, 10)
    assert waterfill([small, large], 30, weights_for([small, large], "relative", sensitive)).sizes == (10, 20)
    with pytest.raises(InputError, match="unknown weighting 'loss'"):
        weights_for([small], "loss")
    for bad in ({}, {"small": 0.0}, {"small": float("nan")}):
        with pytest.raises(InputError, match="sensitivity of 'small' is"):
            weights_for([small], "relative", bad)


def test_groups_without_weight_are_no_trouble() -> None:
    zeros = svd_curve("zeros", MatrixSpectrum(4, 4, np.zeros(4, dtype=np.float32)))
    found = waterfill([zeros], 16, weights_for([zeros]))
    assert found.relative_error == 0.0 and found.total == 8


# ---------------------------------------------------------------------------------------------------- inverse problems


@settings(derandomize=True, deadline=None)
@given(ANY, st.floats(0, 1.2), WEIGHTINGS)
def test_the_smallest_total_for_an_error_reaches_it_and_gives_it_back(drawn: Drawn, error: float, weighting: str) -> None:
    curves = drawn.curves
    weights = weights_for(curves, weighting)
    best = waterfill(curves, sum(int(curve.sizes[-1]) for curve in curves), weights).relative_error
    if error < best:
        with pytest.raises(InputError, match="cannot be reached"):
            smallest_total_for_error(curves, error, weights)
        return
    found = smallest_total_for_error(curves, error, weights)
    assert found.relative_error <= error
    assert waterfill(curves, found.total, weights).relative_error <= error
    least = sum(int(curve.sizes[0]) for curve in curves)
    if found.total > least:
        assert waterfill(curves, found.total - 1, weights).relative_error > error


def test_sizes_and_errors_are_inverse_to_each_other_on_minilm() -> None:
    curves = curves_of(EACH)
    original = sum(curve.original for curve in curves)
    for ratio in (2, 5):
        there = waterfill(curves, original // ratio, weights_for(curves))
        back = smallest_total_for_error(curves, there.relative_error, weights_for(curves))
        assert back.total <= there.total
        assert back.total == pytest.approx(there.total, rel=1e-3)


def test_the_error_for_a_loss_is_read_off_the_measured_runs() -> None:
    measured = [(0.1, 0.0), (0.3, 0.02), (0.5, 0.10)]
    assert error_for_loss(measured, 0.02) == pytest.approx(0.3)
    assert error_for_loss(measured, 0.01) == pytest.approx(0.2)
    assert error_for_loss(measured, 0.10) == pytest.approx(0.5)
    assert error_for_loss(measured[::-1], 0.06) == pytest.approx(0.4)


def test_losses_that_fall_are_averaged_and_equal_errors_too() -> None:
    assert error_for_loss([(0.1, 0.0), (0.2, 0.03), (0.3, 0.01), (0.4, 0.08)], 0.02) == pytest.approx(0.3)
    assert error_for_loss([(0.1, 0.01), (0.1, -0.01), (0.2, 0.1)], 0.05) == pytest.approx(0.15)


@pytest.mark.parametrize("loss", [-0.001, 0.11, float("nan")])
def test_a_loss_that_was_not_measured_is_refused(loss: float) -> None:
    with pytest.raises(InputError, match=r"outside the measured range, 0 to 0\.1"):
        error_for_loss([(0.1, 0.0), (0.3, 0.1)], loss)


@pytest.mark.parametrize("measured", [[], [(0.1, 0.2)], [(0.1, 0.2), (0.1, 0.3)], [(0.1, 0.2), (0.2, float("nan"))]])
def test_too_few_runs_are_refused(measured: list[tuple[float, float]]) -> None:
    with pytest.raises(InputError, match="at least two with finite losses are needed"):
        error_for_loss(measured, 0.2)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-1, 1)), min_size=2, max_size=12, unique_by=lambda pair: pair[0]))
def test_a_larger_loss_never_allows_less_error(measured: list[tuple[float, float]]) -> None:
    losses = []
    for loss in np.linspace(-1, 1, 21):
        try:
            losses.append(error_for_loss(measured, float(loss)))
        except InputError:
            continue
    assert losses == sorted(losses)


# ------------------------------------------------------------------------------------------------------------- as a plan


@pytest.mark.parametrize(
    ("unit", "dtype"), [("parameters", "float32"), ("bytes", "float32"), ("bytes", "float16"), ("bytes", "int8")]
)
def test_the_plan_stores_what_was_allocated(unit: str, dtype: str) -> None:
    plan = EACH.replace(groups=tuple(group.replace(dtype=dtype) for group in EACH.groups))
    curves = curves_of(plan, unit)
    found = waterfill(curves, int(sum(curve.original for curve in curves) / 2.7), weights_for(curves))
    made = allocated_plan(plan, found, INFO, unit)
    predicted = [predict_group(group, INFO) for group in made.groups]
    assert tuple(getattr(group, f"num_{unit}") for group in predicted) == found.sizes
    assert all(group.form != "infeasible" for group in predicted)
    assert {group.unit for group in made.groups} == {unit}
    assert Plan.from_json(made.to_json()) == Plan.from_dict(made.to_dict())


def test_a_dense_group_stays_dense_in_the_plan() -> None:
    plan = Plan(model="minilm-l6", groups=EACH.groups[:2])
    curves = curves_of(plan)
    found = waterfill(curves, sum(curve.original for curve in curves), weights_for(curves))
    assert [predict_group(group, INFO).form for group in allocated_plan(plan, found, INFO, "parameters").groups] == [
        "dense"
    ] * 2


def test_an_allocation_of_other_groups_or_other_sizes_is_refused() -> None:
    plan = Plan(model="minilm-l6", groups=EACH.groups[:2])
    found = waterfill(curves_of(plan), 10**6, weights_for(curves_of(plan)))
    with pytest.raises(InputError, match="which do not match those in the plan"):
        allocated_plan(plan.replace(groups=plan.groups[::-1]), found, INFO, "parameters")
    with pytest.raises(InputError, match="cannot be stored in exactly 1001 parameters"):
        allocated_plan(plan, replace(found, sizes=(1001, found.sizes[1])), INFO, "parameters")


def test_methods_without_a_spectrum_take_part_by_measured_curves() -> None:
    loaded = load("minilm-l6")
    coded = Group(name="coded", modules=("key.0",), method="kronecker")
    plan = Plan(model="minilm-l6", groups=(coded, Group(name="plain", modules=("query.0",))))
    curves = [measured_curve(loaded.model, loaded.info, coded, [2, 5, 20], unit="parameters"), curves_of(plan)[1]]
    assert curves[0].original == 384 * 384 and curves[0].is_dense and len(curves[0].sizes) == 4
    found = waterfill(curves, 384 * 384, weights_for(curves))
    made = allocated_plan(plan, found, INFO, "parameters")
    figures = [compress_group(loaded.model, loaded.info, group).figures for group in made.groups]
    assert tuple(each.num_parameters for each in figures) == found.sizes
    for each, error in zip(figures, found.errors, strict=True):
        assert each.relative_error**2 * each.squared_norm == pytest.approx(error, rel=1e-4, abs=1e-6)


def test_a_method_that_reaches_no_ratio_is_named() -> None:
    loaded = load("minilm-l6")
    with pytest.raises(InputError, match="'x' cannot reach any of the ratios 500, 1000"):
        measured_curve(loaded.model, loaded.info, Group(name="x", modules=("key.0",)), [500, 1000], unit="parameters")


def test_allocating_loads_no_torch() -> None:
    assert loaded_by("import offcomp.planning.allocation, offcomp.planning.merge_search, offcomp.cli.allocate") == []


@pytest.mark.parametrize("seed", range(6))
def test_losses_that_fall_are_averaged_as_isotonic_regression_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    errors = np.repeat(np.linspace(0.1, 0.9, 12), random.integers(1, 4, 12))
    measured = random.permutation(np.stack([errors, random.normal(0.1 * errors, 0.05)], axis=1))
    found, losses = _isotonic([(error, loss) for error, loss in measured])
    np.testing.assert_allclose(losses, IsotonicRegression().fit(*measured.T).predict(found), atol=1e-12)
