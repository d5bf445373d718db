"""Budgets in the Lab without a browser: targets, allocation and equal sizes; also the text for calibration."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from offcomp.files import write_json
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.plan import Plan, make_groups, validate
from offcomp.planning.sizes import predict
from offcomp.runs import sensitivity
from offcomp.runs.store import RunStore
from offcomp.ui.lab.strip import _refusals
from tests import tiny_models
from tests.checkpoints import DTYPES, store_as
from tests.minilm import minilm_info
from tests.pages import home, listed, open_part, opened, strip, texts

__all__ = ["home"]  # a fixture
pytestmark = pytest.mark.usefixtures("home")
LINEAR = "query.0-5,key.0-5,value.0-5,attention_output.0-5,ffn_in.0-5,ffn_out.0-5"


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The submitted plans. They are validated as usual, but no worker is started."""
    plans: list[Plan] = []

    def submit(_store: RunStore, plan: Plan, info: ModelInfo) -> SimpleNamespace:
        validate(Plan.from_dict(plan.to_dict()), info)
        plans.append(plan)
        return SimpleNamespace(id=str(len(plans)))

    monkeypatch.setattr(RunStore, "submit", submit)
    return plans


def figure(cell: str) -> float:
    """Return the number at the beginning of a cell of the strip."""
    return float(cell.removeprefix("about ").split()[0].replace(",", ""))


def test_an_error_is_met_with_the_smallest_size(submitted: list[Plan]) -> None:
    app = opened("compress", target="error 0.5", methods="svd", tasks="none")
    shown = strip(app)
    assert 0.495 <= figure(shown["Relative error"]["SVD"]) <= 0.5
    assert "To meet the target (error 0.5), query and key (12 matrices) must become 2.01x smaller with SVD." in texts(app)
    app.button(key="run").click().run()
    assert not app.exception
    (plan,) = submitted
    stored = predict(plan, minilm_info()).model.chosen.parameters_after
    assert figure(shown["Stored parameters"]["SVD"]) == stored


def test_a_target_that_leaves_room_says_how_large_the_weights_can_become(home: Path, tmp_path: Path) -> None:
    model = listed(store_as(tiny_models.save(tiny_models.bert(), tmp_path / "bert"), DTYPES["float16"]), home)
    wider = {"model": model, "unit": "bytes", "dtype": "float32", "together": "module", "tasks": "none"}
    app = opened("compress", target="rank 8", modules="query.0,ffn_in.1", methods="svd,autoencoder", **wider)
    can = "query and FFN in (2 matrices) can become 1.17x larger with SVD or 2x larger with Autoencoder."
    assert f"To meet the target (rank 8), {can}" in texts(app)


def test_a_rank_is_that_of_every_group(submitted: list[Plan]) -> None:
    app = opened("compress", target="rank 64", methods="svd,autoencoder", tasks="none")
    app.button(key="run").click().run()
    assert [[group.rank for group in plan.groups] for plan in submitted] == [[64, 64], [64, 64]]


def test_a_share_of_the_energy_is_only_for_svd(submitted: list[Plan]) -> None:
    app = opened("compress", target="energy 0.9", methods="svd,autoencoder", tasks="none")
    (warning,) = app.warning
    assert warning.value.startswith("Autoencoder: ")
    assert app.button(key="run").label == "Run SVD"
    app.button(key="run").click().run()
    assert [group.energy for group in submitted[0].groups] == [0.9, 0.9]


def test_a_loss_is_met_as_expected_and_its_band_is_shown() -> None:
    link = {"methods": "svd", "tasks": "similarity", "modules": LINEAR, "together": "module", "allocate": "1"}
    app = opened("compress", target="lose 1 point of similarity", **link)
    score = strip(app)["Similarity, correlation"]
    assert figure(score["SVD"]) == pytest.approx(float(score["Original"]) - 0.01, abs=0.002)
    assert "nine in ten measured scores should lie within the band" in texts(app)
    assert "other plans" in texts(app)  # part of the statement on the accuracy of estimates


def test_the_reason_of_the_whole_model_is_given_even_after_another_one() -> None:
    faults = {"A": "not measured yet", "B": "the whole model takes 5 MB", "C": "the whole model takes 6 MB"}
    plan = SimpleNamespace(groups=("one",))
    answers = [SimpleNamespace(title=title, fault=fault, reachable=False, plan=plan) for title, fault in faults.items()]
    lab: Any = SimpleNamespace(answers=answers, choices=SimpleNamespace(unit="bytes"))
    assert _refusals(lab) == ["A: not measured yet.", "B: the whole model takes 5 MB.", "C cannot meet the target either."]


def test_a_size_that_is_out_of_reach_says_what_could_reach_it() -> None:
    app = opened("compress", target="12 MB", methods="svd,autoencoder", tasks="none")
    first, second = (warning.value for warning in app.warning)
    assert "the whole model takes at least 83.8" in first and "could be reached with" in first
    assert second == "Autoencoder cannot meet the target either."
    assert (app.button(key="run").label, app.button(key="run").disabled) == ("Out of reach", True)


def test_a_budget_is_spent_where_it_hurts_least(submitted: list[Plan]) -> None:
    link = {"methods": "svd", "modules": LINEAR, "together": "module", "ratio": "2", "tasks": "similarity"}
    alike, allocated = opened("compress", **link), opened("compress", **link, allocate="1")
    scores = [figure(strip(app)["Similarity, correlation"]["SVD"]) for app in (alike, allocated)]
    assert scores[0] < scores[1]
    sizes = [figure(strip(app)["Stored parameters"]["SVD"]) for app in (alike, allocated)]
    assert sizes[1] <= sizes[0]
    allocated.button(key="run").click().run()
    assert len({group.ratio for group in submitted[0].groups}) > 5
    reasons = next(markdown.value for markdown in allocated.markdown if markdown.value.startswith("- query.0: "))
    assert len(reasons.splitlines()) == 36


FELT = {"methods": "quantization", "unit": "bytes", "ratio": "5", "tasks": "none", "modules": "query.0,ffn_out.0"}


def test_a_budget_is_divided_by_what_was_measured(home: Path, submitted: list[Plan]) -> None:
    link = {**FELT, "together": "module", "allocate": "1", "weighting": "sensitivity"}
    app = opened("compress", **link)
    assert "the sensitivity of query.0, ffn_out.0 has not been measured yet" in app.warning[0].value
    assert (app.button(key="run").label, app.button(key="run").disabled) == ("Measure first", True)
    assert app.button(key="lab_sensitivity_button").label.startswith("Measure how much the model depends on each group (about ")
    groups = make_groups([minilm_info().module(name) for name in ("query.0", "ffn_out.0")], "module", method="quantization")
    plan = Plan(model="minilm-l6", groups=tuple(group.at_ratio(5, "bytes") for group in groups), tasks=())
    for (name, path), felt in zip(sensitivity._paths(plan, minilm_info(), home).items(), (1e-4, 10.0), strict=True):
        rows, cols = minilm_info().module(name).shape
        probes = tuple(
            sensitivity.Probe(
                num_parameters=rows * cols, num_bytes=rows * cols * bits // 8, relative_error=e, loss=felt * e * e
            )
            for bits, e in ((8, 0.01), (5, 0.05), (2, 0.5))
        )
        found = sensitivity.Sensitivity(family="embedding-fidelity", num_texts=32, squared_norm=1.0, probes=probes)
        write_json(path, found.to_dict())
    app = opened("compress", **link)
    assert "the predicted loss is" in texts(app) and not app.warning
    app.button(key="run").click().run()
    first, second = (group.ratio for group in submitted[0].groups)
    assert first > 5 > second


def test_what_a_group_costs_is_judged_by_a_choice_that_is_part_of_the_link() -> None:
    app = open_part(opened("compress", methods="svd", tasks="none"), "budget")
    assert not [radio for radio in app.radio if radio.key == "weighting"]
    app.toggle(key="allocate").set_value(True).run()
    app.radio(key="weighting").set_value("sensitivity").run()
    assert not app.exception
    assert app.query_params["weighting"] in ("sensitivity", ["sensitivity"])
    assert "Calibration text" in {expander.label for expander in open_part(app, "methods").expander}


def test_methods_can_be_set_to_the_same_bytes(submitted: list[Plan]) -> None:
    link = {"methods": "svd,codebook", "unit": "bytes", "ratio": "8", "tasks": "none"}
    before, after = (
        [figure(cell) for method, cell in strip(app)["Stored MB"].items() if method != "Original"]
        for app in (opened("compress", **link), opened("compress", **link, equal="1"))
    )
    assert max(before) > 1.05 * min(before)
    assert max(after) <= 1.06 * min(after)
    app = opened("compress", **link, equal="1")
    app.button(key="run").click().run()
    stored = [predict(plan, minilm_info()).model.chosen.bytes_after / 1e6 for plan in submitted]
    assert stored == [pytest.approx(each, abs=0.005) for each in after]


def test_a_kind_of_budget_is_chosen_and_becomes_part_of_the_link() -> None:
    app = opened("compress", methods="svd", tasks="similarity")
    open_part(app, "budget")
    app.selectbox(key="panel_budget_kind").set_value("megabytes").run()
    assert app.number_input(key="panel_target_megabytes").value == 73.0
    app.number_input(key="panel_target_megabytes").set_value(86.0).run()
    assert app.query_params["target"] in ("86 MB", ["86 MB"])
    assert figure(strip(app)["Whole model, MB"]["SVD"]) <= 86.0
    app.selectbox(key="panel_budget_kind").set_value("loss").run()
    assert app.session_state["target"] == "lose 1 point of similarity"
    app.selectbox(key="panel_budget_kind").set_value("ratio").run()
    assert app.select_slider(key="ratio").value == 3.0
    assert "target" not in app.query_params


@pytest.mark.parametrize("text", ["12 elephants", "3x", "error 7", "energy 0", "rank 1.5", "-5 MB"])
def test_a_target_that_makes_no_sense_is_said(text: str) -> None:
    app = opened("compress", target=text)
    assert "The link asks for target=" in texts(app)
    assert app.select_slider(key="ratio").value == 3.0


def calibrated() -> AppTest:
    """Open Compress with a method that is calibrated on text, open the methods of the plan, and return the app."""
    app = opened("compress", methods="svd", tasks="none", options='{"svd":{"preset":"whitened"}}')
    return open_part(app, "methods")


def test_the_calibration_text_is_chosen_and_uploaded(submitted: list[Plan]) -> None:
    app = calibrated()
    assert "the training sentences of the bundled sentiment task" in texts(app)
    content = "\n".join(f"Line {number} of a text of my own." for number in range(50))
    app.file_uploader(key="upload_text").upload("mine.txt", content.encode()).run()
    assert not app.exception and not app.error
    app.number_input(key="calibration_count").set_value(32).run()
    app.button(key="run").click().run()
    (plan,) = submitted
    assert Path(plan.calibration.text).read_text() == content
    assert plan.calibration.num_texts == 32


def test_a_text_that_cannot_be_used_is_a_sentence_and_the_usual_one_stays(submitted: list[Plan]) -> None:
    app = calibrated()
    app.file_uploader(key="upload_text").upload("empty.txt", b"\n\n").run()
    assert not app.exception
    assert "contains no text" in app.error[0].value
    app.button(key="run").click().run()
    assert submitted[0].calibration.text == "bundled"


def test_a_method_without_text_has_no_calibration() -> None:
    app = open_part(opened("compress", methods="svd", tasks="none"), "methods")
    assert "Calibration text" not in {expander.label for expander in app.expander}
