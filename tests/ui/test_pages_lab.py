"""Tests without a browser of what all pages of the Lab share: the panel, runs on the page, the strip and its pin."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from offcomp.files import open_lock, take_lock, write_json
from offcomp.planning.plan import Plan
from offcomp.results.bundled import bundled_runs
from offcomp.runs.start import LOCK
from offcomp.runs.store import RunStore
from tests.made_runs import put_in_home
from tests.pages import LAB, home, open_part, opened, step, strip, texts

__all__ = ["home"]  # a fixture
PARTS = {
    "weights": "kind_",
    "groups": "grouping",
    "methods": "methods",
    "tasks": "panel_chosen_tasks",
    "budget": "unit",
}
"""For each part of the plan, the key of one of its widgets, or the beginning of that key."""
KINDS_OF_WIDGETS = ("checkbox", "selectbox", "multiselect", "button_group", "radio", "number_input")


@pytest.fixture
def finished(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make runs of the default draft end as soon as they are submitted, with the bundled results."""
    runs = {run.plan.groups[0].method: run for run in bundled_runs()}

    def submit(_store: RunStore, plan: Plan, _info: object) -> SimpleNamespace:
        run = runs[plan.groups[0].method]
        return SimpleNamespace(id=put_in_home(home, run.result.to_dict(), run.id, submitted=time.time()))

    monkeypatch.setattr(RunStore, "submit", submit)


def plant(home: Path, status: str, error: str = "") -> str:
    """Create the run of SVD on the default draft with this status, and return its id.

    A failed run is as a worker leaves it; any other is as a worker holds it, with its lock taken.
    """
    run = bundled_runs()[0]
    if status == "failed":
        return put_in_home(home, run.result.to_dict(), run.id, submitted=1.0, status=status, error=error)
    folder = home / "runs" / run.id
    write_json(folder / "plan.json", run.plan.to_dict())
    write_json(folder / "worker.json", {"pid": os.getpid(), "started": 0, "submitted": time.time()})
    take_lock(open_lock(folder / LOCK))
    write_json(folder / "progress.json", {"stage": "compress query", "fraction": 0.4, "remaining_seconds": 12.3})
    return run.id


def keys(app: AppTest) -> list[str]:
    """Return the keys of the widgets on a page."""
    return [str(widget.key) for kind in KINDS_OF_WIDGETS for widget in getattr(app, kind)]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("path", LAB)
def test_every_page_of_the_lab_has_the_same_panel(path: str) -> None:
    app = opened(path.strip("/"), tasks="sentiment")
    assert app.selectbox(key="model").value == "minilm-l6"
    assert app.select_slider(key="ratio").value == 3.0
    assert app.button(key="run").label == "Run SVD and Autoencoder"
    assert "scored on sentiment." in texts(app)
    for part, start in PARTS.items():
        assert not [key for key in keys(app) if key.startswith(start)]  # a part has widgets only while it is open
        open_part(app, part)
        assert [key for key in keys(app) if key.startswith(start)]
    assert app.sidebar.caption and {"**Lab**", "**Results**"} <= {caption.value for caption in app.sidebar.caption}


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("path", LAB)
def test_a_run_stays_on_the_page_and_its_results_land_there(path: str) -> None:
    app = opened(path.strip("/"), tasks="sentiment")
    question = app.title[0].value
    assert len(app.table) == (path == "/compress")
    app.button(key="run").click().run()
    assert not app.exception and not app.error
    assert app.title[0].value == question
    assert (app.button(key="run").label, app.button(key="run").disabled) == ("Already run", True)
    shown = strip(app)
    assert shown["Relative error"] == {"Original": "0", "SVD": "0.621 exact", "Autoencoder": "0.816 measured by you"}
    assert shown["Cosine distance"]["SVD"] == "0.230"
    assert shown["Stored parameters"]["Original"] == "1,769,472"
    assert shown["Stored parameters"]["SVD"] == "585,984 3.02x smaller"
    assert shown["Stored MB"]["SVD"] == "2.34 3.02x smaller"
    assert re.fullmatch(r"\d+ of 360 \d+ now wrong, \d+ now right", shown["Changed predictions"]["SVD"])
    assert "SVD has the lower reconstruction error" in texts(app)
    links = {link.proto.label: link.proto.query_string for link in app.get("page_link")}
    runs = {run.id for run in bundled_runs()}
    for label in ("Compare in detail", "Changed predictions"):
        assert all(run in links[label] for run in runs)


@pytest.mark.usefixtures("finished")
def test_the_results_of_a_run_go_along_to_the_other_pages_of_the_lab() -> None:
    app = opened("model", tasks="sentiment")
    app.button(key="run").click().run()
    shown = strip(app)
    for page in ("inspect", "groups", "compress", "model"):
        assert strip(step(app, page)) == shown
    app.select_slider(key="ratio").set_value(4.0).run()  # a different draft, which has not been run
    assert not app.table


def test_a_run_in_progress_is_shown_and_can_be_cancelled(home: Path) -> None:
    name = plant(home, "running")
    app = opened("inspect", methods="svd", tasks="sentiment")
    assert (app.button(key="run").label, app.button(key="run").disabled) == ("Running", True)
    (bar,) = [bar.proto for bar in app.main.get("progress")]
    assert bar.value == 40
    assert re.fullmatch(r"SVD: compress query, about (12|11|10) s left", bar.text)  # the time counts down
    app.button(key=f"lab_cancel_{name}").click().run()
    assert not app.exception
    assert (home / "runs" / name / "cancel").exists()
    assert "stopping" in texts(app)
    assert f"lab_cancel_{name}" not in {button.key for button in app.button}


def test_a_run_that_failed_says_why_and_can_be_run_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*_: object) -> SimpleNamespace:
        return SimpleNamespace(id=plant(home, "failed", "It grew too large."))

    monkeypatch.setattr(RunStore, "submit", submit)
    app = opened("groups", methods="svd", tasks="sentiment")
    app.button(key="run").click().run()
    assert [error.value for error in app.error] == ["SVD: It grew too large."]
    assert (app.button(key="run").label, app.button(key="run").disabled) == ("Run SVD", False)


@pytest.mark.usefixtures("home")
def test_a_pin_shows_what_the_next_ratio_changes() -> None:
    app = opened("compress", methods="svd", tasks="sentiment")
    app.button(key="lab_pin_button").click().run()
    assert "Differences in brackets are relative to the pin: SVD at 3.02x." in texts(app)
    assert strip(app)["Relative error"]["SVD"] == "0.621 exact"
    app.select_slider(key="ratio").set_value(6.0).run()
    shown = strip(app)
    found = re.fullmatch(r"(0\.\d{3}) \(\+(0\.\d{3})\) exact", shown["Relative error"]["SVD"])
    assert found and float(found[1]) == pytest.approx(0.621 + float(found[2]), abs=2e-3)
    found = re.fullmatch(r"([\d,]+) \(-([\d,]+)\) \d\.\d\dx smaller", shown["Stored parameters"]["SVD"])
    assert found and 585_984 - int(found[2].replace(",", "")) == int(found[1].replace(",", ""))
    app.select_slider(key="ratio").set_value(3.0).run()
    assert "(+" not in str(strip(app)) and "(-" not in str(strip(app))
    app.select_slider(key="ratio").set_value(6.0).run()
    app.button(key="lab_unpin").click().run()
    assert "(+" not in str(strip(app)) and "Differences in brackets" not in texts(app)


@pytest.mark.usefixtures("home")
def test_a_bundled_measurement_of_one_matrix_has_an_error_and_no_cosine_distance() -> None:
    shown = strip(opened("compress", modules="query.3", ratio="4", tasks="sentiment"))
    assert (shown["Relative error"]["SVD"], shown["Cosine distance"]["SVD"]) == ("0.682 exact", "run to measure")


@pytest.mark.usefixtures("home")
def test_a_pin_of_one_model_is_not_compared_with_another() -> None:
    app = opened("compress", methods="svd", tasks="sentiment")
    app.button(key="lab_pin_button").click().run()
    app.selectbox(key="model").set_value("offcomp-bert").run()
    assert "Differences in brackets" not in texts(app)
    app.selectbox(key="model").set_value("minilm-l6").run()
    assert "Differences in brackets" in texts(app)
