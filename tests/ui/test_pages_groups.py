"""Groups without a browser: complete on the first visit, even if stacking is harmful or there is nothing to compare."""

from __future__ import annotations

import time
from pathlib import Path

from offcomp.files import read_json
from offcomp.models.listing import model_info
from offcomp.results import bundled
from tests import tiny_models
from tests.made_runs import made_group, made_run, put_in_home
from tests.pages import home, opened, texts

__all__ = ["home"]  # a fixture


def test_the_first_visit_is_complete_and_its_groups_become_the_draft(home: Path) -> None:
    app = opened("groups")
    assert "falls from 0.519 to 0.500 at the same size; with stacking by rows, it rises to 0.583" in texts(app)
    assert len(app.get("plotly_chart")) == 2
    assert "11 of 15 pairs benefit from stacking." in texts(app)
    assert "Bundled: minilm-l6 at 2x" in texts(app)
    assert app.slider[0].value == 4
    app.slider[0].set_value(2).run()
    assert "**attention output 1-2**: gain 0.034" in texts(app) and "Not grouped: attention output 0, 5" in texts(app)
    app.button(key="groups_use").click().run()
    assert not app.exception and not app.error
    assert app.title[0].value == "What if these weights were smaller?"
    assert (app.session_state["grouping"], app.session_state["ratio"]) == (
        "own",
        2.0,
    )  # the ratio at which the groups were found
    assert app.session_state["draft_groups"][0] == (("attention_output.1", "attention_output.2"), "columns")
    assert len(app.session_state["draft_groups"]) == 4


def test_a_stacking_that_hurts_is_shown_as_hurting(home: Path) -> None:
    app = opened("groups")
    app.button_group(key="groups_stacking").set_value("rows").run()
    assert not app.exception
    assert "rises from 0.519 to 0.583" in texts(app) and "None of 15 pairs benefit from stacking." in texts(app)
    assert app.slider[0].value == 0
    app.slider[0].set_value(5).run()
    assert "**attention output 0-5**: loss 0.064" in texts(app)
    assert app.query_params["stacked"] == "rows"


def test_one_matrix_has_nothing_to_share_with_and_a_link_is_followed(home: Path) -> None:
    app = opened("groups", kinds="word_embeddings,nonsense", at="3", stacked="columns")
    assert app.selectbox(key="groups_ratio").value == 3.0
    assert "The link asks for nonsense" in texts(app)
    assert "has only one matrix of kind word embeddings, so there is nothing to compress word_embeddings with" in texts(app)
    assert not app.get("plotly_chart")
    assert app.button(key="groups_add").label == "Add attention output"


def test_a_ratio_or_stacking_that_is_not_there_is_named_and_the_usual_one_shown(home: Path) -> None:
    app = opened("groups", at="7.77", stacked="sideways")
    assert "The link asks for at='7.77'. This part of the link is ignored: the choices are 2, 1.25, 1.5," in texts(app)
    assert "The link asks for stacked='sideways'. This part of the link is ignored: the choices are best, rows," in texts(app)
    assert app.selectbox(key="groups_ratio").value == 2.0
    assert not {"at", "stacked"} & set(app.query_params)


def test_another_model_is_compared_in_the_background(home: Path, tmp_path: Path) -> None:
    folder = tiny_models.save(tiny_models.gpt2(), tmp_path / "gpt2")
    model_info(str(folder), home)
    app = opened("groups", model=str(folder), kinds="ffn_in,ffn_out", at="1.5")
    assert "pairs of" in texts(app) and "The result will appear automatically" in texts(app)
    deadline = time.monotonic() + 240
    while not app.get("plotly_chart") and time.monotonic() < deadline:
        time.sleep(2)
        app.run()
        assert not app.exception and not app.error
    assert "Yours: " in texts(app)


def test_what_runs_measured_with_other_methods_is_stated(home: Path) -> None:
    app = opened("groups")
    assert "No finished run compresses exactly these modules with another method at about 2x." in texts(app)
    document = read_json(bundled.FOLDER / bundled.FILES[0])
    names = [f"attention_output.{layer}" for layer in range(6)]
    codebook = {"method": "autoencoder", "options": {"preset": "codebook"}}
    groups = [made_group("g", 0.123, modules=names, ratio=2.0, parameter_ratio=2.0, stack="columns", **codebook)]
    run = made_run("joint", groups).result
    assert run
    made = run.to_dict() | {"model": run.to_dict()["model"] | {"fingerprint": document["model"]["fingerprint"]}}
    put_in_home(home, made, "0" * 12, submitted=1.0)
    app = opened("groups")
    assert "Autoencoder, codebook: relative error 0.123 in" in texts(app)
    assert "not measured separately (measured at about 2x)." in texts(app)
