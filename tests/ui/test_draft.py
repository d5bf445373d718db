"""The draft: how a link stores and restores it, and how parts of a link that cannot be restored are reported."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some
from streamlit.testing.v1 import AppTest

from offcomp.plain_text import is_plain
from offcomp.planning.grouping import STACKS
from offcomp.ui import draft, link
from tests.pages import home, open_part, opened, step, strip, texts

__all__ = ["home"]  # a fixture
pytestmark = pytest.mark.usefixtures("home")


def link_of(app: AppTest) -> dict[str, str]:
    """Return the parameters of the URL that the app has set."""
    return {name: value if isinstance(value, str) else value[0] for name, value in app.query_params.items()}


NAMES = some.lists(
    some.one_of(
        some.builds("{}.{}".format, some.sampled_from(["query", "encoder.key"]), some.integers(0, 30)),
        some.builds("w.{:02}".format, some.integers(0, 12)),
        some.sampled_from(["word_embeddings", "pooler.dense", "none", "w.1-3", "w.1-3.1", "w.1-3.2", "a,b", "a;b~rows", "%2C"]),
        some.text(min_size=1).filter(is_plain),
    ),
    unique=True,
)


@given(NAMES)
def test_names_in_short_are_the_same_names(names: list[str]) -> None:
    assert link.full(link.short(names)) == tuple(names)


@given(some.lists(some.tuples(NAMES.filter(len).map(tuple), some.sampled_from(STACKS)), min_size=1))
def test_groups_in_a_link_are_the_same_groups(groups: list[link.OwnGroup]) -> None:
    assert link._read_groups(link._write_groups(groups)) == tuple(groups)


def test_a_whole_kind_is_short() -> None:
    assert link.short(["encoder.query.10", "encoder.query.11", "key.01"]) == "encoder.query.10-11,key.01"
    assert link.short([f"query.{layer}" for layer in range(48)]) == "query.0-47"


def test_a_first_visit_has_a_bare_address() -> None:
    assert link_of(opened("compress")) == {}


def test_a_link_opens_the_same_draft_in_another_browser() -> None:
    app = open_part(opened("compress"), "methods")
    app.button_group(key="methods").set_value(["svd", "codebook"]).run()
    app.select_slider(key="ratio").set_value(8.0).run()
    open_part(app, "groups").selectbox(key="grouping").set_value("module").run()
    link = link_of(app)
    assert link == {"methods": "svd,codebook", "ratio": "8", "together": "module"}
    other = opened("compress", **link)
    assert link_of(other) == link
    assert other.session_state["ratio"] == 8.0
    assert set(strip(app)["Relative error"]) == {"Original", "SVD", "Autoencoder, codebook"}
    assert strip(other) == strip(app)


def test_a_correction_is_part_of_the_draft_and_asks_for_text() -> None:
    app = open_part(opened("compress"), "methods")
    assert not [box for box in app.expander if box.label == "Calibration text"]
    app.segmented_control(key="correct").set_value("biases").run()
    assert link_of(app) == {"correct": "biases"}
    assert [box for box in app.expander if box.label == "Calibration text"]
    assert opened("compress", correct="biases").session_state["correct"] == "biases"
    assert "ignored: the choices are nothing, shift, biases, norms" in texts(opened("compress", correct="all"))


@pytest.mark.parametrize(("seconds", "ratio"), [(3600.0, 8.0), (0.0, 4.0)], ids=["an echo", "a link"])
def test_an_address_that_lags_behind_the_draft_undoes_nothing(
    seconds: float, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After fast clicks, the browser may still send a previous URL, which is ignored; later, the same URL counts as a link."""
    monkeypatch.setattr(draft, "ECHO_SECONDS", seconds)
    app = opened("compress")
    for chosen in (4.0, 8.0):
        app.select_slider(key="ratio").set_value(chosen).run()
    app.query_params["ratio"] = "4"
    app.run()
    assert app.session_state["ratio"] == ratio and link_of(app)["ratio"] == f"{ratio:g}"


def test_the_draft_goes_along_to_every_page() -> None:
    app = opened("compress", modules="value.0-2", ratio="4")
    step(app, "runs")
    assert link_of(app) == {"modules": "value.0-2", "ratio": "4"}
    step(app, "inspect")
    assert link_of(app) == {"modules": "value.0-2", "ratio": "4"}
    assert "Value (3 matrices)" in texts(app)
    assert app.select_slider(key="ratio").value == 4.0


def test_the_draft_goes_along_from_one_page_of_the_lab_to_another_by_link_and_by_button() -> None:
    app = opened("inspect", model="offcomp-bert", ratio="8", methods="svd")
    for page in ("groups", "inspect"):
        step(app, page)
        assert (app.selectbox(key="model").value, app.select_slider(key="ratio").value) == ("offcomp-bert", 8.0)
        assert link_of(app) == {"model": "offcomp-bert", "methods": "svd", "ratio": "8"}
    app.button(key="inspect_compress").click().run()
    assert not app.exception and app.title[0].value == "What if these weights were smaller?"
    assert (app.selectbox(key="model").value, app.select_slider(key="ratio").value) == ("offcomp-bert", 8.0)
    assert (link_of(app)["model"], link_of(app)["ratio"]) == ("offcomp-bert", "8")


@pytest.mark.parametrize("page", ["model", "inspect", "groups", "compress"])
def test_every_page_of_the_lab_says_the_plan_in_one_sentence(page: str) -> None:
    app = opened(page, ratio="5", methods="svd,svd,codebook,svd", together="module")
    assert open_part(app, "methods").button_group(key="methods").value == ["svd", "codebook"]
    app.select_slider(key="ratio").set_value(8.0).run()
    summaries = [caption.value for caption in app.caption if "(12 matrices)" in caption.value]
    assert summaries == [
        "Query and key (12 matrices); each module alone; scored on similarity and embeddings of prose (fidelity)."
    ]


def test_options_of_a_method_are_part_of_the_link() -> None:
    options = json.dumps({"svd": {"preset": "direction"}})
    app = opened("compress", options=options)
    assert open_part(app, "methods").selectbox(key="option_svd_preset").value == "direction"
    assert json.loads(link_of(app)["options"]) == json.loads(options)


def test_own_groups_are_the_plan() -> None:
    app = opened(
        "compress", groups="key.0-1~columns;value.0-1~rows", together="own", modules="key.0-1,value.0-1", methods="svd"
    )
    assert "Key and value (4 matrices); 2 custom groups; scored on" in texts(app)
    assert open_part(app, "groups").selectbox(key="grouping").value == link.OWN
    assert not app.error


@pytest.mark.parametrize(
    ("parameter", "text", "why"),
    [
        ("ratio", "7.77", "the choices are 1.25, 1.5"),
        ("methods", "svd,magic", "the choices are svd"),
        ("modules", "query.0,nothing.3", "has no modules with these names"),
        ("module", "nothing.3", "has no module with this name"),
        ("together", "own", "the link lists none"),
        ("seed", "-1", "it must be an integer from 0 to"),
        ("seed", "one", "it must be an integer from 0 to"),
        ("ratio", "two", "the choices are 1.25, 1.5"),
        ("options", '{"svd":{"preset":"magic"}}', "choose one of"),
        ("options", "[1]", "This part of the link is ignored"),
        ("modules", "query.5-2", "is not a valid layer range"),
    ],
)
def test_what_a_link_asks_for_in_vain_is_said(parameter: str, text: str, why: str) -> None:
    app = opened("inspect" if parameter == "module" else "compress", **{parameter: text})
    assert any(why in warning.value for warning in app.warning), [warning.value for warning in app.warning]
    assert link_of(app).get(parameter, "") in ("", "query.0")
