"""Compress and Runs without a browser: models of several families, missing and invalid choices, runs of every status."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from offcomp.files import open_lock, take_lock, write_json
from offcomp.methods import METHODS, options_of, own_options
from offcomp.planning.plan import Group, Plan
from offcomp.results.bundled import bundled_runs
from offcomp.runs.start import LOCK
from offcomp.runs.store import RunStore
from offcomp.ui.lab.strip import rounded_down
from tests import tiny_models
from tests.made_runs import put_in_home
from tests.pages import ROOT, home, listed, open_part, opened, step, strip, texts

__all__ = ["home"]  # a fixture
FAMILIES = ("gpt2", "t5", "mpnet")


@pytest.fixture
def app(home: Path) -> AppTest:
    """The app on its Start page, with an empty home."""
    return opened(tasks="sentiment")


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The submitted plans. No worker is started."""
    plans: list[Plan] = []

    def submit(_store: RunStore, plan: Plan, _info: object) -> SimpleNamespace:
        plans.append(plan)
        return SimpleNamespace(id=f"{len(plans):012}")

    monkeypatch.setattr(RunStore, "submit", submit)
    return plans


def test_the_defaults_give_a_picture_at_once(app: AppTest) -> None:
    step(app, "compress")
    assert not app.error
    shown = strip(app)
    assert shown["Stored parameters"]["SVD"].startswith("585,984 ")
    assert shown["Relative error"]["SVD"] == "0.621 exact"
    assert app.button(key="run").label == "Run SVD and Autoencoder"
    assert "Query and key (12 matrices); one group per kind, across all layers; scored on sentiment." in texts(app)


def test_the_ratio_changes_the_exact_error(app: AppTest) -> None:
    step(app, "compress")
    errors = []
    for ratio in (2.0, 10.0):
        app.select_slider(key="ratio").set_value(ratio).run()
        error, origin = strip(app)["Relative error"]["SVD"].split()
        assert origin == "exact"
        errors.append(float(error))
    assert errors == [pytest.approx(0.4995, abs=2e-3), pytest.approx(0.82, abs=2e-2)]


def test_every_method_is_a_column_of_the_strip(app: AppTest) -> None:
    open_part(step(app, "compress"), "methods")
    app.button_group(key="methods").set_value(["svd", "kronecker", "tucker", "residual"]).run()
    assert not app.exception
    assert not app.error
    shown = strip(app)["Relative error"]
    assert list(shown) == ["Original", "SVD", "Autoencoder, residual", "Kronecker", "Tucker"]
    assert shown["SVD"] == "0.621 exact"
    assert re.fullmatch(r"about 0\.\d\d estimated", shown["Autoencoder, residual"])
    assert shown["Kronecker"] == "run to measure"
    assert app.button(key="run").label == "Run 4 methods"


def test_quantization_asks_for_a_ratio_of_bytes(app: AppTest) -> None:
    open_part(step(app, "compress"), "methods")
    app.button_group(key="methods").set_value(["quantization"]).run()
    (warning,) = app.warning
    assert warning.value == "Quantization saves bytes, not parameters: under Budget, let the ratio count bytes."
    assert strip(app)["Relative error"]["Quantization"] == "out of reach"
    assert (app.button(key="run").label, app.button(key="run").disabled) == ("Out of reach", True)
    open_part(app, "budget")
    app.radio(key="unit").set_value("bytes").run()
    assert not app.error and not app.warning
    assert re.fullmatch(r"\d\.\d\d \d\.\d\dx smaller", strip(app)["Stored MB"]["Quantization"])
    assert (app.button(key="run").label, app.button(key="run").disabled) == ("Run Quantization", False)


def test_a_method_out_of_reach_does_not_stop_the_others(app: AppTest, submitted: list[Plan]) -> None:
    open_part(step(app, "compress"), "methods")
    app.button_group(key="methods").set_value(["svd", "quantization"]).run()
    assert [warning.value.split(":")[0] for warning in app.warning] == ["Quantization saves bytes, not parameters"]
    assert strip(app)["Relative error"]["SVD"] == "0.621 exact"
    assert re.fullmatch(r"About \d+ s and 0\.\d GB of memory\.", cost(app))
    assert app.button(key="run").label == "Run SVD"
    app.button(key="run").click().run()
    assert not app.exception
    assert [plan.groups[0].method for plan in submitted] == ["svd"]


@pytest.mark.parametrize("method", METHODS, ids=[method.style_key for method in METHODS])
def test_every_method_shows_its_options_but_not_what_tells_it_from_its_family(app: AppTest, method: Any) -> None:
    open_part(step(app, "compress"), "methods")
    app.button_group(key="methods").set_value([method.style_key]).run()
    assert not app.exception
    drawn = {str(widget.key) for kind in (app.selectbox, app.checkbox, app.number_input) for widget in kind}
    wanted = {
        f"option_{method.style_key}_{option.name}" for option in options_of(method) if option.name not in own_options(method)
    }
    assert {key for key in drawn if key.startswith("option_")} == wanted


def test_tasks_that_fit_the_model_go_into_the_plan_and_stay_chosen(app: AppTest, submitted: list[Plan]) -> None:
    app.session_state["tasks"] = ("causal-prose", "sentiment")  # the first needs a head that this model lacks
    open_part(step(app, "compress"), "tasks")
    tasks = app.multiselect(key="panel_chosen_tasks")
    assert tasks.value == ["sentiment"]
    assert tasks.options == ["Sentiment", "Topics", "Similarity", "Embeddings of prose (fidelity)"]
    tasks.set_value(["similarity", "sentiment"]).run()
    assert "not known" not in str(
        strip(app)["Relative error"]
    )  # errors, such as those of the bundled runs, do not depend on tasks
    assert "scored on sentiment and similarity." in texts(app)
    app.button(key="run").click().run()
    step(app, "model")
    step(app, "compress")
    app.button(key="run").click().run()
    assert [plan.tasks for plan in submitted] == [("sentiment", "similarity")] * 4
    open_part(app, "tasks").multiselect(key="panel_chosen_tasks").set_value([]).run()
    assert "not scored." in texts(app)
    app.button(key="run").click().run()
    assert submitted[-1].tasks == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_any_family_can_be_chosen(app: AppTest, home: Path, tmp_path: Path, family: str) -> None:
    folder = tiny_models.save(tiny_models.TINY[family](), tmp_path / family)
    app.session_state["model"] = str(folder) if family == "gpt2" else listed(folder, home)  # the page itself lists one of them
    step(app, "compress")
    assert not app.error
    assert "x smaller" in strip(app)["Stored parameters"]["SVD"]


@pytest.mark.parametrize(
    ("model", "named"), [("no-such-model-x", "no-such-model-x"), ("/nowhere", "/nowhere"), (str(ROOT / "tests"), "config.json")]
)
def test_a_bad_model_is_one_sentence(app: AppTest, model: str, named: str) -> None:
    app.session_state["model"] = model
    step(app, "compress")
    (error,) = app.error
    assert named in error.value


def test_an_impossible_ratio_says_why_and_offers_no_run(app: AppTest, home: Path, tmp_path: Path) -> None:
    app.session_state["model"] = listed(tiny_models.save(tiny_models.bert(), tmp_path / "bert"), home)
    app.session_state["ratio"] = 100.0
    step(app, "compress")
    assert not app.error
    assert ["budget" in warning.value for warning in app.warning] == [True, True]
    assert (app.button(key="run").label, app.button(key="run").disabled) == ("Out of reach", True)


def test_where_svd_cannot_get_so_small_no_share_of_the_energy_is_named(home: Path) -> None:
    app = opened("compress", model="offcomp-gpt", modules="key.0-1", together="module", methods="svd", ratio="100")
    assert "key (2 matrices) at 100x: SVD cannot reach this size." in texts(app)
    assert "% of the energy" not in texts(app)
    assert "(64x at most)" in app.warning[0].value
    assert [rounded_down(ratio) for ratio in (14.777, 64.0, 1.2399, 1234.5)] == ["14.7", "64", "1.23", "1230"]


def test_no_module_and_no_method_are_told_kindly(app: AppTest) -> None:
    open_part(step(app, "compress"), "methods")
    app.button_group(key="methods").set_value([]).run()
    assert not app.exception
    assert (app.button(key="run").label, app.button(key="run").disabled) == ("Choose a method", True)
    open_part(app, "weights")
    for box in [box for box in app.checkbox if box.value and str(box.key).startswith("kind_")]:
        app.checkbox(key=box.key).uncheck()
    app.run()
    assert not app.exception
    assert "No module is selected" in app.info[0].value
    assert (app.button(key="run").label, app.button(key="run").disabled) == ("Choose weights", True)


def cost(app: AppTest) -> str:
    """Return the line next to the slider that states the cost of the runs."""
    return next(caption.value for caption in app.caption if caption.value.startswith(("About", "Already run", "In progress")))


def seconds(line: str) -> int:
    """Return the time in seconds that the line on the cost states."""
    found = re.match(r"About (\d+) s and", line)
    assert found, line
    return int(found[1])


def marks(app: AppTest) -> dict[str, list[str]]:
    """Return the marker symbols of each name in the error chart, except for the first two traces, which are lines."""
    (chart,) = app.get("plotly_chart")
    found: dict[str, list[str]] = {}
    for trace in json.loads(chart.proto.spec)["data"][2:]:
        found.setdefault(trace["name"], []).append(trace["marker"]["symbol"])
    return found


def test_time_and_memory_are_told_before_the_start(app: AppTest) -> None:
    step(app, "compress")
    assert re.fullmatch(r"About \d+ s and 0\.\d GB in all: SVD \d+ s, Autoencoder \d+ s\.", cost(app))
    open_part(app, "methods")
    app.button_group(key="methods").set_value(["svd"]).run()
    assert re.fullmatch(r"About \d+ s and 0\.\d GB of memory\.", cost(app))
    assert "cheaper" not in {button.key for button in app.button}
    assert not app.warning


def test_what_has_been_run_is_said_with_its_time(app: AppTest, home: Path) -> None:
    run = bundled_runs()[0]
    put_in_home(home, run.result.to_dict(), run.id, submitted=1.0)
    step(app, "compress")
    text = cost(app)
    assert "in all" not in text
    assert text.endswith("Already run (cached): SVD (35 s).")
    assert app.button(key="run").label == "Run Autoencoder"
    open_part(app, "methods")
    app.button_group(key="methods").set_value(["svd"]).run()
    assert cost(app) == "Already run (cached): SVD (35 s)."
    assert (app.button(key="run").label, app.button(key="run").disabled) == ("Already run", True)


def test_a_long_run_comes_with_a_shorter_way_that_changes_the_draft(app: AppTest) -> None:
    app.session_state["methods"] = ["autoencoder"]
    app.session_state["draft_modules"] = tuple(f"{kind}.{layer}" for kind in ("ffn_in", "query") for layer in range(6))
    step(app, "compress")
    assert seconds(cost(app)) > 60
    (button,) = [button for button in app.button if button.key == "cheaper"]
    assert re.fullmatch(r"Cheaper: Autoencoder, quick settings, about \d+ s", button.label)
    button.click().run()
    assert not app.exception
    open_part(app, "methods")
    assert app.number_input(key="option_autoencoder_epochs").value == 10
    assert app.selectbox(key="option_autoencoder_init").value == "svd"
    assert "cheaper" not in {button.key for button in app.button}
    assert seconds(cost(app)) <= 60


def test_short_memory_is_a_warning_with_a_way_out(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    app.session_state["grouping"] = "all"
    monkeypatch.setattr("offcomp.ui.lab.cost.free_memory", lambda: 700_000_000)
    step(app, "compress")
    assert [warning.value for warning in app.warning] == [
        "The run needs about 0.7 GB of memory, but only 0.7 GB is free. It may fail."
    ]
    button = app.button(key="cheaper")
    assert button.label.startswith("Cheaper: Without tasks, about ") and button.label.endswith("0.6 GB")
    button.click().run()
    assert app.session_state["tasks"] == ()
    assert not app.warning
    monkeypatch.setattr("offcomp.ui.lab.cost.free_memory", lambda: None)
    app.run()
    assert not app.warning


def test_no_cost_is_told_of_what_cannot_be_run(app: AppTest) -> None:
    app.session_state["methods"] = ["quantization"]
    step(app, "compress")
    assert app.warning
    assert not [caption for caption in app.caption if caption.value.startswith("About")]


def test_an_estimate_is_hollow_until_a_run_makes_it_solid(app: AppTest, home: Path) -> None:
    step(app, "compress")
    app.select_slider(key="ratio").set_value(4.0).run()
    assert marks(app) == {"SVD": ["circle"], "Autoencoder": ["diamond", "diamond-open"]}
    assert re.fullmatch(r"about 0\.\d\d estimated", strip(app)["Relative error"]["Autoencoder"])
    assert "Line: SVD, exact. Solid: measured (2 bundled). Hollow: estimated until a run measures the error." in texts(app)
    document = bundled_runs()[1].result.to_dict()
    for group in document["plan"]["groups"]:
        group["ratio"] = 4.0
    put_in_home(home, document, "0123456789ab", submitted=1.0)
    app.run()
    assert marks(app) == {"SVD": ["circle"], "Autoencoder": ["diamond"]}
    assert strip(app)["Relative error"]["Autoencoder"] == "0.816 measured by you"
    assert "Solid: measured (1 yours, 2 bundled)." in texts(app)


def test_every_error_says_where_it_comes_from(app: AppTest) -> None:
    step(app, "compress")
    shown = strip(app)["Relative error"]
    assert shown["SVD"].endswith(" exact") and shown["Autoencoder"].endswith(" bundled measurement")
    for part in ("Bundled measurement c0cb0f1da6a5", "seed 0", "offcomp 0.1.0", "torch 2.13.0", "at 3.0x in parameters"):
        assert part in texts(app)  # below the chart
    open_part(app, "budget")
    app.radio(key="dtype").set_value("float16").run()
    shown = strip(app)["Relative error"]
    assert shown["SVD"].endswith(" estimated, before rounding to float16")
    assert shown["Autoencoder"] == "about 0.82 estimated"


def test_runs_is_never_an_empty_page(app: AppTest) -> None:
    step(app, "runs")
    assert "No runs yet" in app.info[0].value


def planted_run(home: Path, name: str, status: str, error: str = "") -> None:
    """Create the folder of a run with this status, as a worker leaves it or, if the run is in progress, with its lock held."""
    folder = home / "runs" / name
    if status in ("done", "failed", "cancelled"):
        document = json.loads((ROOT / "assets" / "runs" / "minilm-l6-svd.json").read_text())
        put_in_home(home, document, name, submitted=time.time(), status=status, error=error)
        return
    write_json(
        folder / "plan.json",
        Plan(model="minilm-l6", groups=(Group(name="x" * 100, modules=("key.0",)),), seed=len(name)).to_dict(),
    )
    write_json(folder / "worker.json", {"pid": os.getpid(), "started": 0, "submitted": time.time()})
    if status != "interrupted":
        take_lock(open_lock(folder / LOCK))
        stage = "queued" if status == "queued" else "compress x"
        write_json(folder / "progress.json", {"stage": stage, "fraction": 0.4, "remaining_seconds": 12.3})


def test_runs_of_every_status_are_shown_with_their_reason(app: AppTest, home: Path) -> None:
    for status in ("running", "queued", "done", "cancelled", "interrupted"):
        planted_run(home, status, status)
    planted_run(home, "failed", "failed", "The weight 'x' has 3 values that are NaN.")
    step(app, "runs")
    text = " ".join(element.value for element in app.markdown)
    assert all(f"**{status}**" in text for status in ("running", "queued", "done", "failed", "cancelled", "interrupted"))
    assert "6 runs: 1 done, 2 under way" in text
    errors = [error.value for error in app.error]
    assert any("3 values that are NaN" in error for error in errors)
    assert any("exited without a result" in error for error in errors)
    labels = [button.label for button in app.button]
    assert labels.count("Cancel") == 2
    assert labels.count("Run again") == 3
    assert labels.count("Delete") == 4


def test_an_ended_run_is_deleted_from_the_page(app: AppTest, home: Path) -> None:
    planted_run(home, "old", "failed", "reason")
    step(app, "runs")
    app.button(key="delete_old").click().run()
    assert not (home / "runs" / "old").exists()
    assert not app.exception
