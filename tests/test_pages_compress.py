"""Compress and Runs without a browser: every family, empty and broken states, runs of every status."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from offcomp.files import write_json
from offcomp.methods import METHODS, options_of, own_options
from offcomp.plan import Group, Plan
from offcomp.runs import RunStore
from tests import tiny_models

ROOT = Path(__file__).parents[1]
FAMILIES = ("gpt2", "t5", "mpnet")


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The app with an empty home, at its Start page."""
    monkeypatch.setenv("OFFCOMP_HOME", str(tmp_path / "home"))
    st.cache_data.clear()
    st.cache_resource.clear()
    return AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()


def opened(app: AppTest, page: str) -> AppTest:
    app.switch_page(f"pages/{page}.py").run()
    assert not app.exception
    return app


def test_the_defaults_give_a_picture_at_once(app: AppTest) -> None:
    opened(app, "compress")
    assert not app.error
    shown = {metric.label: metric.value for metric in reversed(app.metric)}
    assert shown["Stored parameters"] == "585,984"
    assert shown["Relative error"] == "0.621"
    assert [button.label for button in app.button if button.key == "run"] == ["Run SVD and Autoencoder"]


def test_the_ratio_changes_the_exact_error(app: AppTest) -> None:
    opened(app, "compress")
    errors = []
    for ratio in (2.0, 10.0):
        app.select_slider(key="ratio").set_value(ratio).run()
        errors.append(float(next(metric.value for metric in app.metric if metric.label == "Relative error")))
    assert errors == [pytest.approx(0.4995, abs=2e-3), pytest.approx(0.82, abs=2e-2)]


def test_more_than_two_methods_are_lines_of_a_table(app: AppTest) -> None:
    opened(app, "compress")
    app.button_group(key="methods").set_value(["svd", "kronecker", "tucker", "pruning"]).run()
    assert not app.exception
    assert not app.error
    table = app.table[0].value
    assert list(table["Method"]) == ["SVD", "Kronecker", "Tucker", "Pruning"]
    assert table["Relative error"][0] == "0.621, exact"
    assert "a run takes" in table["Relative error"][1]
    assert next(button.label for button in app.button if button.key == "run") == "Run 4 methods"


def test_quantization_asks_for_a_ratio_of_bytes(app: AppTest) -> None:
    opened(app, "compress")
    app.button_group(key="methods").set_value(["quantization"]).run()
    assert [error.value.split(":")[0] for error in app.error] == ["Quantization saves bytes, not parameters"]
    app.radio(key="unit").set_value("bytes").run()
    assert not app.error
    assert next(metric.value for metric in app.metric if metric.label == "Stored bytes").endswith("MB")
    assert not next(button for button in app.button if button.key == "run").disabled


@pytest.mark.parametrize("method", METHODS, ids=[method.role for method in METHODS])
def test_every_method_shows_its_options_but_not_what_tells_it_from_its_family(app: AppTest, method: Any) -> None:
    opened(app, "compress")
    app.button_group(key="methods").set_value([method.role]).run()
    assert not app.exception
    drawn = {str(widget.key) for kind in (app.selectbox, app.checkbox, app.number_input) for widget in kind}
    wanted = {f"option_{method.role}_{option.name}" for option in options_of(method) if option.name not in own_options(method)}
    assert {key for key in drawn if key.startswith("option_")} == wanted


def test_tasks_that_fit_the_model_go_into_the_plan_and_stay_chosen(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[Plan] = []
    monkeypatch.setattr(RunStore, "submit", lambda _store, plan, _info: submitted.append(plan))
    app.session_state["tasks"] = ["causal-prose", "sentiment"]  # the first needs a head that this model lacks
    opened(app, "compress")
    tasks = app.multiselect(key="tasks")
    assert (tasks.value, tasks.options) == (["sentiment"], ["Sentiment", "Topics", "Similarity"])
    tasks.set_value(["similarity", "sentiment"]).run()
    shown = [metric.value for metric in app.metric if metric.label == "Relative error"]
    assert "not measured" not in shown  # an error does not depend on tasks, and bundled runs have it
    app.button(key="run").click().run()
    opened(app, "compress")
    app.button(key="run").click().run()
    assert [plan.tasks for plan in submitted] == [("sentiment", "similarity")] * 4
    opened(app, "compress")
    app.multiselect(key="tasks").set_value([]).run()
    app.button(key="run").click().run()
    assert submitted[-1].tasks == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_any_family_can_be_chosen(app: AppTest, tmp_path: Path, family: str) -> None:
    folder = tiny_models.save(tiny_models.TINY[family](), tmp_path / family)
    app.session_state["model"] = str(folder)
    opened(app, "compress")
    assert not app.error
    if family == "mpnet":
        assert "family is unknown" in app.info[0].value
        assert app.multiselect[0].options
    else:
        assert any(metric.label == "Stored parameters" for metric in app.metric)


@pytest.mark.parametrize(
    ("model", "named"), [("no-such-model-x", "no-such-model-x"), ("/nowhere", "/nowhere"), (str(ROOT / "tests"), "config.json")]
)
def test_a_bad_model_is_one_sentence(app: AppTest, model: str, named: str) -> None:
    app.session_state["model"] = model
    opened(app, "compress")
    (error,) = app.error
    assert named in error.value


def test_an_impossible_ratio_says_why_and_offers_no_run(app: AppTest, tmp_path: Path) -> None:
    app.session_state["model"] = str(tiny_models.save(tiny_models.bert(), tmp_path / "bert"))
    app.session_state["ratio"] = 100.0
    opened(app, "compress")
    assert "budget" in app.error[0].value
    assert next(button for button in app.button if button.key == "run").disabled


def test_no_module_and_no_method_are_told_kindly(app: AppTest) -> None:
    opened(app, "compress")
    app.button_group(key="methods").set_value([]).run()
    assert not app.exception
    for box in [box for box in app.checkbox if box.value and str(box.key).startswith("kind_")]:
        app.checkbox(key=box.key).uncheck()
    app.run()
    assert not app.exception
    assert "No module is chosen" in app.info[0].value


def test_runs_is_never_an_empty_page(app: AppTest) -> None:
    opened(app, "runs")
    assert "No runs yet" in app.info[0].value


def planted_run(home: Path, name: str, status: str, error: str = "") -> None:
    """A run folder as a worker would leave it."""
    folder = home / "runs" / name
    plan = Plan("minilm-l6", (Group("x" * 100, ("key.0",)),), seed=len(name))
    write_json(folder / "plan.json", plan.to_dict())
    write_json(folder / "worker.json", {"pid": 0, "started": 0, "submitted": time.time()})
    if status in ("running", "queued"):
        process = psutil.Process()
        me = {"pid": process.pid, "started": process.create_time(), "submitted": time.time()}
        write_json(folder / "worker.json", me)
        stage = "queued" if status == "queued" else "compress x"
        write_json(folder / "progress.json", {"stage": stage, "fraction": 0.4, "remaining_seconds": 12.3})
    elif status != "interrupted":
        result = {"status": status, "error": error, "timings": {"total": 3.2}, "groups": [], "scores": {}, "model": None}
        write_json(folder / "run.json", result)


def test_runs_of_every_status_are_shown_with_their_reason(app: AppTest, tmp_path: Path) -> None:
    for status in ("running", "queued", "done", "cancelled", "interrupted"):
        planted_run(tmp_path / "home", status, status)
    planted_run(tmp_path / "home", "failed", "failed", "The weight 'x' has 3 values that are NaN.")
    opened(app, "runs")
    text = " ".join(element.value for element in app.markdown)
    assert all(f"**{status}**" in text for status in ("running", "queued", "done", "failed", "cancelled", "interrupted"))
    assert "6 runs: 1 done, 2 under way" in text
    errors = [error.value for error in app.error]
    assert any("3 values that are NaN" in error for error in errors)
    assert any("ended without a result" in error for error in errors)
    labels = [button.label for button in app.button]
    assert labels.count("Cancel") == 2
    assert labels.count("Run again") == 3
    assert labels.count("Delete") == 4


def test_many_runs_are_shown_a_page_at_a_time(app: AppTest, tmp_path: Path) -> None:
    for index in range(45):
        planted_run(tmp_path / "home", f"run{index}", "done")
    opened(app, "runs")
    assert [button.label for button in app.button].count("Delete") == 20
    app.button(key="more_runs").click().run()
    assert [button.label for button in app.button].count("Delete") == 40


def test_an_ended_run_is_deleted_from_the_page(app: AppTest, tmp_path: Path) -> None:
    planted_run(tmp_path / "home", "old", "failed", "reason")
    opened(app, "runs")
    app.button(key="delete_old").click().run()
    assert not (tmp_path / "home" / "runs" / "old").exists()
    assert not app.exception
