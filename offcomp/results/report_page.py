"""Renders the single-file HTML report from `report.html.jinja`, with all text escaped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from pandas.api.types import is_bool_dtype, is_float_dtype, is_numeric_dtype
from plotly.offline import get_plotlyjs

from offcomp.results.charts.svg import FONT
from offcomp.results.charts.theme import DARK, LIGHT, PALETTES, Palette

TITLE_PIXELS = 34  # height of a figure's own title, which the report replaces with a heading
LONG_TEXT = 32  # cells with more characters than this wrap
AXIS_FONT_SIZE = 12  # small enough for the longest axis title to fit on a phone
LABEL_PIXELS = 30  # space on the right for the label of a marker near the edge
NAMES = {"name": "Run", "row": "Part", "p": "McNemar's p", "predicted": "New prediction", "label": "True label"} | {
    "opening": "Prompt"
}


@dataclass(frozen=True)
class Chart:
    """A chart in the report: its element id, question and table, a function that draws it in a theme, and a note."""

    name: str
    title: str
    table: pd.DataFrame
    figure: Callable[[Palette], go.Figure]
    note: str
    wide: bool = False


def document(charts: Sequence[Chart], **parts: Any) -> str:
    """Render the complete file, with the chart library embedded once; `parts` are the other template variables."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8"))
    drawn = {item.name: {theme: _as_json(item, palette) for theme, palette in PALETTES.items()} for item in charts}
    return template.render(
        charts=charts,
        drawn=json.dumps(drawn).replace("<", "\\u003c"),  # keeps text from closing the script element
        library=get_plotlyjs(),
        light=_colours(LIGHT),
        dark=_colours(DARK),
        font=FONT,
        cells_of=cells_of,
        **parts,
    )


def _colours(palette: Palette) -> str:
    colours = {"text": palette.text, "muted": palette.muted, "grid": palette.grid, "surface": palette.surface}
    colours |= {"link": palette.series["svd"], "warning": palette.series["autoencoder"]}
    return "; ".join(f"--{name}: {colour}" for name, colour in colours.items())


def _as_json(item: Chart, palette: Palette) -> dict[str, Any]:
    """Data and layout of a figure without its title, on an opaque background to keep saved images legible."""
    figure = item.figure(palette)
    figure.update_layout(
        title=None,
        height=figure.layout.height - TITLE_PIXELS,
        margin={"t": figure.layout.margin.t - TITLE_PIXELS, "r": LABEL_PIXELS},
        font_family=FONT,
        paper_bgcolor=palette.surface,
        plot_bgcolor=palette.surface,
    )
    figure.update_traces(cliponaxis=False, selector={"mode": "text"})
    figure.update_xaxes(title_font_size=AXIS_FONT_SIZE).update_yaxes(title_font_size=AXIS_FONT_SIZE)
    document: dict[str, Any] = json.loads(figure.to_json())
    return {"data": document["data"], "layout": document["layout"]}


@dataclass(frozen=True)
class _Cell:
    text: str
    kind: str


def cells_of(table: pd.DataFrame) -> tuple[list[_Cell], list[tuple[_Cell, ...]]]:
    """The headings and rows of a table."""
    heads = [_Cell(_words(name), "number" * _is_number(table[name])) for name in table.columns]
    return heads, list(zip(*(_cells(table[name]) for name in table.columns), strict=True))


def _is_number(column: pd.Series) -> bool:
    return is_numeric_dtype(column) and not is_bool_dtype(column)


def _cells(column: pd.Series) -> list[_Cell]:
    """Format a column: three digits for fractions, thousands separators for integers, empty cells for missing values."""
    if is_float_dtype(column):
        texts = ["" if pd.isna(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}" for value in column]
    elif _is_number(column):
        texts = [f"{value:,}" for value in column]
    else:
        texts = ["" if pd.isna(value) else str(value) for value in column]
        return [_Cell(text, "text" * (len(text) > LONG_TEXT)) for text in texts]
    return [_Cell(text, "number") for text in texts]


def _words(name: str) -> str:
    """The heading of a column: its entry in NAMES, or else its name, capitalised and with spaces for underscores."""
    return NAMES.get(name) or name[:1].upper() + name[1:].replace("_", " ")
