"""Inspect without a browser: bundled spectra, pictures from a file, links, waiting, and matrices that cannot be drawn."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from streamlit.testing.v1 import AppTest

from offcomp.models.listing import known_info, model_info
from offcomp.planning.matrix_view import save_view, view_path
from offcomp.planning.matrix_view_fit import view_arrays
from offcomp.ui.inspect import page as inspecting
from offcomp.ui.jobs import request_view
from tests import tiny_models
from tests.pages import home, opened, texts
from tests.planning.test_matrix_view import made

__all__ = ["home"]  # a fixture
CHARTS = ("spectrum", "energy", "original", "reconstruction", "residual", "rows")


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent the process that computes the pictures from being started."""
    monkeypatch.setattr(inspecting, "request_view", lambda *_: "working")


def slider(app: AppTest) -> Any:
    return next(each for each in app.slider if each.label == "Rank")


def keep_view(home: Path, model: str, module: str, matrix: torch.Tensor | None = None) -> None:
    """Write the file that `offcomp inspect` would write for a module, with this matrix or made-up values as its weights."""
    info = known_info(model, home)
    assert info is not None
    spec = info.module(module)
    save_view(view_path(info, spec, home), spec.shape, view_arrays(made(spec.shape) if matrix is None else matrix))


def test_the_bundled_spectrum_is_there_at_once(home: Path) -> None:
    app = opened("inspect", module="query.3")
    assert "At rank 64 of 384, query.3 keeps 63 % of its energy and needs 33 % as many parameters." in texts(app)
    assert "Reading the weights of query.3" in texts(app)
    assert "Singular values: bundled or cached" in texts(app)
    charts = app.get("plotly_chart")
    assert ["query.3" in chart.proto.alt for chart in charts] == [True, True]
    slider(app).set_value(250).run()
    assert "but needs 130 % as many parameters: from rank 192 on, nothing is saved." in texts(app)


def test_pictures_follow_the_rank_and_the_choices(home: Path) -> None:
    keep_view(home, "minilm-l6", "query.3")
    app = opened("inspect", module="query.3", rank="50", order="norm", residual="5")
    assert slider(app).value == 50
    assert len(app.get("plotly_chart")) == len(CHARTS)
    assert all(chart.proto.alt for chart in app.get("plotly_chart"))
    assert "Each cell averages 3 x 3 weights." in texts(app)
    assert "except that the residual is amplified 5x" in texts(app)
    assert " (numbered from the longest)." in texts(app)
    assert "all 384 rows" in texts(app)
    assert "computed on this machine from the weights" in texts(app)
    assert not app.dataframe
    for purpose in ("spectrum", "blocks", "rows"):
        app.session_state[f"inspect_{purpose}_open"] = True
    app.run()
    assert [len(table.value) for table in app.dataframe] == [384, 256, 384]
    assert len(app.get("download_button")) == 3
    app.toggle(key="inspect_times").set_value(False).run()
    assert (app.query_params["order"], "residual" in app.query_params) == ("norm", False)
    slider(app).set_value(384).run()
    assert "The residual is zero" in texts(app)
    app.selectbox(key="inspect_module").set_value("ffn_in.0").run()
    assert not app.exception
    assert "of 384, ffn_in.0 keeps" in texts(app)


def test_the_matrix_goes_to_the_page_compress(home: Path) -> None:
    app = opened("inspect", module="value.2")
    app.button(key="inspect_compress").click().run()
    assert not app.exception
    assert app.session_state["draft_modules"] == ("value.2",)


def test_a_rank_that_is_not_there_is_named(home: Path) -> None:
    app = opened("inspect", module="query.3", rank="9999")
    assert "The link asks for rank 9999, but for query.3 the rank must be between 1 and 384." in texts(app)
    assert slider(app).value == 64


@pytest.mark.parametrize(("name", "why"), [("order", "the choices are stored, norm"), ("residual", "the choices are 1, 5")])
def test_a_drawing_that_is_not_there_is_named(home: Path, name: str, why: str) -> None:
    app = opened("inspect", module="query.3", **{name: "sideways"})
    assert f"The link asks for {name}='sideways'. This part of the link is ignored: {why}." in texts(app)
    assert name not in app.query_params


def test_a_failure_says_why_and_can_be_tried_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspecting, "request_view", lambda *_: "the weight 'x' has 3 values that are NaN")
    app = opened("inspect", module="query.3")
    assert "the weight 'x' has 3 values that are NaN" in app.error[0].value
    assert len(app.get("plotly_chart")) == 2
    monkeypatch.setattr(inspecting, "request_view", lambda *_: "working")
    app.button(key="try_again").click().run()
    assert not app.error
    assert "Reading the weights of query.3" in texts(app)


def test_a_model_without_bundled_spectra_is_drawn_from_its_file(home: Path, tmp_path: Path) -> None:
    folder = str(tiny_models.save(tiny_models.bert_classifier(), tmp_path / "bert"))
    model_info(folder, home)
    app = opened("inspect", model=folder, module="key.1")
    assert "Its singular values have not been computed yet." in texts(app)
    assert not app.get("plotly_chart")
    keep_view(home, folder, "key.1", torch.zeros(tiny_models.HIDDEN, tiny_models.HIDDEN))
    app.run()
    assert "key.1 contains only zeros" in texts(app)
    assert "none has a direction" in texts(app)
    assert len(app.get("plotly_chart")) == len(CHARTS) - 1


def test_a_matrix_of_one_row(home: Path, tmp_path: Path) -> None:
    config = transformers.BertConfig(**tiny_models.BERT_SIZES, num_labels=1)
    folder = str(tiny_models.save(transformers.BertForSequenceClassification(config), tmp_path / "bert"))
    info = model_info(folder, home)
    name = next(spec.name for spec in info.modules if spec.rows == 1)
    keep_view(home, folder, name)
    app = opened("inspect", model=folder, module=name)
    assert "has only one singular value, so rank 1 is the matrix itself" in texts(app)
    assert "for a matrix this narrow, no rank saves anything" in texts(app)
    assert not [each for each in app.slider if each.label == "Rank"]


def test_the_file_is_really_made_by_a_process_of_its_own(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspecting, "request_view", request_view)
    folder = str(tiny_models.save(tiny_models.llama(), tmp_path / "llama", tokenizer=False))
    model_info(folder, home)
    app = opened("inspect", model=folder, module="ffn_gate.1")
    deadline = time.monotonic() + 240
    while not app.get("plotly_chart") and time.monotonic() < deadline:
        time.sleep(0.5)
        app.run()
        assert not app.exception
        assert not app.error
    assert len(app.get("plotly_chart")) == len(CHARTS)
