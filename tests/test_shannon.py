"""Weights with the errors of Shannon's rate-distortion bound: the error at a rate, water-filling, rotation, repeatability."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.shannon import at_limit, through_channel, water_level
from offcomp.models.loading import LoadedModel, load
from tests import tiny_models


def noise(rows: int, cols: int) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mean_square(matrix: Tensor) -> float:
    return float(matrix.square().mean())


@pytest.mark.parametrize("bits", [0.5, 1.0, 2.0, 5.0])
def test_equal_variances_give_the_error_of_the_formula(bits: float) -> None:
    """D = σ² 2^(-2R), and the reconstruction has the variance σ² - D, as that of an ideal code."""
    matrix = 0.3 * noise(2000, 200)
    made = through_channel(matrix, bits, seed=0)
    bound = 0.09 * 2 ** (-2 * bits)
    assert mean_square(matrix - made) == pytest.approx(bound, rel=0.02)
    assert mean_square(made) == pytest.approx(0.09 - bound, rel=0.02)


def test_unequal_variances_are_filled_with_water() -> None:
    """At half a bit per entry, columns below the water level are zero, and all others have the same error."""
    scales = torch.tensor([1.0] * 100 + [0.05] * 100, dtype=torch.float64)
    matrix = noise(2000, 200) * scales
    assert water_level(scales.square(), 0.5) == pytest.approx(0.25)
    made = through_channel(matrix, 0.5, seed=0)
    assert mean_square((matrix - made)[:, :100]) == pytest.approx(0.25, rel=0.02)
    assert not made[:, 100:].any()


def tiny(folder: Path) -> LoadedModel:
    return load(str(tiny_models.save(tiny_models.shared("bert_base"), folder, tokenizer=False)))


def test_a_part_is_repeatable_and_closer_at_more_bits(tmp_path: Path) -> None:
    loaded = tiny(tmp_path / "model")
    specs = [spec for spec in loaded.info.modules if spec.kind in ("query", "ffn_out")]
    weights = {spec: loaded.model.get_parameter(spec.path).detach().clone() for spec in specs}
    errors = []
    for bits in (1.0, 4.0):
        made, again, other = (at_limit(loaded, specs, "residual", bits, seed) for seed in (0, 0, 1))
        assert all(torch.equal(made[spec], again[spec]) and not torch.equal(made[spec], other[spec]) for spec in specs)
        assert all(made[spec].shape == spec.shape and made[spec].dtype == torch.float32 for spec in specs)
        errors.append(sum(float((made[spec] - weights[spec]).square().sum()) for spec in specs))
    assert errors[1] < errors[0] / 20
    assert all(torch.equal(loaded.model.get_parameter(spec.path), weights[spec]) for spec in specs)


def test_every_row_has_the_same_relative_error(tmp_path: Path) -> None:
    loaded = tiny(tmp_path / "model")
    (spec,) = [spec for spec in loaded.info.modules if spec.kind == "word_embeddings"]
    exact = noise(spec.rows, spec.cols).float()
    exact[::2] *= 100
    with torch.no_grad():
        loaded.model.get_parameter(spec.path).copy_(exact)
    error = (at_limit(loaded, [spec], "rows", 1.0, 0)[spec] - exact).square()
    large, small = error[::2].sum() / exact[::2].square().sum(), error[1::2].sum() / exact[1::2].square().sum()
    assert float(large) == pytest.approx(0.25, rel=0.2) and float(small) == pytest.approx(0.25, rel=0.2)


def test_a_tall_part_is_rotated_so_that_less_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in the span of two directions need bits for two numbers each, whatever the directions are."""
    monkeypatch.setattr("benchmarks.shannon.TALL", 2)
    loaded = tiny(tmp_path / "model")
    (spec,) = [spec for spec in loaded.info.modules if spec.kind == "word_embeddings"]
    assert spec.rows > 2 * spec.cols
    parameter = loaded.model.get_parameter(spec.path)
    low_rank = (noise(spec.rows, 2) @ noise(2, spec.cols)).float()
    with torch.no_grad():
        parameter.copy_(low_rank)
    made = at_limit(loaded, [spec], "rows", 1.0, 0)[spec]
    assert mean_square(low_rank - made) < 0.01 * mean_square(low_rank) * 2**-2
