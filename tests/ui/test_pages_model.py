"""The page Model without a browser: what it shows, how a module is selected, and which pages it leads to."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from streamlit.typing import PlotlyState

from offcomp.results.charts.model import COMPRESSIBLE
from offcomp.ui.model.page import MAP, _pick_clicked
from tests import tiny_models
from tests.minilm import minilm_info
from tests.pages import at, home, listed, texts

__all__ = ["home"]  # a fixture


@pytest.fixture
def app(home: Path) -> AppTest:
    """The page with an empty home. It has not been run yet."""
    return at("model")


def test_it_answers_at_once_where_the_parameters_are(app: AppTest) -> None:
    app.run()
    assert not app.exception
    assert app.title[0].value == "Where are the parameters?"
    assert "Word embeddings account for 52 % of the 22.7 M parameters; FFN 31 %, attention 16 %." in texts(app)
    assert len(app.get("plotly_chart")) == 2
    assert all(chart.proto.alt for chart in app.get("plotly_chart"))
    assert [button.label for button in app.get("download_button")] == ["Parameters, CSV", "Shares, CSV"]
    assert "37 of 40 weight matrices are recognised" in texts(app)
    assert "`minilm-l6`" in texts(app)


def test_the_selector_picks_a_module(app: AppTest) -> None:
    app.run()
    app.selectbox(key="model_module").set_value("word_embeddings").run()
    assert not app.exception
    assert app.session_state["inspected"] == "word_embeddings"
    assert "30,522 x 384" in texts(app)
    assert "model_compress_kind" not in {button.key for button in app.button}


def test_a_click_picks_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    info = minilm_info()

    def clicked(*names: str) -> str | None:
        points = [{"customdata": [name]} for name in names]
        state = {"inspected": None, MAP: PlotlyState({"selection": {"points": points}})}
        monkeypatch.setattr(st, "session_state", state)
        _pick_clicked(info)
        return state["inspected"]

    assert clicked("ffn_out.4") == "ffn_out.4"
    assert clicked() is None
    assert clicked("of.another.model") is None


def test_the_picked_kind_goes_to_compress(app: AppTest) -> None:
    app.run()
    app.selectbox(key="model_module").set_value("value.2").run()
    app.button(key="model_compress_kind").click().run()
    assert not app.exception
    assert app.session_state["draft_modules"] == tuple(f"value.{layer}" for layer in range(6))
    assert app.title[0].value == "What if these weights were smaller?"


def test_compressible_is_exact_and_says_what_is_not_known(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("offcomp.ui.model.page.request_spectra", lambda _, plan: asked.append(plan) or "no room on the disk")
    app.run()
    app.session_state["model_colour"] = COMPRESSIBLE
    app.run()
    assert not app.exception
    assert "SVD preserves key.0 best, with a relative error of 0.560" in texts(app)
    assert "3 of 40 weight matrices are left out: no error is known yet" in texts(app)
    assert "Exact SVD errors for each separate matrix" in texts(app)
    app.session_state["dtype"] = "int8"
    app.select_slider(key="ratio").set_value(2.0).run()
    assert "At 2x, SVD preserves" in texts(app)
    assert "SVD errors before rounding to int8 for each separate matrix" in texts(app)
    app.button(key="model_spectra_button").click().run()
    assert [len(plan.groups) for plan in asked] == [3]
    assert "no room on the disk" in texts(app)
    assert app.button(key="try_again").label == "Try again"


def test_a_model_with_unrecognised_weights_has_a_map_and_gets_its_spectra(app: AppTest, home: Path, tmp_path: Path) -> None:
    app.session_state["model"] = listed(tiny_models.save(tiny_models.mpnet(), tmp_path / "mpnet"), home)
    app.session_state["model_colour"] = COMPRESSIBLE
    app.run()
    assert not app.exception
    assert "not known yet for any of 16 weight matrices" in texts(app)
    assert "not recognised" in texts(app)
    app.button(key="model_spectra_button").click().run()
    assert "Computing 16 missing spectra" in texts(app)
    deadline = time.monotonic() + 100
    while "best, with a relative error" not in texts(app) and time.monotonic() < deadline:
        time.sleep(1)
        app.run()
    assert not app.error
    assert "best, with a relative error" in texts(app)


def test_a_bad_model_is_one_sentence_and_the_way_to_a_good_one_stays(app: AppTest) -> None:
    app.session_state["model"] = "/nowhere"
    app.run()
    assert not app.exception
    assert len(app.error) == 1
    assert "/nowhere" in app.error[0].value
    assert "A folder" in texts(app)
