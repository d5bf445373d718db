"""The parts of the one-file HTML report: every text is escaped here, and a policy in the file itself forbids the network."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pandas as pd
import plotly.graph_objects as go
from pandas.api.types import is_bool_dtype, is_float_dtype, is_numeric_dtype
from plotly.offline import get_plotlyjs

from offcomp.theme import DARK, LIGHT, PALETTES, Palette

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"
TITLE_PIXELS = 34  # what a figure's own title takes: here a heading stands above it
ROWS_WITHOUT_SCROLLING = 16
LONG_TEXT = 32  # characters from which a cell breaks into lines
AXIS_FONT_SIZE = 12  # so that the longest axis title fits a phone
LABEL_PIXELS = 30  # room at the right for the number of a mark that is near the border
NAMES = {"name": "Run", "row": "Part", "p": "McNemar's p", "predicted": "Now said", "label": "True label"}

STYLE = """
:root {color-scheme: light dark; %(light)s}
@media (prefers-color-scheme: dark) {:root {%(dark)s}}
* {box-sizing: border-box}
body {margin: 0; background: var(--surface); color: var(--text); font: 16px/1.5 %(font)s}
main {max-width: 1160px; margin: 0 auto; padding: 1.5rem 1rem 4rem}
h1 {font-size: 1.7rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere}
h2 {font-size: 1.3rem; margin: 2.2rem 0 .6rem}
h3 {font-size: 1.05rem; margin: 1.2rem 0 .4rem; overflow-wrap: anywhere}
p {margin: .4rem 0; max-width: 60rem; overflow-wrap: anywhere}
.answer {font-size: 1.1rem}
.about, figcaption {color: var(--muted); font-size: .92rem}
.warning {border-left: 4px solid var(--warning); padding-left: .8rem}
.charts {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%%, 30rem), 1fr)); gap: 0 2rem}
.charts {align-items: start}
.wide {grid-column: 1 / -1}
figure {margin: 0; min-width: 0}
.scroll {overflow: auto; max-width: 100%%; border: 1px solid var(--grid); border-radius: 6px}
.tall {max-height: 34rem}
table {border-collapse: collapse; width: 100%%; font-size: .9rem}
th, td {padding: .35rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid)}
tbody tr:last-child > * {border-bottom: 0}
thead th {position: sticky; top: 0; background: var(--surface); color: var(--muted); font-weight: 600}
tbody th {font-weight: 500; min-width: 8rem}
td {white-space: nowrap}
.text {white-space: normal; overflow-wrap: anywhere; min-width: 14rem; max-width: 32rem}
.number {text-align: right; font-variant-numeric: tabular-nums}
dl {display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .4rem 0}
dt {color: var(--muted)}
dd {margin: 0; overflow-wrap: anywhere}
pre {overflow: auto; margin: .4rem 0; padding: .7rem; border: 1px solid var(--grid); border-radius: 6px; font-size: .85rem}
summary {cursor: pointer; padding: .4rem 0; color: var(--link)}
a {color: var(--link)}
:focus-visible {outline: 2px solid var(--link); outline-offset: 2px}
"""

SCRIPT = """
const night = matchMedia("(prefers-color-scheme: dark)");
const figures = JSON.parse(document.getElementById("figures").textContent);
function draw() {
  for (const [name, looks] of Object.entries(figures)) {
    const {data, layout} = looks[night.matches ? "dark" : "light"];
    Plotly.react(name, data, layout, {responsive: true, displaylogo: false, toImageButtonOptions: {filename: name, scale: 2}});
  }
}
night.addEventListener("change", draw);
draw();
"""


@dataclass(frozen=True)
class Chart:
    """A chart by the name of its place in the page: its question, its table, how to draw it in a theme, and what it shows."""

    name: str
    title: str
    table: pd.DataFrame
    figure: Callable[[Palette], go.Figure]
    note: str
    wide: bool = False


def document(title: str, parts: Sequence[str], charts: Sequence[Chart]) -> str:
    """The whole file, with the chart library inside it once."""
    drawn = {item.name: {theme: _drawn(item, palette) for theme, palette in PALETTES.items()} for item in charts}
    figures = json.dumps(drawn).replace("<", "\\u003c")  # so that no text can end the script
    scripts = f'<script type="application/json" id="figures">{figures}</script>\n<script>{get_plotlyjs()}</script>\n'
    style = STYLE % {"light": _colours(LIGHT), "dark": _colours(DARK), "font": FONT}
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)} - offcomp</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n" + "\n".join(parts) + f"\n</main>\n{scripts}<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _colours(palette: Palette) -> str:
    colours = {"text": palette.text, "muted": palette.muted, "grid": palette.grid, "surface": palette.surface}
    colours |= {"link": palette.roles["svd"], "warning": palette.roles["autoencoder"]}
    return "; ".join(f"--{name}: {colour}" for name, colour in colours.items())


def _drawn(item: Chart, palette: Palette) -> dict[str, Any]:
    """Data and layout of a figure without its title, on the page's own ground so that a saved image can be read."""
    figure = item.figure(palette)
    figure.update_layout(title=None, height=figure.layout.height - TITLE_PIXELS, margin_t=figure.layout.margin.t - TITLE_PIXELS)
    figure.update_layout(font_family=FONT, paper_bgcolor=palette.surface, plot_bgcolor=palette.surface)
    figure.update_layout(margin_r=LABEL_PIXELS)
    figure.update_traces(cliponaxis=False, selector={"mode": "text"})
    figure.update_xaxes(title_font_size=AXIS_FONT_SIZE).update_yaxes(title_font_size=AXIS_FONT_SIZE)
    plain: dict[str, Any] = json.loads(figure.to_json())
    return {"data": plain["data"], "layout": plain["layout"]}


def chart(item: Chart) -> str:
    """Question, place of the drawing, what it shows, and the same as a table."""
    table = details("The same as a table", table_of(item.table, item.title))
    figure = f'<figure><div id="{item.name}"></div><figcaption>{html.escape(item.note)}</figcaption></figure>'
    return f"<section{_class('wide' * item.wide)}>{heading(3, item.title)}{figure}{table}</section>"


def heading(level: int, text: str) -> str:
    """A heading of this level."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph, of a kind that the style knows."""
    return f"<p{_class(kind)}>{html.escape(text)}</p>"


def details(summary: str, inside: str) -> str:
    """HTML that is folded away."""
    return f"<details><summary>{html.escape(summary)}</summary>{inside}</details>"


def facts(listed: Mapping[str, str]) -> str:
    """Names and what they are."""
    return (
        "<dl>" + "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in listed.items()) + "</dl>"
    )


def plan_text(plan: str, file: str) -> str:
    """A plan to save, the command that runs it, and its text."""
    link = f'<a download="{html.escape(file)}" href="data:application/json;charset=utf-8,{quote(plan)}">{html.escape(file)}</a>'
    command = f"<pre>offcomp run {html.escape(file)}</pre>"
    text = details("The plan", f'<pre tabindex="0">{html.escape(plan)}</pre>')
    return f"<p>To do it again, save {link} and run</p>{command}{text}"


def table_of(table: pd.DataFrame, about: str) -> str:
    """A table whose first column names the rows; wide ones scroll sideways, and long ones down."""
    numeric = [is_numeric_dtype(table[name]) and not is_bool_dtype(table[name]) for name in table.columns]
    head = "".join(
        f'<th scope="col"{_class("number" * number)}>{html.escape(_words(name))}</th>'
        for name, number in zip(table.columns, numeric, strict=True)
    )
    columns = [_cells(table[name]) for name in table.columns]
    rows = "".join(_row(cells, numeric) for cells in zip(*columns, strict=True))
    tall = " tall" * (len(table) > ROWS_WITHOUT_SCROLLING)
    return (
        f'<div class="scroll{tall}" tabindex="0" role="region" aria-label="{html.escape(about)}"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _row(cells: Sequence[str], numeric: Sequence[bool]) -> str:
    """One line of a table, escaped."""
    kinds = [
        "number" if number else "text" if len(cell) > LONG_TEXT else "" for cell, number in zip(cells, numeric, strict=True)
    ]
    marked = [(_class(kind), html.escape(cell)) for kind, cell in zip(kinds, cells, strict=True)]
    rest = "".join(f"<td{kind}>{cell}</td>" for kind, cell in marked[1:])
    return f'<tr><th scope="row"{marked[0][0]}>{marked[0][1]}</th>{rest}</tr>'


def _cells(column: pd.Series) -> list[str]:
    """Three digits for fractions, separators for whole numbers, nothing where nothing is known."""
    if is_float_dtype(column):
        return ["" if pd.isna(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}" for value in column]
    if is_numeric_dtype(column) and not is_bool_dtype(column):
        return [f"{value:,}" for value in column]
    return ["" if pd.isna(value) else str(value) for value in column]


def _words(name: str) -> str:
    """A column's name as words; one that somebody wrote stays as it is."""
    return NAMES.get(name) or name[:1].upper() + name[1:].replace("_", " ")


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
