"""Losses estimated from errors are compared with the known losses of made-up models."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from offcomp.models.catalogue import ModuleSpec
from offcomp.models.sources import bundled_info
from offcomp.results.score_curve import COVERAGE, Evidence, LossCurve, ScoreCurve, cross_validated, module_weights

SETTINGS, OTHER = "svd", "pruning"


@pytest.fixture(scope="module")
def modules() -> tuple[ModuleSpec, ...]:
    """The 24 linear weights of a small model."""
    info = bundled_info("offcomp-gpt")
    assert info
    return tuple(spec for spec in info.modules if spec.layer is not None)


def true_loss(errors: np.ndarray, modules: tuple[ModuleSpec, ...]) -> float:
    """Return the loss of a model in which only errors of the feed-forward weights matter, and whose loss saturates."""
    shares = np.array([spec.num_parameters * spec.kind.startswith("ffn") for spec in modules], dtype=float)
    return float(0.5 * (1 - np.exp(-2 * (shares / shares.sum()) @ errors**2)))


def measurements(modules: tuple[ModuleSpec, ...], count: int, noise: float, seed: int = 0) -> list[Evidence]:
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        kinds = generator.random(6) < 0.5
        names = sorted({spec.kind for spec in modules})
        chosen = np.array([kinds[names.index(spec.kind)] for spec in modules]) | (number % 4 == 0)
        errors = np.where(chosen, generator.uniform(0.05, 0.9), 0.0)
        if errors.any():
            loss = true_loss(errors, modules) + noise * generator.standard_normal()
            found.append(Evidence(errors, loss, noise, SETTINGS if number % 3 else OTHER))
    return found


@cache
def fitted(modules: tuple[ModuleSpec, ...], noise: float) -> ScoreCurve:
    """The curve fitted to 80 measurements with this noise."""
    return ScoreCurve.fit(measurements(modules, 80, noise), modules)


def test_modules_that_do_not_matter_get_little_weight(modules: tuple[ModuleSpec, ...]) -> None:
    weights = module_weights(measurements(modules, 60, 0.005), modules)
    of_ffn = sum(weight for weight, spec in zip(weights, modules, strict=True) if spec.kind.startswith("ffn"))
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    assert of_ffn > 0.9


def test_without_losses_weights_are_the_shares_of_parameters(modules: tuple[ModuleSpec, ...]) -> None:
    sizes = np.array([spec.num_parameters for spec in modules], dtype=float)
    even = [Evidence(np.full(len(modules), error), error**2, 0.01, SETTINGS) for error in np.linspace(0.1, 0.9, 20)]
    assert module_weights(even, modules) == pytest.approx(sizes / sizes.sum(), rel=0.3)


def test_estimates_are_monotonic_start_at_zero_and_are_close(modules: tuple[ModuleSpec, ...]) -> None:
    curve = fitted(modules, 0.002)
    estimates = [curve.estimate(np.full(len(modules), error), SETTINGS) for error in np.linspace(0, 0.85, 30)]
    losses = [estimate.loss for estimate in estimates if estimate]
    assert len(losses) == 30 and losses[0] == 0 and losses == sorted(losses)
    for error in (0.2, 0.4, 0.7):
        errors = np.full(len(modules), error)
        estimate = curve.estimate(errors, SETTINGS)
        assert estimate and estimate.loss == pytest.approx(true_loss(errors, modules), abs=0.02)


def test_nothing_is_extrapolated_far_beyond_the_measurements(modules: tuple[ModuleSpec, ...]) -> None:
    curve = fitted(modules, 0.002)
    assert curve.estimate(np.full(len(modules), 1.2), SETTINGS) is None
    one = np.zeros(len(modules))
    one[0] = 1.1
    assert curve.estimate(one, SETTINGS) is None, "no error of this module came close"


@pytest.mark.parametrize("noise", [0.002, 0.03])
def test_the_band_holds_about_nine_of_ten_new_measurements(modules: tuple[ModuleSpec, ...], noise: float) -> None:
    curve = fitted(modules, noise)
    new = measurements(modules, 200, noise, seed=1)
    estimates = [(each.loss, curve.estimate(each.errors, each.settings)) for each in new]
    within = [estimate.least <= loss <= estimate.most for loss, estimate in estimates if estimate]
    assert len(within) > 150
    assert COVERAGE - 0.12 < np.mean(within) <= 1


def test_more_noise_widens_the_band(modules: tuple[ModuleSpec, ...]) -> None:
    widths = []
    for noise in (0.002, 0.03):
        estimate = fitted(modules, noise).estimate(np.full(len(modules), 0.5), SETTINGS)
        assert estimate
        widths.append(estimate.most - estimate.least)
    assert widths[1] > 2 * widths[0]


def test_errors_that_are_estimates_widen_the_band_but_not_the_loss(modules: tuple[ModuleSpec, ...]) -> None:
    curve = fitted(modules, 0.002)
    exact, about = (curve.estimate(np.full(len(modules), 0.4), SETTINGS, uncertainty) for uncertainty in (0.0, 0.2))
    assert exact and about and about.loss == exact.loss
    assert about.most - about.least > 1.2 * (exact.most - exact.least)


def test_almost_equal_plans_are_left_out_together(modules: tuple[ModuleSpec, ...]) -> None:
    distinct = measurements(modules, 40, 0.002)
    copied = [Evidence(each.errors * 1.001, each.loss + 0.1, each.noise, each.settings) for each in distinct]
    alone, doubled = (cross_validated(evidence, modules)[1] for evidence in (distinct, [*distinct, *copied]))
    assert len(doubled) == 2 * len(distinct)
    curve = LossCurve.fit(distinct, modules)
    assert np.abs(alone - [each.loss for each in distinct]).mean() < 0.05
    assert curve.expected(0.0, SETTINGS) == 0
