"""Inspect without a browser: bundled spectra, pictures from files, methods side by side, links, waiting, damaged runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from streamlit.testing.v1 import AppTest

from offcomp.files import write_json
from offcomp.models.catalogue import ModelInfo
from offcomp.models.listing import known_info, model_info
from offcomp.models.loading import load
from offcomp.planning.matrix_view import save_view, view_path
from offcomp.planning.matrix_view_fit import make_view, view_arrays
from offcomp.planning.plan import Group, Plan
from offcomp.results.inspect import percent
from offcomp.runs.live_answers import answer
from offcomp.runs.store import RunStore
from offcomp.runs.worker import work
from offcomp.runs.worker_process import Worker
from offcomp.ui.inspect import entry, methods
from offcomp.ui.inspect import page as inspecting
from offcomp.ui.jobs import request_view
from tests import tiny_models
from tests.pages import home, opened, texts
from tests.planning.test_matrix_view import made

__all__ = ["home"]  # a fixture
CHARTS = ("spectrum", "energy", "original", "reconstruction", "residual", "rows")
ONLY_SVD = {"methods": "svd"}


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
    app = opened("inspect", module="query.3", rank="50", order="norm", **ONLY_SVD)
    assert slider(app).value == 50
    assert len(app.get("plotly_chart")) == len(CHARTS)
    assert all(chart.proto.alt for chart in app.get("plotly_chart"))
    assert "Each cell stands for 4 x 4 weights." in texts(app)
    assert " (numbered from the longest)." in texts(app)
    assert "all 384 rows" in texts(app)
    assert "computed on this machine from the weights" in texts(app)
    (worst,) = app.dataframe
    assert worst.value["SVD"].str.fullmatch(r"row \d+: 0\.\d\d").all()
    for purpose in ("methods", "blocks", "rows", "spectrum"):
        app.session_state[f"inspect_{purpose}_open"] = True
    app.run()
    assert [len(table.value) for table in app.dataframe] == [5, 1, 192, 384, 384]
    assert len(app.get("download_button")) == 4
    assert app.query_params["order"] == "norm"
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


def test_an_order_or_a_method_that_is_not_there_is_named(home: Path) -> None:
    keep_view(home, "minilm-l6", "query.3")
    app = opened("inspect", module="query.3", order="sideways", show="magic,svd")
    fault = "The link asks for order='sideways'. This part of the link is ignored: the choices are stored, norm."
    assert fault in texts(app)
    assert "order" not in app.query_params
    assert "The link asks for magic, but the methods are svd, autoencoder," in texts(app)
    assert app.multiselect[0].value == ["svd"]


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
    app = opened("inspect", model=folder, module="key.1", **ONLY_SVD)
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
    app = opened("inspect", model=folder, module="ffn_gate.1", **ONLY_SVD)
    deadline = time.monotonic() + 240
    while not app.get("plotly_chart") and time.monotonic() < deadline:
        time.sleep(0.5)
        app.run()
        assert not app.exception
        assert not app.error
    assert len(app.get("plotly_chart")) == len(CHARTS)


SHOWN = "svd,codebook,autoencoder"
RANK = 8


@pytest.fixture
def compressed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny model with a run that stores query.0 as a codebook, at the bytes of SVD at RANK. Questions are answered here."""
    folder = str(tiny_models.save(tiny_models.shared("bert"), tmp_path / "bert"))
    info = model_info(folder, home)
    spec = info.module("query.0")
    make_view(info, spec, home)
    ratio = spec.num_bytes / (4 * RANK * (spec.rows + spec.cols))
    group = Group(
        name="query", modules=("query.0",), method="autoencoder", options={"preset": "codebook"}, ratio=ratio, unit="bytes"
    )
    run = home / "runs" / "codes"
    write_json(run / "plan.json", Plan(model=folder, groups=(group,), tasks=()).to_dict())
    worker = Worker(run)
    assert worker.conclude("done", outcome=work(worker))

    def ask(asked: ModelInfo, question: dict[str, Any], **_: Any) -> dict[str, Any]:
        return answer(question, load(asked.model), home)

    monkeypatch.setattr(methods, "ask", ask)
    monkeypatch.setattr(entry, "ask", ask)
    return folder


def test_methods_stand_side_by_side_and_an_entry_is_computed(home: Path, compressed: str) -> None:
    run = RunStore(home).get("codes")
    assert run.result
    lost = percent(run.result.groups[0].relative_error ** 2)
    app = opened("inspect", model=compressed, module="query.0", show=SHOWN, rank=str(RANK))
    alts = [chart.proto.alt for chart in app.get("plotly_chart")]
    assert "Heat map of query.0: Autoencoder, codebook Reconstruction." in alts
    answers = (f"the codebook autoencoder loses {lost} of the energy of query.0", f"and the codebook autoencoder {lost}.")
    assert any(each in texts(app) for each in answers)
    assert "No finished run stores this matrix at about" in texts(app)
    assert app.button(key="inspect_fit_autoencoder").label.startswith("Fit it now (about")
    assert (run.folder / "pictures" / "query.0.npz").is_file()
    assert app.query_params["show"] in (SHOWN, [SHOWN])
    app.session_state["inspect_entry_open"] = True
    app.run()
    assert "The original is" in texts(app)
    app.button_group(key="inspect_entry_method").set_value("codebook").run()
    assert not app.exception and not app.error
    steps = app.table[0].value
    assert any(step.startswith("entry ") and "codeword" in step for step in steps["Step"])
    app.number_input[0].set_value(3).run()
    assert "Enter both a row and a column" in texts(app)
    app.number_input[1].set_value(5).run()
    assert "head 0, dimension 3 (row 3), column 5" in texts(app)


def test_a_damaged_run_is_one_sentence_and_a_deleted_one_is_gone(home: Path, compressed: str) -> None:
    file = RunStore(home).get("codes").group_file("query")
    file.write_bytes(file.read_bytes()[:-5])
    app = opened("inspect", model=compressed, module="query.0", show="svd,codebook", rank=str(RANK))
    assert "run codes is damaged" in texts(app) and "run its plan again" in texts(app)
    file.unlink()
    app = opened("inspect", model=compressed, module="query.0", show="svd,codebook", rank=str(RANK))
    assert "run codes is damaged" not in texts(app)
    assert app.button(key="inspect_fit_codebook")


def test_a_method_that_is_too_large_says_so_and_a_rank_that_saves_nothing_too(home: Path, compressed: str) -> None:
    app = opened("inspect", model=compressed, module="query.0", show="svd,autoencoder", rank="1")
    assert "cannot reach this size" in texts(app) or "No finished run" in texts(app)
    app = opened("inspect", model=compressed, module="query.0", show="svd,autoencoder", rank=str(tiny_models.HIDDEN))
    assert "At this rank, SVD saves nothing." in texts(app)
