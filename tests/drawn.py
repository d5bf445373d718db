"""Read the points that a figure draws, and compare each of their values with the corresponding column of the table."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import isnan, log10
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from offcomp.results.charts.theme import Palette

PACKAGE = Path(__file__).resolve().parents[1] / "offcomp"
FIELD = re.compile(r"%\{(\w+)(?:\[(\d+)\])?(?::([^}]*))?\}")
PER_CENT = re.compile(r"in %|^%|\(% of ")
Point = dict[str, Any]


def public_functions() -> Iterator[tuple[Path, ast.FunctionDef]]:
    """Yield every public top-level function of the package, with the path of its module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield path, node


def figure_functions() -> set[str]:
    """Return the name, as `module.function`, of every public function that returns a figure."""
    return {
        f"{path.stem}.{node.name}"
        for path, node in public_functions()
        if node.name.endswith("_svg") or (node.returns and ast.unparse(node.returns).endswith("Figure"))
    }


@dataclass(frozen=True)
class Marks:
    """Traces that together show every row of a table exactly once.

    parts   what each part of a point shows: for x, y, z, x_low, y_high and so on, an expression over the columns of the table;
            for hover, text and name, a format string with the columns as its fields
    these   selects the traces; None selects all of them
    """

    table: pd.DataFrame
    parts: dict[str, str]
    these: Callable[[Any], bool] | None = None

    def claim(self, trace: Any) -> bool:
        """Whether a trace belongs to these marks: `these` selects it, and it is a heat map exactly if `parts` contains z."""
        if (trace.type == "heatmap") != ("z" in self.parts):
            return False
        return self.these is None or self.these(trace)

    def expected(self, palette: Palette) -> list[Point]:
        """Return the point expected for each row of the table, in the colour of its method if the table states methods."""
        columns = {
            part: [text.format(**row) for row in self.table.to_dict("records")]
            if part in ("hover", "text", "name")
            else np.broadcast_to(self.table.eval(text), len(self.table))
            for part, text in self.parts.items()
        }
        if "style_key" in self.table:
            columns["colour"] = [palette.colour(style_key) for style_key in self.table["style_key"]]
        return pd.DataFrame(columns).to_dict("records")


@dataclass(frozen=True)
class Drawn:
    """A figure and everything that it must show: each trace belongs to one of `marks`, and `lines` lists all straight lines."""

    figure: go.Figure
    marks: dict[str, Marks]
    lines: set[tuple[str, float]] = field(default_factory=set)


def assert_drawn(drawn: Drawn, palette: Palette) -> None:
    """Check that every point of every trace equals its row, that nothing else is drawn, and that the axes state their units."""
    found: dict[str, list[Point]] = {name: [] for name in drawn.marks}
    for trace in drawn.figure.data:
        if trace.type == "scatter" and list(trace.x) == [None]:
            continue  # a legend entry
        (claimed,) = [name for name, marks in drawn.marks.items() if marks.claim(trace)] or [f"nobody claims {trace}"]
        found[claimed] += points_of(trace)
        for letter in "xy":
            axis = drawn.figure.layout[_axis_of(trace, letter)]
            _assert_unit(axis, drawn.marks[claimed].parts[letter])
            _assert_inside(axis, trace, letter)
    for name, marks in drawn.marks.items():
        wanted = marks.expected(palette)
        points = [{part: point.get(part) for part in wanted[0]} | _unexpected(point, wanted[0]) for point in found[name]]
        assert _sorted(points) == _sorted(wanted), name
    assert {(letter, round(place, 9)) for letter, place in _lines(drawn.figure)} == {
        (letter, round(place, 9)) for letter, place in drawn.lines
    }


def _unexpected(point: Point, wanted: Point) -> Point:
    """Return the parts of a point that its marks do not specify, except for its name and colour, which are optional."""
    return {part: value for part, value in point.items() if part not in {*wanted, "name", "colour"}}


def _sorted(points: list[Point]) -> list[Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return value.strip()
        return "gap" if value is None or isnan(value) else float(f"{value:.9g}") + 0.0

    return sorted((sorted((part, plain(value)) for part, value in point.items()) for point in points), key=repr)


def _axis_of(trace: Any, letter: str) -> str:
    return f"{letter}axis{(trace[f'{letter}axis'] or letter)[1:]}"


def _assert_unit(axis: Any, expression: str) -> None:
    """Check that percentages are 100 times a share, that titles state logarithmic scales, and that tick labels have no %."""
    title = axis.title.text or ""
    if title:
        assert bool(PER_CENT.search(title)) == expression.startswith("100 *"), (title, expression)
        assert (axis.type == "log") == ("log scale" in title), title
    assert "%" not in f"{axis.tickformat}{axis.ticksuffix}"


def _assert_inside(axis: Any, trace: Any, letter: str) -> None:
    """Check that nothing is cut off: an axis includes every point, both ends of its interval, and the whole of every cell."""
    points = points_of(trace)
    ends = [point[part] for point in points for part in (letter, f"{letter}_low", f"{letter}_high") if part in point]
    if trace.type == "heatmap" and len(points) > 1:
        half = min((late - early for early, late in pairwise(sorted({*ends}))), default=0) / 2
        ends = [min(ends) - half, max(ends) + half]
    if axis.range and isinstance(ends[0], int | float | np.number):
        low, high = sorted(axis.range)
        places = [log10(end) if axis.type == "log" else end for end in ends if end is not None and not isnan(end)]
        assert low - 1e-9 <= min(places) and max(places) <= high + 1e-9, (axis.title.text, axis.range, places)


def _lines(figure: go.Figure) -> Iterator[tuple[str, float]]:
    """Yield ("x", position) for each vertical line across a figure and ("y", position) for each horizontal one."""
    for shape in figure.layout.shapes:
        if shape.type == "line":
            yield ("x", shape.x0) if shape.x0 == shape.x1 else ("y", shape.y0)


def points_of(trace: Any) -> list[Point]:
    """Return every point of a trace with everything that it shows."""
    places = list(_cells(trace) if trace.type == "heatmap" else _places(trace))
    shown = []
    for place in places:
        point = {part: place[part] for part in ("x", "y", "z", "x_low", "x_high", "y_low", "y_high") if part in place}
        if trace.hoverinfo != "skip":
            assert trace.hovertemplate, f"a hover that nobody wrote: {trace}"
            point["hover"] = _rendered(trace.hovertemplate, place)
        if place.get("text") and (trace.type != "scatter" or "text" in trace.mode):
            point["text"] = place["text"]
        point["name"] = trace.name
        if trace.type == "scatter" and "markers" in trace.mode and isinstance(trace.marker.color, str):
            point["colour"] = trace.marker.color
        shown.append(point)
    return shown


def _places(trace: Any) -> Iterator[Point]:
    """Yield the points of a trace of lines, markers or bars."""
    for index, (x, y) in enumerate(zip(trace.x, trace.y, strict=True)):
        place: Point = {"x": x, "y": y, "text": _at(trace.text, index), "customdata": _at(trace.customdata, index)}
        place["hovertext"] = _at(trace.hovertext, index)
        for letter, value in (("x", x), ("y", y)):
            error = trace[f"error_{letter}"]
            if error.array is not None:
                place[f"{letter}_high"], place[f"{letter}_low"] = value + error.array[index], value - error.arrayminus[index]
        yield place


def _cells(trace: Any) -> Iterator[Point]:
    """Yield the cells of a heat map: specified one by one, or as a grid with the edges or centres of the cells, or neither."""
    z = np.array(trace.z, dtype=float)
    if z.ndim == 1:
        for index, value in enumerate(z):
            place = {"x": trace.x[index], "y": trace.y[index], "z": value}
            yield place | {"customdata": _at(trace.customdata, index), "text": _at(trace.text, index)}
        return
    rows, columns = (_centres(axis, length) for axis, length in ((trace.y, len(z)), (trace.x, z.shape[1])))
    for (row, column), value in np.ndenumerate(z):
        if not isnan(value):
            place = {"x": columns[column], "y": rows[row], "z": value}
            customdata = None if trace.customdata is None else trace.customdata[row][column]
            yield place | {"customdata": customdata, "text": None if trace.text is None else trace.text[row][column]}


def _centres(axis: Any, length: int) -> list[float]:
    if axis is None:
        return list(range(length))
    return [(low + high) / 2 for low, high in pairwise(axis)] if len(axis) > length else list(axis)


def _at(values: Any, index: int) -> Any:
    return values if values is None or isinstance(values, str) else values[index]


def _rendered(template: str, place: Point) -> str:
    """Return a hover text as the browser renders it."""

    def value(match: re.Match[str]) -> str:
        name, index, form = match.groups()
        found = place[name] if index is None else place[name][int(index)]
        whole = isinstance(found, float) and found.is_integer() and not (form or "").strip(",")
        return format(int(found) if whole else found, (form or "").removeprefix("~"))

    return FIELD.sub(value, template)
