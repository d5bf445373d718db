"""Known errors of chosen groups: measured errors, errors estimated from measurements, and the table of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from offcomp.models.sources import bundled_info
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.plan import Group, Plan
from offcomp.results.bundled import FOLDER, bundled_runs, origin
from offcomp.results.known_errors import (
    BEYOND,
    POINT_COLUMNS,
    Measured,
    at,
    error_point_table,
    estimated,
    groups_of,
    measured_of,
    measurement_of,
)
from offcomp.results.runs import fingerprint_of, plan_as_stored, result_of, stage_times
from offcomp.runs.inputs import calibration_digest
from offcomp.runs.result import overall_error
from offcomp.runs.store import Run
from tests.made_runs import made_group, made_run, with_result

CURVE = pd.DataFrame({"ratio": [1.5, 2.0, 4.0, 8.0], "relative_error": [0.2, 0.3, 0.5, 0.7]})


def measured(name: str, method: str, ratio: float, error: float, module: str = "key", **fields: Any) -> Measured:
    """Return the measurement of a run with one group at exactly this parameter ratio."""
    run = made_run(name, [made_group(module, error, method=method, ratio=ratio, **fields)])
    sizes = {"chosen": {"parameter_ratio": ratio, "byte_ratio": 2 * ratio}}
    return Measured(with_result(run, model={"sizes": sizes}), error)


def plan(method: str = "pruning", ratio: float = 3.0, module: str = "key", **settings: Any) -> Plan:
    return Plan(
        model="tiny", groups=(Group(name="any-name", modules=(f"{module}.0",), method=method, ratio=ratio, **settings),)
    )


# -------------------------------------------------------------------------------------------------------- what is measured


def test_the_bundled_runs_and_sweeps_are_measurements_of_their_model() -> None:
    info = bundled_info("minilm-l6")
    assert info
    found = measured_of([], info.fingerprint)
    assert {run.id for run in bundled_runs()} <= {m.run.id for m in found}
    assert len({m.run.id for m in found}) == len(found) > 70
    for m in found:
        assert origin(m.run) == "bundled"
        assert m.ratio("bytes") > 0.9 and 0 < m.relative_error <= 1
    assert measured_of([], "another model") == []


def test_ones_own_run_replaces_the_bundled_one_of_the_same_plan_and_comes_first(tmp_path: Path) -> None:
    bundled = bundled_runs()[1]
    own = replace(bundled, folder=tmp_path)
    assert bundled.result
    mark = bundled.result.model.fingerprint
    found = measured_of([own], mark)
    assert found[0].run is own
    assert [origin(m.run) for m in found if m.run.id == own.id] == ["yours"]
    assert found[0].relative_error == overall_error(bundled.result.groups)
    assert len(found) == len(measured_of([], mark))


def test_runs_that_did_not_finish_or_compressed_nothing_are_none() -> None:
    failed = made_run("a", [made_group("key", 0.5)], status="failed")
    assert measured_of([failed, made_run("b", [])], "tiny") == []


def test_groups_are_the_same_under_other_names_and_in_another_order() -> None:
    one = Plan(model="m", groups=(Group(name="a", modules=("key.0", "key.1")), Group(name="b", modules=("query.0",))))
    two = Plan(
        model="m", groups=(Group(name="x", modules=("query.0",), stack="columns"), Group(name="y", modules=("key.1", "key.0")))
    )
    transposed = Plan(
        model="m", groups=(Group(name="a", modules=("key.0", "key.1"), stack="columns"), Group(name="b", modules=("query.0",)))
    )
    apart = Plan(
        model="m",
        groups=(
            Group(name="a", modules=("key.0",)),
            Group(name="c", modules=("key.1",)),
            Group(name="b", modules=("query.0",)),
        ),
    )
    assert groups_of(one) == groups_of(two)
    assert len({groups_of(each) for each in (one, transposed, apart)}) == 3


def test_a_measurement_is_found_by_groups_settings_ratio_and_seed_whatever_the_tasks() -> None:
    known = [measured("a", "pruning", 3.0, 0.4), measured("b", "svd", 3.0, 0.5)]
    found = measurement_of(plan().replace(tasks=("topics",)), known)
    assert found is known[0]
    for other in (
        plan(ratio=2.0),
        plan(module="query"),
        plan(unit="bytes"),
        plan(dtype="float16"),
        plan(options={"positions": "indices"}),
        plan().replace(seed=1),
    ):
        assert measurement_of(other, known) is None


def test_a_run_calibrated_on_other_text_is_no_measurement_of_this_one(tmp_path: Path) -> None:
    """Text in a different place, earlier text in the same place and text that was not recorded are all different texts."""
    texts = tmp_path / "texts.txt"
    texts.write_text("one\ntwo\n")
    asked = plan("svd", options={"preset": "whitened"}).replace(calibration=CalibrationText(text=str(texts)))

    def known(calibration: CalibrationText, digest: str | None) -> Measured:
        run = measured("a", "svd", 3.0, 0.4, options={"preset": "whitened"}).run
        run = with_result(run, inputs={} if digest is None else {"calibration": digest})
        return Measured(replace(run, plan=run.plan.replace(calibration=calibration)), 0.4)

    now = calibration_digest(asked)
    same, bundled = known(asked.calibration, now), known(CalibrationText(), now)
    before, unknown = known(asked.calibration, "0" * 64), known(asked.calibration, None)
    assert measurement_of(asked, [bundled, before, unknown, same]) is same
    assert len({m.key for m in (same, bundled, before, unknown)}) == 4
    assert estimated(asked, 3.0, [bundled, before, unknown], CURVE) is None
    assert estimated(asked, 3.0, [same], CURVE) is not None
    texts.write_text("one\nsix\n")
    assert measurement_of(asked, [same]) is None


def test_one_setting_under_two_names_of_its_dtype_is_one_measurement() -> None:
    """The weights of this model are float32, so "stored" and "float32" mean the same."""
    stored = measured("a", "pruning", 3.0, 0.4, dtype="float32").run
    (group,) = stored.plan.groups
    assert group.dtype == "stored"
    named = replace(stored, id="b", plan=stored.plan.replace(groups=(group.replace(dtype="float32"),)))
    assert [m.run.id for m in measured_of([stored, named], "tiny")] == ["a"]
    assert {"compress key", "total"} <= stage_times(named.plan, "tiny", [with_time(stored)]).keys()


def with_time(run: Run) -> Run:
    return with_result(run, timings={"compress key": 1.0, "total": 2.0})


# ------------------------------------------------------------------------------------------------------- what is estimated


def test_between_two_ratios_the_factor_is_between_theirs() -> None:
    known = [measured("a", "pruning", 2.0, 0.5 * at(CURVE, 2.0)), measured("b", "pruning", 4.0, 0.5 * at(CURVE, 4.0))]
    found = estimated(plan(), 3.0, known, CURVE)
    assert found is not None
    assert found.relative_error == pytest.approx(0.5 * at(CURVE, 3.0))
    assert found.basis == "Estimated from 2 measurements of these groups at other ratios."
    known[1] = measured("b", "pruning", 4.0, 0.125 * at(CURVE, 4.0))
    middle = estimated(plan(), 2.0 * 2**0.5, known, CURVE)  # halfway on a logarithmic scale
    assert middle is not None
    assert middle.relative_error == pytest.approx(0.25 * at(CURVE, 2.0 * 2**0.5))


def test_at_a_measured_ratio_the_estimate_is_the_measurement() -> None:
    found = estimated(plan(), 4.0, [measured("a", "pruning", 4.0, 0.43)], CURVE)
    assert found is not None
    assert found.relative_error == pytest.approx(0.43)
    assert "from 1 measurement of" in found.basis


@pytest.mark.parametrize(("ratio", "known"), [(2 / BEYOND - 0.01, False), (2 / BEYOND + 0.01, True), (6.1, False), (5.9, True)])
def test_far_from_every_measured_ratio_nothing_is_estimated(ratio: float, known: bool) -> None:
    points = [measured("a", "pruning", 2.0, 0.2), measured("b", "pruning", 4.0, 0.3)]
    assert (estimated(plan(), ratio, points, CURVE) is not None) == known


def test_an_estimate_is_never_worse_than_storing_nothing() -> None:
    found = estimated(plan(), 8.0, [measured("a", "pruning", 6.0, 0.99)], CURVE)
    assert found is not None
    assert found.relative_error == 1.0


def test_other_options_units_and_dtypes_teach_nothing() -> None:
    known = [measured("a", "pruning", 3.0, 0.4)]
    for other in (plan(unit="bytes"), plan(dtype="int8"), plan(options={"positions": "indices"}), plan("tucker")):
        assert estimated(other, 3.0, known, CURVE) is None
    assert estimated(plan(), 3.0, known, CURVE.iloc[:0]) is None


def test_other_groups_teach_how_the_method_compares_with_svd_there() -> None:
    there = [measured("a", "pruning", 3.0, 0.1, "value"), measured("b", "svd", 3.0, 0.2, "value")]
    found = estimated(plan(), 3.0, there, CURVE)
    assert found is not None
    assert found.relative_error == pytest.approx(0.5 * at(CURVE, 3.0))
    assert "value.0 (separately) in the same model" in found.basis
    assert estimated(plan(), 3.0, there[:1], CURVE) is None  # without SVD there is nothing to compare with
    nearer = estimated(plan(), 3.0, [*there, measured("c", "pruning", 3.0, 0.33)], CURVE)
    assert nearer is not None
    assert nearer.relative_error == pytest.approx(0.33)


def test_the_bundled_sweep_tells_the_error_of_the_bundled_autoencoder() -> None:
    svd, autoencoder = (Measured(run, overall_error(result_of(run).groups)) for run in bundled_runs())
    known = [m for m in measured_of([], fingerprint_of(svd.run)) if m.groups != svd.groups]
    curve = pd.DataFrame({"ratio": [svd.ratio("parameters")], "relative_error": [svd.relative_error]})
    found = estimated(plan_as_stored(autoencoder.run), autoencoder.ratio("parameters"), known, curve)
    assert found is not None
    assert found.relative_error == pytest.approx(autoencoder.relative_error, rel=0.03)


# --------------------------------------------------------------------------------------------------------------- the table


def test_the_table_has_every_measurement_and_estimate_with_its_origin() -> None:
    own = measured("0123456789ab", "pruning", 2.0, 0.25)
    bundled = measured("b" * 12, "svd", 4.0, 0.5)
    bundled = Measured(replace(bundled.run, folder=FOLDER), bundled.relative_error)
    guess = estimated(plan().replace(seed=7), 3.0, [own], CURVE)
    assert guess is not None
    table = error_point_table([own, bundled], [guess], "bytes")
    assert tuple(table.columns) == POINT_COLUMNS
    assert list(table["method"]) == ["Pruning", "SVD", "Pruning"]
    assert list(table["style_key"]) == ["pruning", "svd", "pruning"]
    assert list(table["origin"]) == ["yours", "bundled", "estimated"]
    assert list(table["requested_ratio"]) == [2.0, 4.0, 3.0]
    assert list(table["ratio"]) == [4.0, 8.0, 3.0]
    assert list(table["run"]) == ["0123456789ab", "b" * 12, ""]
    assert list(table["seed"]) == [0, 0, 7]
    assert table["about"][0].startswith("Your run 0123456789ab: tiny, seed 0, 2026-01-02, offcomp 0.1.0, torch 2.13.0")
    assert table["about"][1].startswith("Bundled measurement bbbbbbbbbbbb")
    assert table["about"][2].startswith("Estimated from 1 measurement")


def test_groups_of_several_ratios_have_no_requested_one() -> None:
    run = made_run("a", [made_group("key", 0.5), made_group("query", 0.4, ratio=3.0)])
    table = error_point_table([Measured(run, 0.45)], [], "parameters")
    assert table["requested_ratio"].isna().all()
    assert len(error_point_table([], [], "bytes")) == 0


def test_a_ratio_at_which_svd_loses_nothing_gives_no_estimate() -> None:
    exact = pd.DataFrame({"ratio": [1.0, 2.0], "relative_error": [0.0, 0.3]})
    one = [measured("a", "pruning", 1.0, 0.05)]
    assert estimated(plan(ratio=1.2), 1.2, one, exact) is None
