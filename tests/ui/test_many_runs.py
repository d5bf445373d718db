"""A home with many finished runs: the work of a page depends on what it shows, not on how many runs exist."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from offcomp.files import read_json
from offcomp.results import bundled
from offcomp.results import runs as results
from offcomp.results.runs import default_selection
from offcomp.runs.store import Run, RunStore
from offcomp.ui.compare.selection import MAX_COMPARED
from offcomp.ui.runs.page import RUNS_A_PAGE
from tests.made_runs import made_group, made_run, made_score, put_in_home
from tests.pages import opened, step, texts

RUNS = 130
HEAVY_TRACES = 40
_opened: list[str] | None = None
"""The files opened in the context `opened_files`; None outside it."""


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_note)


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Yield the list of the files that this process opens within this context."""
    global _opened  # noqa: PLW0603  # an audit hook cannot be removed
    _opened = found = []
    try:
        yield found
    finally:
        _opened = None


def name_of(index: int) -> str:
    """Return an id whose first six characters are unique, as those of a real run are."""
    return 2 * f"{index:06x}"


@pytest.fixture(scope="module")
def full_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with many finished runs of one method, each at a different ratio, and a failed run."""
    home = tmp_path_factory.mktemp("many") / "home"
    document = read_json(bundled.FOLDER / bundled.FILES[0])
    for index in range(RUNS):
        for group in document["plan"]["groups"]:
            group["ratio"] = 2.005 + index / 100  # no bundled run has such a ratio
        put_in_home(home, document, name_of(index), submitted=float(index))
    put_in_home(home, document, "f" * 12, submitted=0.5, status="failed", error="Out of luck.", model=None)
    return home


@pytest.fixture(autouse=True)
def at_home(full_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFFCOMP_HOME", str(full_home))
    st.cache_data.clear()
    st.cache_resource.clear()
    return full_home


def newest(count: int) -> list[str]:
    return [name_of(index) for index in reversed(range(RUNS - count, RUNS))]


def shown_runs(app: AppTest) -> list[str]:
    """Return the ids of the runs on the page Runs, read from the keys of the buttons that delete them."""
    return [str(button.key).removeprefix("delete_") for button in app.button if str(button.key).startswith("delete_")]


def test_runs_are_listed_a_page_at_a_time_and_every_run_is_on_one() -> None:
    app = opened("runs")
    pages = -(-(RUNS + 1) // RUNS_A_PAGE)
    assert shown_runs(app) == newest(RUNS_A_PAGE)
    assert f"Runs 1 to {RUNS_A_PAGE} of {RUNS + 1}, newest first." in texts(app)
    seen = shown_runs(app)
    for number in range(2, pages + 1):
        app.pagination(key="runs_page").set_value(number).run()
        assert not app.exception
        seen += shown_runs(app)
    assert Counter(seen) == Counter([*newest(RUNS), "f" * 12])
    assert f"Runs {RUNS_A_PAGE * (pages - 1) + 1} to {RUNS + 1} of {RUNS + 1}" in texts(app)


def test_a_page_that_is_gone_gives_way_to_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened("runs")
    app.pagination(key="runs_page").set_value(7).run()
    everything = RunStore().all()
    monkeypatch.setattr(RunStore, "all", lambda _store: everything[:30])
    app.run()
    assert not app.exception
    assert shown_runs(app)
    monkeypatch.setattr(RunStore, "all", lambda _store: everything[:3])
    app.run()
    assert shown_runs(app) == newest(3)
    assert not app.get("pagination")


def test_compare_starts_with_a_few_and_says_which() -> None:
    app = opened("compare")
    assert app.multiselect(key="compare_runs").value == newest(4)
    assert f"Default selection: the newest runs on the same weights. {RUNS - 2} more can be chosen above." in texts(app)
    app.multiselect(key="compare_runs").set_value(newest(2)).run()
    assert "can be chosen above" not in texts(app)


@pytest.mark.parametrize("link", ["all", ",".join(newest(RUNS))])
def test_compare_takes_no_more_than_can_be_told_apart_and_says_so(link: str) -> None:
    app = opened("compare", runs=link)
    which = "newest" if link == "all" else "first"
    assert app.multiselect(key="compare_runs").value == newest(MAX_COMPARED)
    assert f"Comparing the {which} {MAX_COMPARED} of {RUNS} runs; choose others above." in app.warning[0].value
    assert f"{MAX_COMPARED} of {MAX_COMPARED} runs shown." in texts(app)
    assert app.query_params["runs"] == "all"
    traces = [len(json.loads(chart.proto.spec)["data"]) for chart in app.get("plotly_chart")]
    assert traces
    assert max(traces) < HEAVY_TRACES
    app.multiselect(key="compare_runs").set_value(newest(1)).run()
    assert not app.warning


def test_the_newest_can_be_taken_at_once() -> None:
    app = opened("compare")
    app.button(key="compare_all").click().run()
    assert app.multiselect(key="compare_runs").value == newest(MAX_COMPARED)
    assert "can be chosen above" not in texts(app)


def test_runs_leads_to_a_comparison_of_the_newest() -> None:
    app = opened("runs")
    assert f"Compare the newest {MAX_COMPARED}" in [link.proto.label for link in app.get("page_link")]


@pytest.mark.parametrize("page", ["runs", "compare", "examples", "compress"])
def test_a_second_look_reads_no_finished_run_again(page: str, at_home: Path) -> None:
    app = opened(page)
    with opened_files() as files:
        step(app, page)
    again = [file for file in files if Path(file).name == "run.json"]
    assert not again


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[None]:
    """Return a list that gets an entry for each call of this function of `results`."""
    calls: list[None] = []
    real: Callable[[Run], Any] = getattr(results, name)

    def call(run: Run) -> Any:
        calls.append(None)
        return real(run)

    monkeypatch.setattr(results, name, call)
    return calls


def test_the_first_comparison_is_found_in_a_few_looks_at_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [made_run(name_of(i), [made_group("query", 0.5, ratio=2 + i / 100)], made_score([], [])) for i in range(300)]
    calls = counted(monkeypatch, "modules_of")
    assert default_selection(runs, []) == [run.id for run in runs[:4]]
    assert len(calls) <= 3 * len(runs)


def test_tables_for_download_are_made_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("offcomp.results.report.with_provenance", lambda table, _runs: made.append("table") or table)
    app = opened("compare")
    assert len(app.get("download_button")) >= 6
    assert not made
