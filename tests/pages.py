"""Pages of the app, run without a browser in an empty home, and what they say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from offcomp.ui import jobs
from offcomp.ui.frame import DOORS, PAGES

ROOT = Path(__file__).resolve().parents[1]
PATHS = ["/" if path == "app.py" else f"/{Path(path).stem}" for path, _, _ in PAGES]
"""The addresses of all pages, in the order of the sidebar."""
LAB = [f"/{Path(path).stem}" for path, _, _ in DOORS["Lab"]]
"""The addresses of the pages of the Lab."""
STRIP = "At this size"
"""The first heading of the strip."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home, models allowed in the folder of the test, no caches of earlier pages; what pages started ends with it."""
    home = tmp_path / "home"
    monkeypatch.setenv("OFFCOMP_HOME", str(home))
    monkeypatch.setenv("OFFCOMP_MODEL_ROOTS", os.pathsep.join([str(tmp_path), str(ROOT)]))
    st.cache_data.clear()
    st.cache_resource.clear()
    yield home
    for job in jobs._jobs().working.values():
        job.process.kill()
        job.process.wait()


def at(page: str = "", **parameters: str) -> AppTest:
    """The app at a page, or at Start, by a link with these parameters; it is not run yet."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    if page:
        app.switch_page(f"pages/{page}.py")
    for name, text in parameters.items():
        app.query_params[name] = text
    return app


def listed(folder: Path, home: Path) -> str:
    """A model's folder as the draft's model, listed already, so that no page starts a process for it."""
    from offcomp.models.listing import model_info

    model_info(str(folder), home)
    return str(folder)


def opened(page: str = "", **parameters: str) -> AppTest:
    """A page as a first visit to a link; nothing on it may have raised."""
    app = at(page, **parameters).run()
    assert not app.exception
    return app


def step(app: AppTest, page: str) -> AppTest:
    """From one page to another in the same session; nothing on it may have raised."""
    app.switch_page(f"pages/{page}.py").run()
    assert not app.exception
    return app


def texts(app: AppTest) -> str:
    """All prose of a page, its spaces plain."""
    kinds = ("markdown", "caption", "info", "warning", "error")
    found = (str(getattr(element, "value", "")) for kind in kinds for element in app.get(kind))
    return "\n".join(found).replace("\u00a0", " ")


def open_part(app: AppTest, part: str) -> AppTest:
    """Open one part of the plan, such as "tasks": its widgets are there only while it is open. Nothing may have raised."""
    app.session_state[f"panel_{part}"] = True
    app.run()
    assert not app.exception
    return app


def strip(app: AppTest) -> dict[str, dict[str, str]]:
    """The strip of the Lab: row -> method, or "Original" -> what its cell says, such as "0.621 exact"."""
    (table,) = [table.value for table in app.table if STRIP in table.value.columns]
    cells = table.set_index(STRIP).rename(columns=lambda heading: re.sub(r", [\d.]+x$", "", heading))
    return {str(row): {str(method): _unmarked(text) for method, text in line.items()} for row, line in cells.iterrows()}


def _unmarked(text: str) -> str:
    """The text of a cell without the marks of markdown."""
    return re.sub(r"\*\*|\\(?=\W)", "", text).strip()
