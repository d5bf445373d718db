"""The tutorial has the same plans and figures as a notebook, as a page, and on the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from offcomp.cli.main import main
from offcomp.runs.store import Run, RunStore
from tests.docs.examples import DOCS, ROOT, blocks_of, run_page

NOTEBOOK = nbformat.read(DOCS / "tutorial.ipynb", as_version=4)
PAGE = DOCS / "tutorial.md"
PLANS = list(product(("svd", "quantization"), (4, 8)))
MAX_LINES = 10

pytestmark = pytest.mark.timeout(600)


def code_cells() -> list[Any]:
    return [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of all tests in this file, in which the notebook, the page and the command line share their runs."""
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFCOMP_HOME", str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])))
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def executed(home: Path) -> Any:
    """The executed notebook, with its outputs."""
    copy = nbformat.from_dict(NOTEBOOK)
    return NotebookClient(copy, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(home)}}).execute()


@pytest.fixture(scope="module")
def runs(executed: Any, home: Path) -> dict[str, Run]:
    """The runs of the notebook by id, as stored at its end."""
    return {run.id: run for run in RunStore(home).all()}


def offcomp(*arguments: object) -> Any:
    """The JSON document that a command prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([*map(str, arguments), "--json"])
    return json.loads(printed.getvalue())


def planned(method: str, ratio: int, home: Path) -> Path:
    """Create a plan of the tutorial on the command line. Returns its path."""
    file = home / f"{method}-{ratio}.json"
    size = ("--method", method, "--ratio", ratio, "--unit", "bytes")
    offcomp("plan", "minilm-l6", "--kinds", "query", *size, "--task", "sentiment", "--out", file)
    return file


def test_the_notebook_is_short_and_stored_without_outputs() -> None:
    lines = [line for cell in code_cells() for line in cell.source.splitlines() if line.strip()]
    assert len(lines) <= MAX_LINES
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code_cells())


def test_the_page_contains_the_code_of_the_notebook() -> None:
    code = [line for block in blocks_of(PAGE.read_text(encoding="utf-8")) for line in block.content.splitlines()]
    for cell in code_cells():
        for line in cell.source.splitlines():
            assert any(line in shown for shown in code), f"{PAGE} does not contain {line!r}"


def test_the_notebook_ends_in_a_table_and_a_chart_of_all_runs(executed: Any, runs: dict[str, Run]) -> None:
    shown = [output.data for cell in executed.cells for output in cell.get("outputs", ()) if output.output_type != "stream"]
    table, chart = shown
    assert len(runs) == len(PLANS)
    assert all(run.status == "done" and run.id in table["text/html"] for run in runs.values())
    assert chart["application/vnd.plotly.v1+json"]["data"]


def test_the_command_line_finds_the_runs_of_the_notebook(runs: dict[str, Run], home: Path) -> None:
    found = [offcomp("run", planned(method, ratio, home))["id"] for method, ratio in PLANS]
    assert sorted(found) == sorted(runs)


def test_the_page_finds_the_runs_of_the_notebook_and_shows_their_figures(runs: dict[str, Run], home: Path) -> None:
    run_page(PAGE)
    assert {run.id for run in RunStore(home).all()} == {*runs}


def test_the_command_line_gets_the_same_figures(runs: dict[str, Run], home: Path) -> None:
    again = offcomp("run", planned("svd", 8, home), "--again")
    before = runs[again["id"]].result
    assert before is not None and before.started != again["started"]
    for one, other in zip(before.groups, again["groups"], strict=True):
        assert one.relative_error == pytest.approx(other["relative_error"], rel=1e-6)
        assert one.num_bytes == other["num_bytes"]
    score = before.scores["sentiment"].to_dict()
    for side in ("original", "compressed"):
        assert score[side] == pytest.approx(again["scores"]["sentiment"][side])
