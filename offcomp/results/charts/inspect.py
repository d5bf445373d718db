"""Charts of one weight matrix under truncated SVD. Tables come from `results.inspect`, and views from `matrix_view`."""

from __future__ import annotations

from math import ceil, floor, log10
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from offcomp.planning.matrix_view import Array, block_starts, weights_in_a_cell
from offcomp.results.charts.style import FONT_SIZE, axis_title, colour_scale, styled
from offcomp.results.charts.theme import MARKERS, Palette
from offcomp.results.inspect import median_table

SPECTRUM_PIXELS = 310
ROWS_PIXELS = 380
MAP_PIXELS = 388
MAP_SHARE = 0.86  # fraction of the chart's width and height used by the map; the bars take up the rest
MAX_DECADES = 4
MAX_STORED = 1.05  # fraction of the original parameters beyond which lines are not drawn
PERCENTILE = 99.5
MAX_DOTS = 400
"""Maximum number of rows drawn: the browser redraws every dot whenever the slider moves."""
SMALL_FONT = FONT_SIZE - 2
MAP_MARGINS = {"l": 50, "r": 4, "t": 34, "b": 76}


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
        _line(ranks, _above(noise, bottom), palette.series["reference"], "dash")
        | {"hovertemplate": "singular value %{x}: %{y:.3g}<extra>random matrix</extra>"},
        _line(ranks, _above(values, bottom), colour, "solid")
        | {
            "hovertemplate": "singular value %{x}: %{y:.3g}<extra>this matrix</extra>",
            "mode": "lines" if len(table) > 1 else "markers",
        },
    ]
    middle = int(0.4 * len(table))
    noise_label = {"x": middle + 1, "y": log10(max(bottom, noise[middle])), "yanchor": "bottom", "xanchor": "left"}
    yaxis = {
        "title": _axis_title("singular value (log scale)"),
        "type": "log",
        "range": [log10(bottom), log10(top) + 0.06 * log10(top / bottom)],
        "tickformat": "~g",
        "dtick": "D2" if top / bottom < 10**2 else 1,
    }
    layout = _rank_layout(table, rank, palette)
    layout["annotations"].append(noise_label | {"text": "dashed: a random matrix"} | _small(palette))
    return _finished(data, palette, "How fast do the singular values decay?", SPECTRUM_PIXELS, **layout, yaxis=yaxis)


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
        data.append(_line([0, *shown["rank"]], [0, *100 * shown[column]], line_colour, dash) | hover)
    for column, symbol, mark_colour in (("energy_kept", MARKERS["svd"], colour), ("stored_fraction", "square", palette.text)):
        if chosen[column] <= MAX_STORED:
            marker = {"symbol": symbol, "size": 10, "color": mark_colour, "line": {"width": 2, "color": palette.surface}}
            point = {"x": [rank], "y": [100 * chosen[column]], "mode": "markers"}
            data.append(point | {"marker": marker, "hoverinfo": "skip", "showlegend": False})
    return _finished(
        data,
        palette,
        "How much does each rank keep and store?",
        SPECTRUM_PIXELS,
        **_rank_layout(table, rank, palette, height=0.34),
        yaxis={"title": _axis_title("% of the matrix"), "range": [0, 105], "tickvals": [0, 25, 50, 75, 100]},
        legend={"x": 0.99, "xanchor": "right", "y": 0.02, "yanchor": "bottom", "orientation": "v", "bgcolor": "rgba(0,0,0,0)"},
        showlegend=True,
    )


def _line(x: Any, y: Any, colour: str, dash: str) -> dict[str, Any]:
    return {"x": x, "y": y, "mode": "lines", "line": {"color": colour, "width": 2, "dash": dash}}


def _above(values: Array, bottom: float) -> Array:
    """Replace values below the axis with NaN, which plotly does not draw."""
    return np.where(values >= bottom, values, np.nan)


def _small(palette: Palette) -> dict[str, Any]:
    return {"showarrow": False, "font": {"size": SMALL_FONT, "color": palette.muted}}


def _axis_title(text: str, standoff: int = 6) -> dict[str, Any]:
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
    xaxis = {"title": _axis_title(f"rank, of {max_rank}"), "range": [0, end]}
    return {"xaxis": xaxis, "shapes": [shade, line], "annotations": [saves_nothing, name]}


def _finished(data: list[dict[str, Any]], palette: Palette, title: str, height: int, **layout: Any) -> go.Figure:
    """Apply the common style, with the title at the top edge and a small legend."""
    layout["legend"] = {"font": {"size": SMALL_FONT}} | layout.get("legend", {})
    return styled(go.Figure(data), palette, title=title, title_top=10, height=height, uirevision="same", **layout)


def _faint(colour: str, opacity: float) -> str:
    """A translucent version of a colour."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def colour_limit(original: Array) -> float:
    """The symmetric colour limit shared by all three maps; a few cells of the original exceed it."""
    return float(np.percentile(np.abs(original), PERCENTILE)) or 1.0


def map_figure(
    values: Array, blocks: pd.DataFrame, *, part: str, limit: float, shape: tuple[int, int], title: str, palette: Palette
) -> go.Figure:
    """Heat map of block means, coloured from -limit to limit, with bars for the energy in each block of rows and columns.

    `blocks` comes from `block_table`; `part` is the column that the bars show: energy, kept or residual.
    """
    starts = [block_starts(length) for length in shape]
    total = max(float(blocks["energy"].sum()) / 2, np.finfo(np.float64).tiny)
    heat = {
        "type": "heatmap",
        "x": starts[1][:-1],
        "y": starts[0][:-1],
        "z": values.astype(np.float32),
        "zmin": -limit,
        "zmax": limit,
        "colorscale": colour_scale(palette.weights),
        "colorbar": _colour_bar(limit, palette),
        "hovertemplate": "from row %{y}, column %{x}<br>mean %{z:.4f}<extra></extra>",
    }
    colour = {"energy": palette.series["original"], "kept": palette.series["svd"]}.get(part, palette.muted)
    plain: dict[str, Any] = {"showgrid": False, "zeroline": False, "automargin": False, "nticks": 5, "tickformat": "~s"}
    bare = plain | {"showticklabels": False, "fixedrange": True, "domain": [MAP_SHARE + 0.02, 1]}
    data = [heat]
    axes: dict[str, Any] = {}
    for side, length, start in zip(("rows", "columns"), shape, starts, strict=True):
        share, energy = (100 * blocks.loc[blocks["side"] == side, column].to_numpy() / total for column in (part, "energy"))
        data.append(_bars(share, start, side, colour))
        half = length / (len(start) - 1) / 2
        ends, bars = [-half, length - half], bare | {"range": [0, 1.05 * float(energy.max()) or 1.0]}
        axis = plain | {"domain": [0, MAP_SHARE], "title": _axis_title(f"{side.removesuffix('s')}, of {length:,}", standoff=2)}
        if side == "rows":
            axes |= {"yaxis": axis | {"range": ends[::-1]}, "xaxis2": bars | {"anchor": "y"}}
        else:
            axes |= {"xaxis": axis | {"range": ends}, "yaxis2": bars | {"anchor": "x"}}
    return _finished(data, palette, title, MAP_PIXELS, margin=MAP_MARGINS, **axes)


def _bars(share: NDArray[np.float64], starts: NDArray[np.int64], side: str, colour: str) -> dict[str, Any]:
    """Energy of the blocks on one side as a filled step line, which browsers draw faster than many bars."""
    half = (starts[1] - starts[0]) / 2
    along, lengths = starts - half, np.append(share, share[-1])
    rows = side == "rows"
    length_axis = "x" if rows else "y"
    points = {"x": lengths, "y": along, "xaxis": "x2"} if rows else {"x": along, "y": lengths, "yaxis": "y2"}
    return points | {
        "mode": "lines",
        "line": {"width": 0, "shape": "vh" if rows else "hv"},
        "fill": f"tozero{length_axis}",
        "fillcolor": colour,
        "hovertemplate": f"%{{{length_axis}:.2f}} % of the energy of the matrix<extra></extra>",
    }


def _colour_bar(limit: float, palette: Palette) -> dict[str, object]:
    """A thin colour bar below a map."""
    digits = max(0, 1 - floor(log10(limit)))
    return {
        "orientation": "h",
        "thickness": 8,
        "len": MAP_SHARE,
        "x": 0,
        "xanchor": "left",
        "y": -40 / (MAP_PIXELS - MAP_MARGINS["t"] - MAP_MARGINS["b"]),
        "yanchor": "top",
        "outlinewidth": 0,
        "tickvals": [-limit, 0, limit],
        "ticktext": [f"−{limit:.{digits}f}", "0", f"{limit:.{digits}f}"],
        "tickfont": {"size": SMALL_FONT, "color": palette.muted},
    }


def cell_words(shape: tuple[int, int]) -> str:
    """Sentence stating how many weights each cell of the maps represents."""
    tall, wide = map(weights_in_a_cell, shape)
    if tall == wide == "1":
        return "Each cell is one weight."
    prefix = "about " if "about" in tall + wide else ""
    return f"Each cell averages {prefix}{tall.removeprefix('about ')} x {wide.removeprefix('about ')} weights."


def rows_figure(table: pd.DataFrame, palette: Palette) -> go.Figure:
    """Plot the cosine between each row and its reconstruction against row length (log scale), with decile medians."""
    colour, medians = palette.series["svd"], median_table(table)
    drawn = table.iloc[np.unique(np.linspace(0, len(table) - 1, min(len(table), MAX_DOTS)).round().astype(int))]
    dots = {
        "x": drawn["norm"],
        "y": drawn["cosine"],
        "customdata": drawn["row"],
        "mode": "markers",
        "marker": {"color": colour, "size": 5, "opacity": 0.45, "symbol": MARKERS["svd"]},
        "hovertemplate": "row %{customdata}<br>length %{x:.3g}, cosine %{y:.3f}<extra></extra>",
        "name": "a row" if len(drawn) == len(table) else f"a row ({len(drawn)} of {len(table):,} shown)",
    }
    line = _line(medians["norm"], medians["cosine"], palette.text, "solid") | {
        "mode": "lines+markers",
        "marker": {"size": 7, "color": palette.text},
        "hovertemplate": "median of a tenth: length %{x:.3g}, cosine %{y:.3f}<extra></extra>",
        "name": "median of each tenth",
    }
    low = float(table["cosine"].min()) if len(table) else 0.0
    lowest = floor(10 * low - 0.2) / 10 if low > 0.1 else -0.02
    length_title = _axis_title("row length, as stored (log scale)")
    return _finished(
        [dots, line],
        palette,
        "Do short rows lose their direction first?",
        ROWS_PIXELS,
        xaxis={"title": length_title, "type": "log", "tickformat": "~g", "nticks": 6},
        yaxis={"title": _axis_title("cosine: higher is better"), "range": [lowest, 1.02]},
        showlegend=True,
        margin={"t": 68},
    )
