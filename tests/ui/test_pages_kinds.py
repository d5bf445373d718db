"""The form on the page Model that corrects the kinds of a model whose family is not known."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import streamlit as st
from playwright.sync_api import Browser, Page, expect
from streamlit.testing.v1 import AppTest

from offcomp.models.identity import KINDS_FILE
from offcomp.models.listing import model_info
from offcomp.ui.model.kinds import UNDO
from tests import tiny_models
from tests.pages import at, home, listed, texts
from tests.serving import served, settled, visit

__all__ = ["home"]  # a fixture

QUERY, KEY = (f"encoder.layer.*.attention.self.{name}" for name in ("query", "key"))


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    """A model of a family that no list names."""
    return Path(listed(tiny_models.save(tiny_models.ernie(), tmp_path / "ernie"), home))


@pytest.fixture
def app(folder: Path) -> AppTest:
    app = at("model")
    app.session_state["model"] = str(folder)
    return app


def choose(monkeypatch: pytest.MonkeyPatch, **kinds: str) -> list[pd.DataFrame]:
    """Choose these kinds, by last word of the pattern, as if in the browser; returns the tables shown."""
    shown = []

    def edited(table: pd.DataFrame, **_: object) -> pd.DataFrame:
        shown.append(table)
        words = table["pattern"].str.rpartition(".")[2]
        return table.assign(kind=[kinds.get(word, kind) for word, kind in zip(words, table["kind"], strict=True)])

    monkeypatch.setattr(st, "data_editor", edited)
    return shown


def test_the_page_says_what_structure_tells(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = choose(monkeypatch)
    app.run()
    assert not app.exception
    assert "Kinds of 14 matrices were recognised by structure, since offcomp does not know the family ernie." in texts(app)
    rows = {row.pattern: (row.kind, row.matrices) for row in shown[-1].itertuples()}
    assert rows[QUERY] == ("query", 2)
    assert rows["embeddings.word_embeddings"] == ("word_embeddings", 1)
    assert app.button(key="model_kinds_apply").disabled and app.button(key="model_kinds_undo").disabled


def test_kinds_are_kept_with_the_model_and_can_be_taken_back(
    app: AppTest, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model_info(str(folder), home)
    choose(monkeypatch, query="key", key="query")
    app.run()
    app.button(key="model_kinds_apply").click().run()
    assert not app.exception
    assert json.loads((folder / KINDS_FILE).read_text()) == {QUERY: {"kind": "key"}, KEY: {"kind": "query"}}
    after = model_info(str(folder), home)
    assert after.module("key.1").path == before.module("query.1").path
    assert "Kinds of 10 matrices were recognised by structure" in texts(app)
    choose(monkeypatch)
    app.run()
    app.button(key="model_kinds_undo").click().run()
    assert not app.exception
    assert not (folder / KINDS_FILE).exists()
    assert model_info(str(folder), home) == before


def test_what_does_not_fit_is_explained_and_cannot_be_applied(app: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, key="query")
    app.run()
    assert "This table makes two modules 'query.0'; give one of them another kind, layer or part." in texts(app)
    assert app.button(key="model_kinds_apply").disabled


def test_a_known_family_has_no_form(home: Path) -> None:
    app = at("model").run()
    assert "model_kinds_apply" not in {button.key for button in app.button}
    assert "by structure" not in texts(app)


@pytest.mark.browser
def test_in_a_browser(browser: Browser, folder: Path, home: Path) -> None:
    """A kind is chosen in the table, applied, and taken back."""
    with served(home) as address, visit(browser, address) as app:
        page = app.page
        app.open(f"/model?model={folder}")
        page.get_by_text("Correct the kinds of matrices").click()
        settled(page)
        choose_kind(page, row=4, kind="router")
        page.get_by_role("button", name="Apply").click()
        expect(page.get_by_role("button", name=UNDO)).to_be_enabled()
        settled(page)
        ((pattern, answer),) = json.loads((folder / KINDS_FILE).read_text()).items()
        assert (pattern.startswith("encoder.layer.*"), answer) == (True, {"kind": "router"})
        changed = [spec for spec in model_info(str(folder), home).modules if spec.kind == "router"]
        assert [spec.layer for spec in changed] == [0, 1]
        page.get_by_role("button", name=UNDO).click()
        expect(page.get_by_role("button", name=UNDO)).to_be_disabled()
        assert not (folder / KINDS_FILE).exists()


def choose_kind(page: Page, row: int, kind: str) -> None:
    """Choose a kind in a row of the table, which is drawn on a canvas."""
    table = page.get_by_test_id("stDataFrame").first
    table.scroll_into_view_if_needed()
    settled(page)
    grid = table.bounding_box()
    assert grid
    x, y = grid["x"] + 60, grid["y"] + 35 * (row + 1.5)
    page.mouse.dblclick(x, y)
    page.get_by_role("option", name=kind, exact=True).click()
    page.keyboard.press("Enter")
