"""The Start page without a browser: the slider, the texts, the way to the Lab, and damaged files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from offcomp.models.listing import known_info
from offcomp.planning.sizes import resolved
from offcomp.results import start
from offcomp.results.start import FILES, FOLDER, RATIOS, TITLES, read_demo
from offcomp.results.start_words import what_happened
from offcomp.runs.inputs import inputs_of, run_id
from offcomp.ui.lab.choices import read_choices
from tests.pages import home, opened, texts

__all__ = ["home"]  # a fixture
pytestmark = pytest.mark.usefixtures("home")
KINDS = list(FILES)


def html_of(app: AppTest) -> str:
    """All HTML on the page except styles."""
    return "".join(element.proto.body for element in app.get("html") if "<style>" not in element.proto.body)


@pytest.mark.parametrize("kind", KINDS)
def test_each_size_shows_what_happened(kind: str) -> None:
    app = opened(does=kind)
    demo = read_demo(kind)
    assert app.title[0].value == "Shrink a language model and see what breaks."
    for ratio in (RATIOS[0], RATIOS[2], RATIOS[-1]):
        app.select_slider(key="start_ratio").set_value(ratio).run()
        assert not app.exception
        assert what_happened(kind, demo, ratio, 0).replace(":", "").split()[0] in texts(app)
        assert html_of(app).count("<article>") == 1 + sum(step is not None for step in demo.steps(ratio).values())
    app.selectbox(key="start_text").set_value(demo.texts[2]).run()
    assert app.query_params["size"] == f"{RATIOS[-1]:g}x"


def test_a_link_opens_a_size_and_a_task() -> None:
    app = opened(does="next", size="20x")
    assert app.select_slider(key="start_ratio").value == 20.0
    assert "At 20x fewer bytes" in texts(app)
    assert app.selectbox(key="start_text").options[0] == read_demo("next").texts[0]
    app = opened(does="everything", size="7x")
    assert "the choices are similarity, sentiment, next" in texts(app)
    assert "the choices are 8x, 1x, 2x" in texts(app)


@pytest.mark.parametrize("kind", ["sentiment", "next"])
def test_the_button_opens_the_lab_with_the_plans_of_the_runs_that_are_shown(
    kind: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = opened(does=kind, size="8x")
    app.button(key="start_lab").click().run()
    assert not app.exception
    assert "What if" in app.title[0].value
    demo = read_demo(kind)
    info = known_info(demo.model, home)
    assert info is not None
    monkeypatch.setattr("offcomp.ui.lab.choices.st.session_state", dict(app.session_state._state.filtered_state))
    choices = read_choices(info)
    assert choices.methods == tuple(lane.style_key for lane in demo.lanes)
    for lane in demo.lanes:
        step = lane.at(8.0)
        assert step is not None
        plan = choices.plan(lane.style_key)
        assert run_id(resolved(plan, info), inputs_of(plan, info.reads)) == step.run


def test_a_missing_file_is_said_in_one_sentence_and_the_other_tasks_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "start"
    shutil.copytree(FOLDER, folder)
    (folder / FILES["next"]).unlink()
    monkeypatch.setattr(start.read_demo, "__defaults__", (folder,))
    app = opened(does="next")
    assert not app.exception
    assert "offcomp-gpt.json cannot be used (it is missing); reinstall offcomp" in app.error[0].value.replace("\\", "")
    app.segmented_control(key="start_kind").set_value("sentiment").run()
    assert not app.error
    assert len(TITLES) == len(FILES)
