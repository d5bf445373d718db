"""Building blocks of the one-file HTML report, from `report.html.jinja`, which escapes all text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from pandas.api.types import is_bool_dtype, is_float_dtype, is_numeric_dtype
from plotly.offline import get_plotlyjs

from offcomp.results.charts.theme import DARK, LIGHT, PALETTES, Palette

FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"
TITLE_PIXELS = 34  # height of a figure's own title, which the report replaces with a heading
ROWS_WITHOUT_SCROLLING = 16
LONG_TEXT = 32  # characters from which a cell wraps
AXIS_FONT_SIZE = 12  # so that the longest axis title fits on a phone
LABEL_PIXELS = 30  # space at the right for the label of a marker near the edge
NAMES = {"name": "Run", "row": "Part", "p": "McNemar's p", "predicted": "New prediction", "label": "True label"}

_ENVIRONMENT = Environment(autoescape=True, undefined=StrictUndefined)
_MACROS: Any = _ENVIRONMENT.from_string(Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")).module


def _made(macro: str, *arguments: Any) -> Markup:
    """Render a macro of the template; every argument that is not Markup is escaped."""
    made: Markup = getattr(_MACROS, macro)(*arguments)
    return made


@dataclass(frozen=True)
class Chart:
    """A chart, named by its place in the page: its question, its table, how to draw it in a theme, and what it shows."""

    name: str
    title: str
    table: pd.DataFrame
    figure: Callable[[Palette], go.Figure]
    note: str
    wide: bool = False


def document(title: str, parts: Sequence[Markup], charts: Sequence[Chart]) -> str:
    """The complete file, with the chart library embedded once."""
    drawn = {item.name: {theme: _drawn(item, palette) for theme, palette in PALETTES.items()} for item in charts}
    figures = json.dumps(drawn).replace("<", "\\u003c")  # so that no text can close the script element
    return str(_made("document", title, parts, figures, get_plotlyjs(), _colours(LIGHT), _colours(DARK), FONT))


def _colours(palette: Palette) -> str:
    colours = {"text": palette.text, "muted": palette.muted, "grid": palette.grid, "surface": palette.surface}
    colours |= {"link": palette.series["svd"], "warning": palette.series["autoencoder"]}
    return "; ".join(f"--{name}: {colour}" for name, colour in colours.items())


def _drawn(item: Chart, palette: Palette) -> dict[str, Any]:
    """Data and layout of a figure without its title, on an opaque background so that a saved image is legible."""
    figure = item.figure(palette)
    figure.update_layout(title=None, height=figure.layout.height - TITLE_PIXELS, margin_t=figure.layout.margin.t - TITLE_PIXELS)
    figure.update_layout(font_family=FONT, paper_bgcolor=palette.surface, plot_bgcolor=palette.surface)
    figure.update_layout(margin_r=LABEL_PIXELS)
    figure.update_traces(cliponaxis=False, selector={"mode": "text"})
    figure.update_xaxes(title_font_size=AXIS_FONT_SIZE).update_yaxes(title_font_size=AXIS_FONT_SIZE)
    plain: dict[str, Any] = json.loads(figure.to_json())
    return {"data": plain["data"], "layout": plain["layout"]}


def chart(item: Chart) -> Markup:
    """The question, a placeholder for the drawing, what it shows, and the data as a table."""
    return _made("chart", item, table_of(item.table, item.title))


def section(parts: Sequence[Markup], kind: str) -> Markup:
    """Parts grouped into a section; `kind` is one that the style sheet defines."""
    return _made("section", parts, kind)


def heading(level: int, text: str) -> Markup:
    """A heading of this level."""
    return _made("heading", level, text)


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph; `kind` is one that the style sheet defines."""
    return _made("paragraph", text, kind)


def details(summary: str, inside: Markup) -> Markup:
    """Content collapsed under a summary."""
    return _made("details", summary, inside)


def facts(listed: Mapping[str, str]) -> Markup:
    """A list of names with their values."""
    return _made("facts", listed)


def plan_text(plan: str, file: str) -> Markup:
    """A plan: a link to save it, the command that runs it, and its text."""
    return _made("plan_text", plan, file, quote(plan))


def table_of(table: pd.DataFrame, about: str) -> Markup:
    """A table whose first column names the rows; wide ones scroll horizontally, long ones vertically."""
    numeric = [is_numeric_dtype(table[name]) and not is_bool_dtype(table[name]) for name in table.columns]
    columns = [_Cell(_words(name), "number" * number) for name, number in zip(table.columns, numeric, strict=True)]
    cells = [
        [_Cell(text, "number" if number else "text" * (len(text) > LONG_TEXT)) for text in _cells(table[name])]
        for name, number in zip(table.columns, numeric, strict=True)
    ]
    rows = list(zip(*cells, strict=True))
    return _made("table", about, columns, rows, len(table) > ROWS_WITHOUT_SCROLLING)


@dataclass(frozen=True)
class _Cell:
    text: str
    kind: str


def _cells(column: pd.Series) -> list[str]:
    """Three digits for fractions, thousands separators for integers, empty cells for missing values."""
    if is_float_dtype(column):
        return ["" if pd.isna(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}" for value in column]
    if is_numeric_dtype(column) and not is_bool_dtype(column):
        return [f"{value:,}" for value in column]
    return ["" if pd.isna(value) else str(value) for value in column]


def _words(name: str) -> str:
    """The heading of a column: its entry in NAMES, else its name as words, capitalised."""
    return NAMES.get(name) or name[:1].upper() + name[1:].replace("_", " ")
