"""Chart of relative error against compression ratio, with SVD as a line and known errors of other methods as markers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import ceil
from textwrap import wrap
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from offcomp.results.charts.style import FONT_SIZE, TITLE_PIXELS, axis_title, literal, styled
from offcomp.results.charts.theme import MARKERS, Palette, marker
from offcomp.results.known_errors import ESTIMATED

RATIO_TICKS = (1.25, 2, 3, 5, 10, 20, 50)
MARK_SHAPES = MARKERS | {"tucker": "x", "pruning": "hourglass", "quantization": "bowtie", "reference": "hexagon"}
"""Marker shapes for scatter plots, where line markers and shared shapes would be hard to tell apart."""
POINT_SIZE = 12
PLOT_PIXELS, AXIS_PIXELS, LEGEND_ROW_PIXELS = 270, 62, 24
LEGEND_ABREAST = 2  # legend entries per row on a phone
EDGE_DASH = "2px,2px"


def error_curve_figure(
    table: pd.DataFrame, points: pd.DataFrame, ratio: float, unit: str, palette: Palette, *, exact: bool = True
) -> go.Figure:
    """Plot relative error against achieved compression ratio (log scale), with SVD as a line and other errors as markers.

    `points` comes from `error_point_table`: measured points are solid, and estimated points are hollow with a dashed edge.
    `exact` is False if the SVD line ignores rounding to the storage dtype and is therefore also an estimate.
    """
    figure, points = go.Figure(), literal(points)
    _curve(figure, table, ratio, palette, exact=exact)
    named = {"svd"}  # the line already has a legend entry
    for (style_key, is_estimated), part in points.groupby(["style_key", points["origin"] == ESTIMATED], sort=False):
        figure.add_trace(_points(part, str(style_key), bool(is_estimated), palette, named=style_key not in named))
        named.add(str(style_key))
    rows = ceil(len(named) / LEGEND_ABREAST) if len(points) else 0
    below = AXIS_PIXELS + LEGEND_ROW_PIXELS * rows
    edge = {"color": palette.muted, "width": 1, "dash": "dot"}
    return styled(
        figure,
        palette,
        title="How large is the error at each ratio?",
        height=TITLE_PIXELS + PLOT_PIXELS + below,
        shapes=[{"type": "line", "x0": ratio, "x1": ratio, "y0": 0, "y1": 1, "yref": "y domain", "line": edge}],
        xaxis={
            "title": axis_title(f"compression ratio in {unit}, log scale"),
            "type": "log",
            "tickvals": RATIO_TICKS,
            "ticktext": [f"{tick:g}x" for tick in RATIO_TICKS],
        },
        yaxis={"title": axis_title("relative error: lower is better"), "range": [0, 1]},
        legend={"y": -AXIS_PIXELS / PLOT_PIXELS, "yanchor": "top"},
        margin={"b": below},
        showlegend=len(points) > 0,
    )


def _curve(figure: go.Figure, table: pd.DataFrame, ratio: float, palette: Palette, *, exact: bool) -> None:
    """Add the SVD line, with a larger marker at the chosen ratio."""
    colour, name = palette.series["svd"], "SVD, exact" if exact else "SVD, before rounding"
    chosen = table[table["requested_ratio"] == ratio]
    edge = {"width": 2, "color": colour, "dash": "solid" if exact else EDGE_DASH}
    symbol = MARK_SHAPES["svd"] + ("" if exact else "-open")
    hover = "compression ratio %{x:.3g}x: relative error %{y:.3f}<br>%{customdata[0]:,} parameters, %{customdata[1]:.2f} MB"
    figure.add_scatter(
        x=table["ratio"],
        y=table["relative_error"],
        customdata=table[["stored_parameters", "stored_megabytes"]],
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": "solid" if exact else "dash"},
        marker={"symbol": symbol, "size": 6},
        hovertemplate=f"{hover}<extra>{name}</extra>",
        name=name,
    )
    figure.add_scatter(
        x=chosen["ratio"],
        y=chosen["relative_error"],
        mode="markers+text",
        marker={"symbol": symbol, "size": POINT_SIZE + 2, "color": colour, "line": edge},
        text=[f" {error:.3f} at {ratio:g}x" for error in chosen["relative_error"]],
        textposition="bottom right",
        textfont={"size": FONT_SIZE, "color": palette.text},
        hoverinfo="skip",
        showlegend=False,
    )


def _points(part: pd.DataFrame, style_key: str, is_estimated: bool, palette: Palette, *, named: bool) -> go.Scatter:
    """Markers for the measured or estimated points of one method."""
    colour = palette.colour(style_key)
    edge = {"width": 2, "color": colour, "dash": EDGE_DASH} if is_estimated else {"width": 1, "color": palette.surface}
    symbol = marker(style_key, MARK_SHAPES) + ("-open" if is_estimated else "")
    return go.Scatter(
        x=part["ratio"],
        y=part["relative_error"],
        mode="markers",
        marker={"symbol": symbol, "size": POINT_SIZE, "color": colour, "line": edge},
        customdata=[_point_details(row) for row in part.to_dict("records")],
        hovertemplate="%{customdata}<extra></extra>",
        hoverlabel={"align": "left"},
        name=part["method"].iloc[0],
        legendgroup=style_key,
        showlegend=named,
    )


def _point_details(row: Mapping[Hashable, Any]) -> str:
    """The hover text of a point."""
    error = f"about {row['relative_error']:.2f}" if row["origin"] == ESTIMATED else f"{row['relative_error']:.3f}"
    requested = "" if pd.isna(row["requested_ratio"]) else f" (requested {row['requested_ratio']:g}x)"
    source = f"run {row['run']}, seed {row['seed']}" if row["run"] else "<br>".join(wrap(row["about"], 60))
    return (
        f"<b>{row['method']}</b>, {row['origin']}<br>"
        f"compression ratio {row['ratio']:.3g}x{requested}: relative error {error}<br>{source}"
    )
