"""Charts of one weight matrix under truncated SVD. Tables and sentences: `inspection`; pictures at a rank: `views`."""

from __future__ import annotations

from math import ceil, floor, log10

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from offcomp.charts import FONT_SIZE, styled
from offcomp.inspection import median_table
from offcomp.theme import MARKERS, Palette
from offcomp.views import Array, block_starts, weights_in_a_cell

SPECTRUM_PIXELS = 310
MAP_PIXELS = 388
ROWS_PIXELS = 380
MAP_SHARE = 0.86  # of the side of a chart; the rest has the bars
MOST_DECADES = 4
PERCENTILE = 99.5
SMALL_FONT = FONT_SIZE - 2
LEGEND_TOP = 68
MAP_MARGINS = {"l": 50, "r": 4, "t": 34, "b": 76}


def spectrum_figure(table: pd.DataFrame, rank: int, palette: Palette) -> go.Figure:
    """Singular values (log), the kept ones filled, beside those of a random matrix; shaded where nothing is saved."""
    values = table["singular_value"].to_numpy()
    top = float(max(values[0], table["random_value"].iloc[0], np.finfo(np.float32).tiny))
    positive = values[values > 0]
    bottom = max(float(positive[-1]) if len(positive) else top / 10, top / 10**MOST_DECADES) * 0.8
    colour = palette.roles["svd"]
    shown = table.assign(shown=table["singular_value"].clip(lower=bottom))
    kept = shown[shown["rank"] <= rank]
    figure = go.Figure()
    figure.add_scatter(x=kept["rank"], y=np.full(len(kept), bottom), mode="lines", line={"width": 0}, hoverinfo="skip")
    figure.add_scatter(x=kept["rank"], y=kept["shown"], mode="lines", line={"width": 0}, fill="tonexty", hoverinfo="skip")
    figure.data[-1].update(fillcolor=_faint(colour, 0.25))
    figure.add_scatter(
        x=table["rank"],
        y=table["random_value"].where(table["random_value"] >= bottom),
        mode="lines",
        line={"color": palette.roles["reference"], "width": 2, "dash": "dash"},
        hovertemplate="value %{x}: %{y:.3g}<extra>random matrix</extra>",
    )
    figure.add_scatter(
        x=shown["rank"],
        y=shown["singular_value"].where(shown["singular_value"] >= bottom),
        mode="lines+markers" if len(table) == 1 else "lines",
        line={"color": colour, "width": 2},
        hovertemplate="value %{x}: %{y:.3g}<extra>this matrix</extra>",
    )
    _rank_axis(figure, table, rank, palette)
    middle = int(0.4 * len(table))
    figure.add_annotation(
        x=middle + 1,
        y=log10(max(bottom, table["random_value"].iloc[middle])),
        yanchor="bottom",
        xanchor="left",
        text="dashed: a random matrix",
        showarrow=False,
        font={"size": SMALL_FONT, "color": palette.muted},
    )
    figure.update_yaxes(
        title="singular value (log scale)",
        type="log",
        range=[log10(bottom), log10(top) + 0.06 * log10(top / bottom)],
        tickformat="~g",
        dtick="D2" if top / bottom < 10**2 else 1,
    )
    return _finished(figure, palette, "How fast do the singular values fall?", SPECTRUM_PIXELS)


def energy_figure(table: pd.DataFrame, rank: int, palette: Palette) -> go.Figure:
    """Energy kept and parameters stored at each rank, in per cent of the matrix."""
    colour, here = palette.roles["svd"], table.iloc[rank - 1]
    figure = go.Figure()
    lines = (
        ("energy_kept", "energy kept", colour, "solid"),
        ("random_energy_kept", "if random", palette.roles["reference"], "dash"),
        ("stored_fraction", "parameters stored", palette.text, "dot"),
    )
    for column, name, line_colour, dash in lines:
        shown = table[table[column] <= 1.05] if column == "stored_fraction" else table
        figure.add_scatter(
            x=[0, *shown["rank"]],
            y=[0, *100 * shown[column]],
            mode="lines",
            line={"color": line_colour, "width": 2, "dash": dash},
            hovertemplate=f"rank %{{x}}: %{{y:.1f}} %<extra>{name}</extra>",
            name=name,
            showlegend=True,
        )
    for column, symbol, line_colour in (("energy_kept", MARKERS["svd"], colour), ("stored_fraction", "square", palette.text)):
        if here[column] <= 1.05:
            figure.add_scatter(
                x=[rank],
                y=[100 * here[column]],
                mode="markers",
                marker={"symbol": symbol, "size": 10, "color": line_colour, "line": {"width": 2, "color": palette.surface}},
                hoverinfo="skip",
                showlegend=False,
            )
    _rank_axis(figure, table, rank, palette, height=0.34)
    figure.update_yaxes(title="% of the matrix", range=[0, 105], tickvals=[0, 25, 50, 75, 100])
    figure = _finished(figure, palette, "What does each rank keep, and store?", SPECTRUM_PIXELS)
    corner = {"x": 0.99, "xanchor": "right", "y": 0.02, "yanchor": "bottom", "orientation": "v", "bgcolor": "rgba(0,0,0,0)"}
    figure.update_layout(showlegend=True, legend=corner | {"font": {"size": SMALL_FONT}})
    return figure


def _rank_axis(figure: go.Figure, table: pd.DataFrame, rank: int, palette: Palette, *, height: float = 0.02) -> None:
    """Ranks from 0 on, the chosen one as a line with its number, and what lies beyond break-even shaded."""
    most = len(table)
    dense = float(1 / table["stored_fraction"].iloc[0])
    figure.update_xaxes(title=f"rank, of {most}", range=[0, most * 1.01 if most > 1 else 1.2])
    figure.add_vrect(x0=dense, x1=most * 1.02 if most > 1 else 1.2, fillcolor=palette.muted, opacity=0.14, line_width=0)
    narrow = most - dense < 0.15 * most
    figure.add_annotation(
        x=dense if narrow else (dense + most) / 2,
        y=height,
        yref="y domain",
        yanchor="bottom",
        xanchor="right" if narrow else "center",
        align="right" if narrow else "center",
        text=f"from rank {ceil(dense)} on<br>nothing saved" if narrow else "nothing<br>saved",
        showarrow=False,
        font={"size": SMALL_FONT, "color": palette.muted},
    )
    figure.add_vline(x=rank, line={"color": palette.text, "width": 2})
    right = rank > 0.75 * most
    figure.add_annotation(
        x=rank,
        y=1,
        yref="y domain",
        yanchor="top",
        xanchor="right" if right else "left",
        xshift=-4 if right else 4,
        text=f"rank {rank}",
        showarrow=False,
        font={"size": FONT_SIZE, "color": palette.text},
    )


def _finished(figure: go.Figure, palette: Palette, title: str, height: int) -> go.Figure:
    figure.update_layout(showlegend=False)
    figure = styled(figure, palette, title=title, height=height)
    figure.update_layout(uirevision="same", margin_t=46, title={"yref": "container", "y": 1 - 10 / height, "yanchor": "top"})
    figure.update_xaxes(title_font_size=SMALL_FONT, title_standoff=6)
    figure.update_yaxes(title_font_size=SMALL_FONT, title_standoff=6)
    return figure


def _faint(colour: str, opacity: float) -> str:
    """A colour that lets what is behind it through."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def colour_limit(original: Array) -> float:
    """Where the colours of all three maps end, either way: a few cells of the original are beyond."""
    return float(np.percentile(np.abs(original), PERCENTILE)) or 1.0


def map_figure(
    values: Array, blocks: pd.DataFrame, *, part: str, limit: float, shape: tuple[int, int], title: str, palette: Palette
) -> go.Figure:
    """A map of means of blocks between -limit and limit; as bars, how much energy is in each block of rows and of columns.

    `blocks` is the `block_table`; `part` is the column of it that the bars show: energy, kept or residual.
    """
    (rows, cols), starts = shape, [block_starts(length) for length in shape]
    total = max(float(blocks["energy"].sum()) / 2, np.finfo(np.float64).tiny)
    figure = go.Figure(
        go.Heatmap(
            x=starts[1][:-1],
            y=starts[0][:-1],
            z=values.astype(np.float32),
            zmin=-limit,
            zmax=limit,
            colorscale=[[step / (len(palette.weights) - 1), colour] for step, colour in enumerate(palette.weights)],
            colorbar=_colour_bar(limit, palette),
            hovertemplate="from row %{y}, column %{x}<br>mean %{z:.4f}<extra></extra>",
        )
    )
    colour = {"energy": palette.roles["original"], "kept": palette.roles["svd"]}.get(part, palette.muted)
    for side, start, axes in (("rows", starts[0], {"xaxis": "x2"}), ("columns", starts[1], {"yaxis": "y2"})):
        share = 100 * blocks.loc[blocks["side"] == side, part].to_numpy() / total
        place, length = (start[:-1], "x") if side == "rows" else (start[:-1], "y")
        other = "y" if length == "x" else "x"
        figure.add_bar(
            **{length: share, other: place},
            **axes,
            width=np.diff(start),
            orientation="h" if side == "rows" else "v",
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate=f"{side} from %{{{other}}}: %{{{length}:.2f}} % of the energy of the matrix<extra></extra>",
        )
    figure = _finished(figure, palette, title, MAP_PIXELS)
    most = {
        side: 105 * float(blocks.loc[blocks["side"] == side, "energy"].max()) / total or 1.0 for side in ("rows", "columns")
    }
    small = {"font": {"size": SMALL_FONT}, "standoff": 2}
    plain = {"showgrid": False, "zeroline": False, "automargin": False}
    hidden = plain | {"showticklabels": False, "fixedrange": True}
    figure.update_layout(
        bargap=0,
        margin=MAP_MARGINS,
        xaxis={"domain": [0, MAP_SHARE], "title": {"text": f"column, of {cols:,}", **small}, **plain},
        yaxis={"domain": [0, MAP_SHARE], "title": {"text": f"row, of {rows:,}", **small}, **plain},
        xaxis2={"domain": [MAP_SHARE + 0.02, 1], "range": [0, most["rows"]], "anchor": "y", **hidden},
        yaxis2={"domain": [MAP_SHARE + 0.02, 1], "range": [0, most["columns"]], "anchor": "x", **hidden},
    )
    half_row, half_column = (length / min(length, len(start) - 1) / 2 for length, start in zip(shape, starts, strict=True))
    figure.update_layout(
        xaxis_range=[-half_column, cols - half_column], yaxis_range=[rows - half_row, -half_row], yaxis_nticks=5, xaxis_nticks=5
    )
    return figure


def _colour_bar(limit: float, palette: Palette) -> dict[str, object]:
    """A thin scale below a map."""
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
    """What a cell of the maps is."""
    tall, wide = map(weights_in_a_cell, shape)
    if tall == wide == "1":
        return "Each cell is one weight."
    about = "about " if "about" in tall + wide else ""
    return f"Each cell averages {about}{tall.removeprefix('about ')} x {wide.removeprefix('about ')} weights."


def rows_figure(table: pd.DataFrame, palette: Palette) -> go.Figure:
    """Cosine between each row and its reconstruction against the row's length (log), with the medians of ten parts."""
    colour, medians = palette.roles["svd"], median_table(table)
    figure = go.Figure()
    figure.add_scatter(
        x=table["norm"],
        y=table["cosine"],
        customdata=table["row"],
        mode="markers",
        marker={"color": colour, "size": 5, "opacity": 0.45, "symbol": MARKERS["svd"]},
        hovertemplate="row %{customdata}<br>length %{x:.3g}, cosine %{y:.3f}<extra></extra>",
        name="a row",
    )
    figure.add_scatter(
        x=medians["norm"],
        y=medians["cosine"],
        mode="lines+markers",
        line={"color": palette.text, "width": 2},
        marker={"size": 7, "color": palette.text},
        hovertemplate="median of a tenth: length %{x:.3g}, cosine %{y:.3f}<extra></extra>",
        name="median of each tenth",
    )
    low = float(table["cosine"].min()) if len(table) else 0.0
    figure.update_xaxes(title="length of the row, as stored (log scale)", type="log", tickformat="~g", nticks=6)
    figure.update_yaxes(
        title="cosine: higher is better", range=[floor(10 * low - 0.2) / 10, 1.02] if low > 0.1 else [-0.02, 1.03]
    )
    figure = _finished(figure, palette, "Do short rows lose their direction first?", ROWS_PIXELS)
    figure.update_layout(showlegend=True, margin_t=LEGEND_TOP, legend={"font": {"size": SMALL_FONT}})
    return figure
