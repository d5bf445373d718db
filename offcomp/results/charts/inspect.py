"""Charts of the truncated SVD of one weight matrix, from the tables of `results.inspect`."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from offcomp.planning.matrix_view import Array
from offcomp.results.charts.style import FONT_SIZE, axis_title, literal, styled_layout
from offcomp.results.charts.theme import MARKERS, Palette, marker
from offcomp.results.inspect import median_table

SPECTRUM_PIXELS = 310
ROWS_PIXELS = 380
MAX_DECADES = 4
MAX_STORED = 1.05  # fraction of the original parameters beyond which lines are not drawn
MAX_DOTS = 160
"""Maximum number of rows drawn: the browser redraws every dot whenever the slider moves."""
MARGINS = {"l": 64, "b": 48}
SMALL_FONT = FONT_SIZE - 2


def spectrum_figure(table: pd.DataFrame, rank: int, palette: Palette) -> go.Figure:
    """Plot singular values (log scale), shaded up to `rank`, and those of a random matrix; ranks that save nothing are grey."""
    values, noise = table["singular_value"].to_numpy(), table["random_value"].to_numpy()
    top = float(max(values[0], noise[0], np.finfo(np.float32).tiny))
    positive = values[values > 0]
    bottom = max(float(positive[-1]) if len(positive) else top / 10, top / 10**MAX_DECADES) * 0.8
    colour, ranks = palette.series["svd"], table["rank"].to_numpy()
    unseen = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "x": ranks[:rank]}
    data = [
        unseen | {"y": np.full(rank, bottom)},
        unseen | {"y": values[:rank].clip(min=bottom), "fill": "tonexty", "fillcolor": _faint(colour, 0.25)},
        line(ranks, _above(noise, bottom), palette.series["reference"], "dash")
        | {"hovertemplate": "singular value %{x}: %{y:.3g}<extra>random matrix</extra>"},
        line(ranks, _above(values, bottom), colour, "solid")
        | {
            "hovertemplate": "singular value %{x}: %{y:.3g}<extra>this matrix</extra>",
            "mode": "lines" if len(table) > 1 else "markers",
        },
    ]
    middle = int(0.4 * len(table))
    noise_label = {"x": middle + 1, "y": log10(max(bottom, noise[middle])), "yanchor": "bottom", "xanchor": "left"}
    yaxis = {
        "title": small_title("singular value (log scale)"),
        "type": "log",
        "range": [log10(bottom), log10(top) + 0.06 * log10(top / bottom)],
        "tickformat": "~g",
        "dtick": "D2" if top / bottom < 10**2 else 1,
    }
    layout = _rank_layout(table, rank, palette)
    layout["annotations"].append(noise_label | {"text": "dashed: a random matrix"} | _small(palette))
    return finished(data, palette, "How fast do the singular values decay?", SPECTRUM_PIXELS, **layout, yaxis=yaxis)


def energy_figure(table: pd.DataFrame, rank: int, palette: Palette) -> go.Figure:
    """Plot the energy kept and the parameters stored at each rank, as percentages of the original."""
    colour, chosen = palette.series["svd"], table.iloc[rank - 1]
    lines = (
        ("energy_kept", "energy kept", colour, "solid"),
        ("random_energy_kept", "if random", palette.series["reference"], "dash"),
        ("stored_fraction", "parameters stored", palette.text, "dot"),
    )
    data = []
    for column, name, line_colour, dash in lines:
        shown = table[table[column] <= MAX_STORED]
        hover = {"hovertemplate": f"rank %{{x}}: %{{y:.1f}} %<extra>{name}</extra>", "name": name}
        data.append(line([0, *shown["rank"]], [0, *100 * shown[column]], line_colour, dash) | hover)
    for column, symbol, mark_colour in (("energy_kept", MARKERS["svd"], colour), ("stored_fraction", "square", palette.text)):
        if chosen[column] <= MAX_STORED:
            marker = {"symbol": symbol, "size": 10, "color": mark_colour, "line": {"width": 2, "color": palette.surface}}
            point = {"x": [rank], "y": [100 * chosen[column]], "mode": "markers"}
            data.append(point | {"marker": marker, "hoverinfo": "skip", "showlegend": False})
    return finished(
        data,
        palette,
        "How much does each rank keep and store?",
        SPECTRUM_PIXELS,
        **_rank_layout(table, rank, palette, height=0.34),
        yaxis={"title": small_title("% of the matrix"), "range": [0, 105], "tickvals": [0, 25, 50, 75, 100]},
        legend={"x": 0.99, "xanchor": "right", "y": 0.02, "yanchor": "bottom", "orientation": "v", "bgcolor": "rgba(0,0,0,0)"},
        showlegend=True,
    )


def line(x: Any, y: Any, colour: str, dash: str) -> dict[str, Any]:
    """A line as a plotly trace."""
    return {"x": x, "y": y, "mode": "lines", "line": {"color": colour, "width": 2, "dash": dash}}


def _above(values: Array, bottom: float) -> Array:
    """Replace values below the axis with NaN, which plotly does not draw."""
    return np.where(values >= bottom, values, np.nan)


def _small(palette: Palette) -> dict[str, Any]:
    return {"showarrow": False, "font": {"size": SMALL_FONT, "color": palette.muted}}


def small_title(text: str, standoff: int = 6) -> dict[str, Any]:
    """An axis title in a small font."""
    return axis_title(text, SMALL_FONT, standoff=standoff)


def _rank_layout(table: pd.DataFrame, rank: int, palette: Palette, *, height: float = 0.02) -> dict[str, Any]:
    """Layout with a rank axis from 0, a labelled line at the chosen rank, and shading for ranks beyond break-even."""
    max_rank = len(table)
    dense = float(1 / table["stored_fraction"].iloc[0])
    end = max_rank * 1.01 if max_rank > 1 else 1.2
    narrow, right = max_rank - dense < 0.15 * max_rank, rank > 0.75 * max_rank
    saves_nothing = {
        "x": dense if narrow else (dense + max_rank) / 2,
        "y": height,
        "yref": "y domain",
        "yanchor": "bottom",
        "xanchor": "right" if narrow else "center",
        "align": "right" if narrow else "center",
        "text": f"nothing saved<br>from rank {ceil(dense)}" if narrow else "nothing<br>saved",
        **_small(palette),
    }
    side = {"xanchor": "right", "xshift": -4} if right else {"xanchor": "left", "xshift": 4}
    name = {"x": rank, "y": 1, "yref": "y domain", "yanchor": "top", "text": f"rank {rank}", "showarrow": False, **side}
    span = {"yref": "y domain", "y0": 0, "y1": 1}
    shade = {"type": "rect", "x0": dense, "x1": end, "fillcolor": palette.muted, "opacity": 0.14, "line": {"width": 0}, **span}
    line = {"type": "line", "x0": rank, "x1": rank, "line": {"color": palette.text, "width": 2}, **span}
    xaxis = {"title": small_title(f"rank, of {max_rank}"), "range": [0, end]}
    return {"xaxis": xaxis, "shapes": [shade, line], "annotations": [saves_nothing, name]}


def finished(data: list[dict[str, Any]], palette: Palette, title: str, height: int, **layout: Any) -> go.Figure:
    """Apply the common style, with the title at the top edge and a small legend.

    The margins are fixed, since plotly draws a chart several times to find margins that fit.
    """
    layout["legend"] = {"font": {"size": SMALL_FONT}} | layout.get("legend", {})
    for axis in ("xaxis", "yaxis"):
        layout[axis] = {"automargin": False} | layout.get(axis, {})
    layout["margin"] = MARGINS | layout.get("margin", {})
    layout = styled_layout({}, palette, title=title, title_top=10, height=height, uirevision="same", **layout)
    return go.Figure(data, layout)


def _faint(colour: str, opacity: float) -> str:
    """A translucent version of a colour."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def rows_figure(table: pd.DataFrame, palette: Palette, style_key: str = "svd") -> go.Figure:
    """Plot the cosine between each row and its reconstruction against row length (log scale), with decile medians."""
    colour, medians = palette.colour(style_key), median_table(table)
    drawn = table.iloc[np.unique(np.linspace(0, len(table) - 1, min(len(table), MAX_DOTS)).round().astype(int))]
    dots = {
        "x": drawn["norm"],
        "y": drawn["cosine"],
        "customdata": literal(drawn)["name"],
        "mode": "markers",
        "marker": {"color": colour, "size": 5, "opacity": 0.45, "symbol": marker(style_key)},
        "hovertemplate": "%{customdata}<br>length %{x:.3g}, cosine %{y:.3f}<extra></extra>",
        "name": "a row" if len(drawn) == len(table) else f"a row ({len(drawn)} of {len(table):,} shown)",
    }
    middle = line(medians["norm"], medians["cosine"], palette.text, "solid") | {
        "mode": "lines+markers",
        "marker": {"size": 7, "color": palette.text},
        "hovertemplate": "median of a tenth: length %{x:.3g}, cosine %{y:.3f}<extra></extra>",
        "name": "median of each tenth",
    }
    low = float(table["cosine"].min()) if len(table) else 0.0
    lowest = floor(10 * low - 0.2) / 10 if low > 0.1 else -0.02
    length_title = small_title("row length, as stored (log scale)")
    return finished(
        [dots, middle],
        palette,
        "Do short rows lose their direction first?",
        ROWS_PIXELS,
        xaxis={"title": length_title, "type": "log", "tickformat": "~g", "nticks": 6},
        yaxis={"title": small_title("cosine: higher is better"), "range": [lowest, 1.02]},
        showlegend=True,
        margin={"t": 68},
    )
