"""Run pages of the app without a browser, in an empty home, and read what they show."""

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
LAB = [f"/{Path(path).stem}" for path, _, _ in DOORS["Lab"] if "lab_page" in (ROOT / path).read_text(encoding="utf-8")]
"""The addresses of the pages of the Lab that show the plan."""
STRIP = "At this size"
"""The first heading of the strip."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home, without the caches of earlier pages; the processes that pages start are ended after the test.

    Models can be in the temporary folder of the test or in the repository.
    """
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
    """Return the app at this page (by default, Start) with these parameters in the URL. It has not been run yet."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    if page:
        app.switch_page(f"pages/{page}.py")
    for name, text in parameters.items():
        app.query_params[name] = text
    return app


def listed(folder: Path, home: Path) -> str:
    """List the modules of a model in advance, so that no page starts a process for that, and return its folder as a string."""
    from offcomp.models.listing import model_info

    model_info(str(folder), home)
    return str(folder)


def opened(page: str = "", **parameters: str) -> AppTest:
    """Return a page as a link opens it in a new session, after checking that it raises no exception."""
    app = at(page, **parameters).run()
    assert not app.exception
    return app


def step(app: AppTest, page: str) -> AppTest:
    """Switch to a page in the same session, and check that it raises no exception."""
    app.switch_page(f"pages/{page}.py").run()
    assert not app.exception
    return app


def texts(app: AppTest) -> str:
    """Return all prose of a page, with no-break spaces replaced by ordinary ones."""
    kinds = ("markdown", "caption", "info", "warning", "error")
    found = (str(getattr(element, "value", "")) for kind in kinds for element in app.get(kind))
    return "\n".join(found).replace("\u00a0", " ")


def open_part(app: AppTest, part: str) -> AppTest:
    """Open one part of the plan, such as "tasks", whose widgets exist only while it is open; check that no error occurs."""
    app.session_state[f"panel_{part}"] = True
    app.run()
    assert not app.exception
    return app


def strip(app: AppTest) -> dict[str, dict[str, str]]:
    """Return the text of each cell in the strip of the Lab, such as "0.621 exact", by row and by method (or "Original")."""
    (table,) = [table.value for table in app.table if STRIP in table.value.columns]
    cells = table.set_index(STRIP).rename(columns=lambda heading: re.sub(r", [\d.]+x$", "", heading))
    return {str(row): {str(method): _unmarked(text) for method, text in line.items()} for row, line in cells.iterrows()}


def _unmarked(text: str) -> str:
    """Return the text of a cell without Markdown syntax."""
    return re.sub(r"\*\*|\\(?=\W)", "", text).strip()
