"""Whatever a link contains, its page opens completely and reports which parts of the link are ignored."""

from __future__ import annotations

import json

import pytest

from tests.pages import home, open_part, opened, texts

__all__ = ["home"]  # a fixture
DEEP = "[" * 3000
FAR_TOO_LONG = "x" * 60_000
VALUES = {
    "deep nesting": DEEP,
    "a deep object": '{"a":' * 3000,
    "far too long": FAR_TOO_LONG,
    "no JSON": "{svd",
    "not a number": '{"autoencoder": {"epochs": NaN}}',
    "a list": "[1, 2]",
    "a list of a method": '{"svd": [1]}',
    "a name twice": '{"svd": {}, "svd": {}}',
    "half a character": '{"svd": {"preset": "\\ud800"}}',
    "half a name": '{"\\ud800": {}}',
    "another type": '{"autoencoder": {"epochs": "many"}}',
    "an endless number": '{"autoencoder": {"epochs": ' + "9" * 5000 + "}}",
    "a control character": "\x1b[31mred",
    "text direction": "\u202eevil",
    "base64": "JTAwJTAw////",
}


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("kind", VALUES)
def test_options_that_make_no_sense_are_said(kind: str) -> None:
    app = opened("compress", options=VALUES[kind])
    assert app.title[0].value == "What if these weights were smaller?"
    (said,) = [warning.value for warning in app.warning]
    assert said.startswith("The link asks for") and "This part of the link is ignored: " in said
    assert len(said) < 600 and said.encode()  # a lone surrogate cannot be encoded
    assert app.button(key="run")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "value", [DEEP, FAR_TOO_LONG, "\x1b[31mred", "a.0-999," * 1500, "%ED%A0%80", "~rows;" * 500, "nan", "9" * 5000]
)
@pytest.mark.parametrize(
    ("page", "parameters"),
    [
        ("compress", ("model",)),
        ("compress", ("modules", "groups", "together", "methods", "ratio", "seed", "tasks", "block")),
        *(("inspect", ("module", "rank")), ("groups", ("kinds", "at")), ("compare", ("runs",)), ("", ("x",))),
        *(("examples", ("run",)), ("atlas", ("task", "quality", "probes"))),
    ],
)
def test_every_parameter_of_every_page_holds(page: str, parameters: tuple[str, ...], value: str) -> None:
    app = opened(page, **dict.fromkeys(parameters, value))
    assert app.title
    assert app.sidebar.caption
    assert len(texts(app)) < 60_000


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("value", ["\x1b[31mred", "a.0-999," * 1500, "a%ED%A0%80b", "~rows;" * 500, "%0A%1B"])
def test_modules_that_make_no_sense_are_left_out(value: str) -> None:
    app = opened("compress", modules=value)
    assert "The link asks for" in texts(app)
    assert app.button(key="run")


@pytest.mark.usefixtures("home")
def test_a_link_with_one_bad_option_sets_none() -> None:
    asked = {"svd": {"preset": "plain"}, "autoencoder": {"epochs": 12, "no_such": 1}}
    app = opened("compress", options=json.dumps(asked), methods="svd,autoencoder")
    assert "'no_such'" in texts(app)
    assert open_part(app, "methods").number_input(key="option_autoencoder_epochs").value != 12
