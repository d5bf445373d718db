"""Estimates how much of a score is lost at given errors of the weights, from measurements on the same model and task.

    loss ≈ f(ε),   ε² = Σ_m a_m e_m² / Σ_m a_m

e_m is the relative error of module m (0 if it is not compressed), and a_m says how much the task depends on it: a non-negative
weight, learnt from the measurements and shrunk towards a multiple of the number of parameters. f(ε) / ε² is fitted by local
linear regression on log ε, with its slope shrunk towards zero; f is made monotonic by isotonic regression, and f(0) is 0.
Measurements with other methods or options get a twentieth of the weight.

The band combines the sampling noise of the measured differences with the errors of the curve itself; both are scaled so that
nine in ten cross-validated residuals lie within the band. Measurements of almost the same plan are held out together.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from offcomp.models.catalogue import ModuleSpec
from offcomp.numerics.least_squares import isotonic_regression, non_negative_least_squares

Vector = NDArray[np.float64]
COVERAGE = 0.9
FOLDS = 10
SMOOTHING = 0.3
"""Standard deviation, in natural logarithms of the error, of the Gaussian kernel that averages measurements."""
RIDGE = 0.02
"""How strongly the local slopes are shrunk towards zero, in squared natural logarithms of the error."""
OTHER_SETTINGS = 0.05
"""Weight of a measurement with a different method or different options."""
SHRINKAGE = 0.2
"""How strongly the modules' weights are shrunk towards their numbers of parameters."""
SPREAD = 0.3
"""Assumed relative spread of losses at the same error, which keeps large losses from dominating the fit."""
BEYOND = 1.05
"""Estimates extend beyond the largest measured error by up to this factor."""
BEYOND_OF_A_MODULE = 1.15
"""Like BEYOND, but for the largest measured error of a single module."""
SMALLEST = 1e-3
"""Smallest error on the grid of `LossCurve`."""
GRID = 120
RELATIVE_SPREADS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
ABSOLUTE_SPREADS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True, eq=False)
class Evidence:
    """One measurement.

    errors      (modules,) relative error of each module of the model; 0 where nothing was compressed
    loss        how much worse the score is than the original's; negative if it is better
    noise       standard error of `loss`
    settings    identifies the method and its options
    """

    errors: Vector
    loss: float
    noise: float
    settings: str


@dataclass(frozen=True)
class Estimate:
    """An expected loss, and the band (`least` to `most`) that should contain nine in ten measured losses.

    error       the effective error ε
    """

    loss: float
    least: float
    most: float
    error: float


@dataclass(frozen=True, eq=False)
class LossCurve:
    """Expected losses.

    weights     (modules,) a_m, with sum 1
    """

    evidence: tuple[Evidence, ...]
    weights: Vector

    @staticmethod
    def fit(evidence: Sequence[Evidence], modules: Sequence[ModuleSpec], shrinkage: float = SHRINKAGE) -> LossCurve:
        """Fit the weights of the modules; see `module_weights`."""
        return LossCurve(tuple(evidence), module_weights(evidence, modules, shrinkage))

    @cached_property
    def errors(self) -> Vector:
        """(measurements,) ε of each measurement."""
        return np.sqrt(np.array([each.errors for each in self.evidence]) ** 2 @ self.weights)

    @cached_property
    def losses(self) -> Vector:
        """(measurements,) the loss of each measurement."""
        return np.array([each.loss for each in self.evidence])

    @cached_property
    def noise(self) -> Vector:
        """(measurements,) the standard error of each loss."""
        return np.array([each.noise for each in self.evidence])

    def largest_errors(self, settings: str) -> Vector:
        """(modules,) the largest measured error of each module, with these settings if any were measured, otherwise with any.

        Modules that were never compressed get the largest error of any module.
        """
        same = [each.errors for each in self.evidence if each.settings == settings]
        largest = np.max(same or [each.errors for each in self.evidence], axis=0)
        return np.where(largest > 0, largest, largest.max())

    def effective(self, errors: Vector) -> float:
        """ε of a plan whose modules have these errors."""
        return float(np.sqrt(errors**2 @ self.weights))

    def expected(self, error: float, settings: str) -> float:
        """The expected loss at an effective error."""
        return float(np.interp(error, *_levels(self, settings)))

    def expected_noise(self, error: float, settings: str) -> float:
        """The standard error that a measurement at this effective error is expected to have."""
        kernel = _kernel(self, np.array([max(error, SMALLEST)]), settings)[0]
        rate = np.sum(kernel * self.noise**2 / self.errors) / np.sum(kernel)  # the variance grows with the number of flips
        return float(np.sqrt(rate * error))


@lru_cache(maxsize=256)
def _levels(curve: LossCurve, settings: str) -> tuple[Vector, Vector]:
    """A grid of effective errors, and the expected loss at each."""
    grid = np.geomspace(SMALLEST, BEYOND * curve.errors.max(), GRID)
    rates = curve.losses / curve.errors**2
    typical = SPREAD * np.median(np.abs(rates)) + 1e-12
    kernel = _kernel(curve, grid, settings) / ((curve.noise / curve.errors**2) ** 2 + typical**2)
    kernel /= kernel.sum(1, keepdims=True)
    distances = np.log(curve.errors) - np.log(grid)[:, None]
    centre, mean = (kernel * distances).sum(1), kernel @ rates
    centred = kernel * (distances - centre[:, None])
    slopes = (centred * (rates - mean[:, None])).sum(1) / ((centred * distances).sum(1) + RIDGE)
    losses = (mean - slopes * centre) * grid**2
    return np.append(0.0, grid), isotonic_regression(np.append(0.0, np.maximum(losses, 0.0)))


def _kernel(curve: LossCurve, grid: Vector, settings: str) -> Vector:
    """(grid, measurements) how much each measurement counts at each error."""
    distances = (np.log(grid)[:, None] - np.log(curve.errors)) / SMOOTHING
    same = np.array([each.settings == settings for each in curve.evidence])
    return (np.exp(-0.5 * distances**2) + 1e-12) * np.where(same, 1.0, OTHER_SETTINGS)


def module_weights(evidence: Sequence[Evidence], modules: Sequence[ModuleSpec], shrinkage: float = SHRINKAGE) -> Vector:
    """(modules,) how much the score depends on each module, with sum 1: non-negative least squares, shrunk towards the sizes.

    A module's weight is its number of parameters times a sum of four factors: a common one, one for its kind, one for its
    layer, and its own. With infinite `shrinkage`, only the common factor remains.
    """
    sizes = np.array([spec.num_parameters for spec in modules], dtype=np.float64)
    sizes /= sizes.sum()
    if shrinkage == inf:
        return sizes
    factors, penalties = _factors(modules)
    squared = np.array([each.errors for each in evidence]) ** 2
    losses = np.maximum([each.loss for each in evidence], 0.0)
    noise = np.array([each.noise for each in evidence])
    precision = 1 / np.sqrt(noise**2 + (SPREAD * losses) ** 2 + SMALLEST**2)
    scale = float(np.median(losses / (squared @ sizes))) + SMALLEST
    rows = (squared * sizes) @ factors * precision[:, None]
    penalty = np.diag(shrinkage / scale * penalties)
    target = np.append(losses * precision, np.zeros(len(penalties)))
    found = non_negative_least_squares(np.vstack([rows, penalty]), target)
    weights = sizes * (factors @ found + SMALLEST * scale)
    return weights / weights.sum()


def _factors(modules: Sequence[ModuleSpec]) -> tuple[Vector, Vector]:
    """(modules, factors) which factors apply to each module, and (factors,) their penalties."""
    kinds, layers = (list(dict.fromkeys(getattr(spec, name) for spec in modules)) for name in ("kind", "layer"))
    of_kind = np.array([[spec.kind == kind for kind in kinds] for spec in modules], dtype=np.float64)
    of_layer = np.array([[spec.layer == layer for layer in layers] for spec in modules], dtype=np.float64)
    factors = np.hstack([np.ones((len(modules), 1)), of_kind, of_layer, np.eye(len(modules))])
    penalties = np.concatenate([[1e-6], np.ones(len(kinds)), np.ones(len(layers)), np.full(len(modules), 2.0)])
    return factors, penalties


@dataclass(frozen=True, eq=False)
class ScoreCurve:
    """Expected losses and their bands.

    relative, absolute      spread of the curve itself: as a share of the expected loss, and of the effective error
    quantile                number of combined standard deviations within which nine in ten residuals lie
    """

    curve: LossCurve
    relative: float
    absolute: float
    quantile: float

    @staticmethod
    def fit(evidence: Sequence[Evidence], modules: Sequence[ModuleSpec]) -> ScoreCurve:
        """Fit the curve, and derive the band from cross-validated residuals."""
        errors, expected = cross_validated(evidence, modules)
        residuals = np.array([each.loss for each in evidence]) - expected
        noise = np.array([each.noise for each in evidence])
        scales = {
            (relative, absolute): _scale(noise, relative * expected, absolute * errors)
            for relative, absolute in product(RELATIVE_SPREADS, ABSOLUTE_SPREADS)
        }
        best = max(scales, key=lambda spreads: _likelihood(residuals, scales[spreads]))
        scaled = np.sort(np.abs(residuals) / scales[best])
        rank = min(len(scaled), ceil(COVERAGE * (len(scaled) + 1)))
        return ScoreCurve(LossCurve.fit(evidence, modules), *best, float(scaled[rank - 1]))

    def estimate(self, errors: Vector, settings: str, uncertainty: float = 0.0) -> Estimate | None:
        """The loss of a plan whose modules have these errors; None if the plan lies beyond the measurements.

        uncertainty     relative standard deviation of the errors themselves, if they are estimates
        """
        error = self.curve.effective(errors)
        largest = self.curve.largest_errors(settings)
        if error > BEYOND * self.curve.errors.max() or np.any(errors > BEYOND_OF_A_MODULE * largest):
            return None
        loss, noise = self.curve.expected(error, settings), self.curve.expected_noise(error, settings)
        because_of_error = self.curve.expected(error * (1 + uncertainty), settings) - loss
        margin = self.quantile * float(_scale(noise, self.relative * loss, self.absolute * error, because_of_error))
        return Estimate(loss, loss - margin, loss + margin, error)


def _scale(*spreads: Vector | float) -> Vector:
    """The standard deviation of a sum of independent errors."""
    return np.sqrt(sum(np.square(spread) for spread in spreads) + 1e-12)


def _likelihood(residuals: Vector, scale: Vector) -> float:
    """Log-likelihood of residuals with a Laplace distribution, which tolerates outliers."""
    return float(-np.sum(np.log(scale) + np.abs(residuals) / scale))


def cross_validated(
    evidence: Sequence[Evidence], modules: Sequence[ModuleSpec], shrinkage: float = SHRINKAGE
) -> tuple[Vector, Vector]:
    """(measurements,) the effective error and the expected loss of each measurement, from a curve fitted without its fold."""
    keys = [_neighbourhood(each) for each in evidence]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    folds = np.array([numbers[key] % FOLDS for key in keys])
    errors, expected = np.zeros(len(evidence)), np.zeros(len(evidence))
    for fold in np.unique(folds):
        curve = LossCurve.fit([each for each, other in zip(evidence, folds, strict=True) if other != fold], modules, shrinkage)
        for index in np.flatnonzero(folds == fold).tolist():
            errors[index] = curve.effective(evidence[index].errors)
            expected[index] = curve.expected(float(errors[index]), evidence[index].settings)
    return errors, expected


def _neighbourhood(evidence: Evidence) -> tuple[object, ...]:
    """A key shared by measurements of the same modules with the same method at almost the same error."""
    compressed = evidence.errors > 0
    error = np.sqrt(np.mean(evidence.errors[compressed] ** 2))
    return evidence.settings, compressed.tobytes(), round(2 * np.log2(error))
