"""A finished run of a method that this version does not know: names, tables, report and pages."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from offcomp.files import read_json
from offcomp.results import bundled
from offcomp.results.charts.dots import series_of
from offcomp.results.charts.theme import PALETTES, UNKNOWN_MARKER
from offcomp.results.report import html_report
from offcomp.results.runs import label, style_key_of
from tests.drawn import PACKAGE, public_functions
from tests.made_runs import made_group, made_run, made_score, put_in_home
from tests.pages import home, opened, texts

__all__ = ["home"]  # a fixture

KNOWN = made_run("a" * 12, [made_group("query", 0.5)], made_score(["one"], ["two"]))
UNKNOWN, OTHER = (
    made_run(letter * 12, [made_group("query", 0.4, method=method)], made_score(["one", "three"], []))
    for letter, method in (("b", "magic"), ("c", "sorcery"))
)
GIVEN = {
    **{"runs": [KNOWN, UNKNOWN, OTHER], "run": UNKNOWN, "first": UNKNOWN, "second": KNOWN},
    **{"task": "sentiment", "measure": "sentiment", "unit": "bytes", "documents": [], "name": "groups"},
    "names": {run.id: run.id for run in (KNOWN, UNKNOWN, OTHER)},
}
"""The arguments for functions of runs, by the name of the parameter."""


def tables_of_runs() -> list[Any]:
    """Return every public function of the package that returns a table of runs, as pytest parameters."""
    found = []
    for path, node in public_functions():
        taken = {ast.unparse(argument.annotation) for argument in node.args.args if argument.annotation}
        if node.name.endswith("_table") and taken & {"Run", "Sequence[Run]"}:
            module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            found.append(pytest.param(getattr(importlib.import_module(module), node.name), id=node.name))
    return found


@pytest.mark.parametrize("make", tables_of_runs())
def test_every_table_of_runs_takes_one(make: Callable[..., pd.DataFrame]) -> None:
    needed = [name for name, each in inspect.signature(make).parameters.items() if each.default is each.empty]
    table = make(**{name: GIVEN[name] for name in needed})
    if "style_key" in table:
        assert {"magic", "sorcery"} <= set(table["style_key"])


def test_it_is_called_by_its_name_and_two_of_them_differ_by_fill() -> None:
    assert (style_key_of(UNKNOWN), label(UNKNOWN)) == ("magic", "magic, query.0, 2.0x, bbbbbb")
    series = series_of([KNOWN, UNKNOWN, OTHER])
    assert [symbol for _, _, symbol in series.values()] == ["circle", UNKNOWN_MARKER, f"{UNKNOWN_MARKER}-open"]
    for palette in PALETTES.values():
        assert palette.colour("magic") not in palette.series.values()


def test_the_report_and_the_pages_show_it(home: Path) -> None:
    assert "magic" in html_report([KNOWN, UNKNOWN])
    document = read_json(bundled.FOLDER / bundled.FILES[0])
    for group in (*document["plan"]["groups"], *document["groups"]):
        group["method"], group["options"] = "magic", {}
    run = put_in_home(home, document, "1" * 12, submitted=1.0)
    for page in ("compare", "runs", "examples"):
        app = opened(page, runs=f"{run},{read_json(bundled.FOLDER / bundled.FILES[1])['id']}")
        assert "magic" in texts(app), page
