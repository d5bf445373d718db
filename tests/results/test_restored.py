"""Measurements in float32, converted to half precision, have the sizes that a run in half precision would have."""

from __future__ import annotations

import pytest

from offcomp.models.sources import bundled_info
from offcomp.planning.sizes import predict
from offcomp.results.known_errors import measured_of
from offcomp.results.restored import in_dtype
from offcomp.results.runs import plan_as_stored

INFO = bundled_info("offcomp-gpt")


def test_converted_sizes_are_those_that_are_predicted_in_half_precision() -> None:
    assert INFO
    measured = measured_of([], INFO.fingerprint)
    converted = in_dtype(measured, "float16", INFO)
    compared = 0
    for m, half in zip(measured, converted, strict=True):
        if not m.settings or m.settings[3] != "float32":
            continue
        assert half.settings and half.settings[3] == "float16" and half.relative_error == m.relative_error
        assert half.ratio("parameters") == pytest.approx(m.ratio("parameters"), rel=1e-5)
        assert half.ratio("bytes") > m.ratio("bytes")
        plan = plan_as_stored(half.run)
        if plan.groups[0].unit == "parameters":  # then the same ratio results in the same rank
            assert half.ratio("bytes") == pytest.approx(predict(plan, INFO).model.chosen.byte_ratio)
            compared += 1
    assert compared > 40


def test_measurements_stay_as_they_are_for_float32_and_are_converted_once() -> None:
    assert INFO
    measured = measured_of([], INFO.fingerprint)
    assert in_dtype(measured, "float32", INFO) == measured
    first, second = (in_dtype(measured, "bfloat16", INFO) for _ in range(2))
    assert all(a is b for a, b in zip(first, second, strict=True))
