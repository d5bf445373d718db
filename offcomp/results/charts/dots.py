"""Dot plots for the charts of runs. They stay legible with long names and any number of rows.

A method always has the same colour and shape; runs that would otherwise look alike are distinguished by fill.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import ceil, inf
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from offcomp.results.charts.style import FONT_SIZE, TITLE_PIXELS, outlined, styled, text_trace
from offcomp.results.charts.theme import LIGHT, MARKERS, Palette, marker
from offcomp.results.runs import short_names, style_key_of
from offcomp.runs.store import Run

FILLS = ("", "-open", "-open-dot")
MORE_FILLS = (*FILLS, "-x-open", "-cross-open")  # available only for FULL_SHAPES
FULL_SHAPES = ("circle", "diamond", "square")
SYMBOLS = MARKERS | {"reference": "cross", "quantization": "x"}  # line markers are hard to see among dots
MARKER_SIZE = 11
LABELLED_POINTS = 8  # more labels would overlap
ROW_PIXELS = 44
DENSE_ROW_PIXELS = 24
DENSE_FROM_ROWS = 8
FRAME_PIXELS = 130
LEGEND_ROW_PIXELS = 22
LEGEND_PIXELS = 330  # width of a legend on a phone
MAX_ROW_NAME_LENGTH = 26
CROWDED = 0.75  # fraction of the axis beyond which labels go to the left of their markers


def series_of(runs: Sequence[Run]) -> dict[str, tuple[str, str, str]]:
    """(name, style key, marker symbol) of each run, by run id."""
    names, seen = short_names(runs), Counter[tuple[str, str]]()
    series = {}
    for run in runs:
        style_key = style_key_of(run)
        symbol = marker(style_key, SYMBOLS)
        fills = MORE_FILLS if symbol in FULL_SHAPES else FILLS
        look = LIGHT.colour(style_key), symbol
        series[run.id] = (names[run.id], style_key, symbol + fills[seen[look] % len(fills)])
        seen[look] += 1
    return series


def dots(
    table: pd.DataFrame,
    palette: Palette,
    x: str,
    *,
    number: Callable[[float], str],
    details: pd.DataFrame,
    hover: str,
    crowded: float = inf,
    intervals: bool = False,
) -> go.Figure:
    """Draw one trace per series. Series that share rows are slightly offset; points are labelled if there are only a few."""
    rows = {row: index for index, row in enumerate(dict.fromkeys(table["row"]))}
    series = list(dict.fromkeys(zip(table["name"], table["style_key"], table["symbol"], strict=True)))
    shared = len(table) > len(rows) and len(series) > 1
    figure = go.Figure()
    for index, (name, style_key, symbol) in enumerate(series):
        part = table[table["name"] == name]
        offset = 0.5 * (index / (len(series) - 1) - 0.5) if shared else 0.0
        heights = [rows[row] + offset for row in part["row"]]
        colour, size = palette.colour(style_key), MARKER_SIZE + 4 * (style_key == "original")
        figure.add_scatter(
            x=part[x],
            y=heights,
            mode="markers",
            marker=outlined(symbol, size, colour),
            error_x=interval_bars(part, x, colour) if intervals else None,
            customdata=details.loc[part.index],
            hovertemplate=hover + f"<extra>{name}</extra>",
            name=name,
        )
        if len(table) <= LABELLED_POINTS:
            ends, texts = part["high" if intervals else x], [number(value) for value in part[x]]
            figure.add_trace(labels(ends, heights, texts, palette, left=ends > crowded))
    return figure


def interval_bars(part: pd.DataFrame, value: str, colour: str) -> dict[str, Any]:
    """Error bars from `low` to `high` around the column `value`."""
    return {
        "array": part["high"] - part[value],
        "arrayminus": part[value] - part["low"],
        **{"color": colour, "thickness": 2, "width": 6},
    }


def labels(
    x: Iterable[float], y: Iterable[float], texts: Iterable[str], palette: Palette, *, left: pd.Series, vertical: str = "middle"
) -> go.Scatter:
    """Text labels to the right of the points, or to the left where `left` is True."""
    padded = [f"{text}   " if on_left else f"   {text}" for text, on_left in zip(texts, left, strict=True)]
    positions = [f"{vertical} {'left' if on_left else 'right'}" for on_left in left]
    return text_trace(x, y, padded, palette, FONT_SIZE - 1, textposition=positions)


def original_star(x: Any, y: Any, palette: Palette, size: int, hover: str) -> go.Scatter:
    """A star for the original model, with an entry in the legend."""
    star = {"symbol": MARKERS["original"], "size": size, "color": palette.series["original"]}
    return go.Scatter(x=x, y=y, mode="markers", marker=star, hovertemplate=hover, name="Original")


def legend_entry(symbol: str, size: int, colour: str, name: str) -> go.Scatter:
    """A legend entry without a point in the chart."""
    look = outlined(symbol, size, colour)
    return go.Scatter(x=[None], y=[None], mode="markers", marker=look, name=name, hoverinfo="skip")


def in_rows(
    figure: go.Figure, table: pd.DataFrame, palette: Palette, *, title: str, legend: bool = True, below: float = 0.0
) -> go.Figure:
    """Apply the common style, with a labelled line for every row and a height that fits all rows."""
    rows = list(dict.fromkeys(table["row"]))
    pixels = DENSE_ROW_PIXELS if len(rows) > DENSE_FROM_ROWS else ROW_PIXELS
    names = [f"{name:8}" for name in dict.fromkeys(table["name"])] if legend else []
    widest = max((45 + 8 * len(name) for name in names), default=1)  # plotly makes every entry as wide as the widest
    legend_pixels = LEGEND_ROW_PIXELS * ceil(len(names) / max(1, LEGEND_PIXELS // widest))
    row_axis = {
        "tickvals": list(range(len(rows))),
        "ticktext": [shortened(row) for row in rows],
        "range": [len(rows) - 0.4 + below, -0.6],
        "zeroline": False,
    }
    return styled(
        figure,
        palette,
        title=title,
        title_top=10,
        height=max(300, FRAME_PIXELS + legend_pixels + pixels * len(rows)),
        showlegend=legend,
        margin={"t": TITLE_PIXELS + legend_pixels},
        yaxis=row_axis,
    )


def shortened(name: str, longest: int = MAX_ROW_NAME_LENGTH) -> str:
    """Shorten a long name in the middle, since its start and end may both be needed to identify it."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"
