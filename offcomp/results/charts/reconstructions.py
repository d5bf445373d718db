"""Charts of a weight matrix beside its reconstructions: maps of weights and of errors, and the rows of several methods."""

from __future__ import annotations

from math import floor, log10
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from offcomp.planning.matrix_view import Array, block_starts, weights_in_a_cell
from offcomp.results.charts.inspect import SMALL_FONT, finished, small_title
from offcomp.results.charts.style import colour_scale, literal, outlined
from offcomp.results.charts.theme import Palette, marker

MAP_PIXELS, LINES_PIXELS = 336, 360
PERCENTILE = 99.5
LEGEND_BELOW = {"orientation": "h", "x": 0, "y": -0.24, "yanchor": "top"}
"""Above the chart, a legend of four methods would cover the title on a phone."""
MAP_MARGINS = {"l": 52, "r": 16, "t": 34, "b": 92}


def colour_limit(cells: Array) -> float:
    """The largest magnitude on a colour scale for these cells; a few of them exceed it."""
    return float(np.percentile(np.abs(cells), PERCENTILE)) or 1.0


def map_figure(
    values: Array,
    *,
    limit: float,
    shape: tuple[int, int],
    title: str,
    palette: Palette,
    errors: bool = False,
    explained: bool = True,
) -> go.Figure:
    """Heat map of the cells of a matrix: means of weights, coloured from -limit to limit, or errors, from 0 to limit.

    explained    whether to draw the colour bar, which one map of each kind needs
    """
    hover = "root mean square of the errors %{z:.4f}" if errors else "mean %{z:.4f}"
    data: dict[str, Any] = {
        "type": "heatmap",
        "z": values.astype(np.float32),
        "zmin": 0 if errors else -limit,
        "zmax": limit,
        "colorscale": colour_scale(palette.errors if errors else palette.weights),
        "showscale": explained,
        "colorbar": _colour_bar(limit, palette, errors=errors),
        "hovertemplate": f"from row %{{y}}, column %{{x}}<br>{hover}<extra></extra>",
    }
    axes: dict[str, Any] = {}
    for side, length in zip("yx", shape, strict=True):
        starts = block_starts(length)
        data[side] = starts[:-1]
        half = length / (len(starts) - 1) / 2
        ends = [-half, length - half]
        axes[f"{side}axis"] = {
            "range": ends[::-1] if side == "y" else ends,
            "title": small_title("row" if side == "y" else "column", standoff=2),
            "showgrid": False,
            "zeroline": False,
            "automargin": False,
            "nticks": 4,
            "tickformat": "~s",
        }
    return finished([data], palette, title, MAP_PIXELS, margin=MAP_MARGINS, **axes)


def _colour_bar(limit: float, palette: Palette, *, errors: bool) -> dict[str, object]:
    """A thin colour bar below a map."""
    digits = max(0, 1 - floor(log10(limit)))
    ends = (0, limit) if errors else (-limit, 0, limit)
    texts = ("0", f"{limit:.{digits}f}") if errors else (f"−{limit:.{digits}f}", "0", f"{limit:.{digits}f}")
    return {
        "orientation": "h",
        "thickness": 8,
        "len": 1,
        "x": 0,
        "xanchor": "left",
        "y": -40 / (MAP_PIXELS - MAP_MARGINS["t"] - MAP_MARGINS["b"]),
        "yanchor": "top",
        "outlinewidth": 0,
        "tickvals": ends,
        "ticktext": texts,
        "tickfont": {"size": SMALL_FONT, "color": palette.muted},
    }


def cell_words(shape: tuple[int, int]) -> str:
    """Sentence stating how many weights each cell of the maps represents."""
    tall, wide = map(weights_in_a_cell, shape)
    if tall == wide == "1":
        return "Each cell is one weight."
    prefix = "about " if "about" in tall + wide else ""
    return f"Each cell stands for {prefix}{tall.removeprefix('about ')} x {wide.removeprefix('about ')} weights."


def cosines_figure(medians: pd.DataFrame, palette: Palette) -> go.Figure:
    """Plot the median cosine between rows and their reconstructions against the norm of the rows, one line per method."""
    title, name = "Which method keeps the direction of rows?", "median cosine: higher is better"
    return _lines(medians.assign(value=medians["cosine"]), title, name, "cosine %{y:.3f}", palette)


def norms_figure(medians: pd.DataFrame, palette: Palette) -> go.Figure:
    """Plot the median error of the norms of rows, in per cent, against the norm of the rows, one line per method."""
    title, name = "Which method keeps their length?", "length error in %: 0 is best"
    figure = _lines(medians.assign(value=100 * medians["norm_error"]), title, name, "length %{y:+.1f} %", palette)
    return figure.add_hline(0, line={"color": palette.muted, "width": 1})


def _lines(medians: pd.DataFrame, title: str, name: str, hover: str, palette: Palette) -> go.Figure:
    """One line per method through the `value` of each tenth of the rows."""
    data = [
        {
            "x": part["norm"],
            "y": part["value"],
            "mode": "lines+markers",
            "line": {"color": palette.colour(str(style_key)), "width": 2},
            "marker": outlined(marker(str(style_key)), 8, palette.colour(str(style_key))),
            "name": part["title"].iloc[0],
            "hovertemplate": f"a tenth of the rows: length %{{x:.3g}}, {hover}<extra>{part['title'].iloc[0]}</extra>",
        }
        for style_key, part in literal(medians).groupby("style_key", sort=False)
    ]
    xaxis = {"title": small_title("row length, as stored (log scale)"), "type": "log", "tickformat": "~g", "nticks": 6}
    yaxis = {"title": small_title(name)}
    return finished(data, palette, title, LINES_PIXELS, xaxis=xaxis, yaxis=yaxis, showlegend=True, legend=LEGEND_BELOW)
