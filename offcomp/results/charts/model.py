"""Charts of a model: the number of parameters by layer and kind, or the relative error of SVD on each matrix.

The tables come from `results.model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, log10
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from offcomp.models.families import KIND_TITLES
from offcomp.results.charts.style import FONT_SIZE, axis_title, literal, styled
from offcomp.results.charts.theme import Palette
from offcomp.results.model import error_words, number, percent, shortened
from offcomp.results.model_cells import GAP, placed_table

PARAMETERS, COMPRESSIBLE = "parameters", "compressible"
TITLES = {PARAMETERS: "How large is each matrix?", COMPRESSIBLE: "Which matrices does SVD compress well?"}
SCALES = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"), (1.0, ""))
DECADES = 2.3  # orders of magnitude of size that the colours distinguish
MAX_LABEL_LENGTH = 24
MAX_LINE_LENGTH = 14
MAX_TICKS = 26
ROW_PIXELS = 33
DENSE_ROW_PIXELS, DENSE_FROM_ROWS = 24, 14
CELL_PIXELS, DENSE_CELL_PIXELS = 33, 24  # minimum width that fits a number
DENSE_FROM_COLUMNS = 16
LABEL_PIXELS = 110
FRAME_PIXELS = 148
UNKNOWN, OUT_OF_REACH = "?", "-"
NO_LIMITS = 0.0, 1.0
STATIC: dict[str, Any] = {"hovermode": "closest", "dragmode": False}
TOO_NARROW = 0.015
NARROW = 0.09  # share of the model below which the label of a bar segment is rotated


def map_pixels(table: pd.DataFrame) -> int:
    """The minimum chart width at which numbers fit in their cells."""
    columns = int(table["layer"].max()) + 1 if table["layer"].notna().any() else 1
    return LABEL_PIXELS + columns * (CELL_PIXELS if columns < DENSE_FROM_COLUMNS else DENSE_CELL_PIXELS)


def map_figure(
    table: pd.DataFrame, palette: Palette, colour: str = PARAMETERS, picked: str = "", ratio: float = 0
) -> go.Figure:
    """Heat map of kinds (rows) by layers (columns), with the matrices outside the layers at the top.

    Every cell shows a number and can be clicked. Stronger colours mean larger values: parameters on a logarithmic scale,
    or the relative error of SVD at `ratio`. Matrices in the plan are outlined; the selected matrix has a dotted outline.
    """
    placed = placed_table(table)
    cells = literal(placed).assign(id=placed["module"])  # identifies the cell when it is clicked
    columns = int(cells["x"].max()) + 1 if cells["x"].notna().any() else 1
    values, texts, limits, subtitle = _errors(cells, ratio) if colour == COMPRESSIBLE else _sizes(cells)
    cells = cells.assign(value=values, text=texts, hover=_details(cells, ratio))
    parts = cells.groupby([cells["x"].isna(), cells["value"].isna()], sort=False)
    framed, marked = cells[cells["in_plan"]], cells[[picked in members for members in cells["members"]]]
    traces = [
        *(_coloured(part, columns, palette, colour, limits) for _, part in parts),
        _frames(framed, columns, {"color": palette.text, "width": 2 if columns < DENSE_FROM_COLUMNS else 1}),
        _frames(marked, columns, {"color": palette.text, "width": 5, "dash": "2px,4px"}),
        _points(cells, columns),
    ]
    labels = cells.drop_duplicates("y").sort_values("y")
    pixels = ROW_PIXELS if len(labels) < DENSE_FROM_ROWS else DENSE_ROW_PIXELS
    return styled(
        go.Figure(traces),
        palette,
        title=TITLES[colour],
        title_top=8,
        height=FRAME_PIXELS + round(pixels * (len(labels) + GAP)),
        title_subtitle=axis_title(subtitle, FONT_SIZE - 1),
        margin={"t": 92},
        **_axes(labels, columns),
        **STATIC,
        hoverdistance=-1,
    )


def _sizes(cells: pd.DataFrame) -> tuple[list[float], list[str], tuple[float, float], str]:
    """Colour values, cell texts, colour limits and subtitle for a map of parameters on a logarithmic scale.

    Cells for layers omit the unit; the subtitle gives it (billions, millions or thousands, depending on the largest matrix).
    """
    inside = cells.loc[cells["x"].notna(), "parameters"]
    most = max(inside if len(inside) else cells["parameters"], default=1)
    scale, unit = next((scale for scale in SCALES if most >= scale[0]), SCALES[-1])
    values = [log10(max(1, size)) for size in cells["parameters"]]
    texts = [
        f"{number(size)}, {percent(share)}" if pd.isna(x) else f"{size / scale:.{3 if size >= 100 * scale else 2}g}"
        for size, share, x in zip(cells["parameters"], cells["share"], cells["x"], strict=True)
    ]
    limits = (max(values) - DECADES, max(values)) if values else NO_LIMITS
    return values, texts, limits, f"{unit + ' of ' if unit else ''}parameters on a log scale;<br>stronger colours mean more"


def _errors(cells: pd.DataFrame, ratio: float) -> tuple[list[float], list[str], tuple[float, float], str]:
    """The same as `_sizes`, but for the relative errors of SVD."""
    texts = [
        (f"{error:.2f}" if not isnan(error) else OUT_OF_REACH if known else UNKNOWN)
        for error, known in zip(cells["relative_error"], cells["known_error"], strict=True)
    ]
    errors, limits, legend = cells["relative_error"].dropna(), NO_LIMITS, "none known yet"
    if len(errors):
        limits = float(errors.min()) - 1e-6, float(errors.max())
        legend = f"stronger colours mean larger errors ({limits[0]:.2f} to {limits[1]:.2f})"
    return list(cells["relative_error"]), texts, limits, f"relative error of SVD at {ratio:g}x, each matrix alone;<br>{legend}"


def _details(cells: pd.DataFrame, ratio: float) -> list[str]:
    """The hover text of each cell."""
    return [
        f"<b>{shortened(cell['module'], 60)}</b>{_others(cell['members'])}<br>"
        f"{_times(cell['members'])}{cell['rows']:,} x {cell['cols']:,} = {cell['parameters']:,} parameters<br>"
        f"{percent(cell['share'])} of the model, {cell['status']}{f'<br>{error_words(cell, ratio)}' if ratio else ''}"
        for cell in cells.to_dict("records")
    ]


def _others(members: Sequence[str]) -> str:
    return f" and {len(members) - 1} other experts" if len(members) > 1 else ""


def _times(members: Sequence[str]) -> str:
    return f"{len(members)} x " if len(members) > 1 else ""


def _coloured(part: pd.DataFrame, columns: int, palette: Palette, colour: str, limits: tuple[float, float]) -> go.Heatmap:
    """Heat map of cells of one type: either all or none span the layers, and either all or none of their values are known.

    Cell edges are given explicitly because a single row or column would otherwise be drawn at a different size.
    """
    spans, unknown = bool(part["x"].isna().all()), bool(part["value"].isna().all())
    first, width = float(part["y"].min()), 1 if spans else columns
    height = round(float(part["y"].max()) - first) + 1
    values: list[list[float | None]] = [[None] * width for _ in range(height)]
    texts = [[""] * width for _ in range(height)]
    for x, y, value, text in part[["x", "y", "value", "text"]].itertuples(index=False):
        row, column = round(y - first), 0 if spans else int(x)
        values[row][column], texts[row][column] = 0.0 if unknown else value, text
    dark = palette.diverging[2 if colour == PARAMETERS else 0]
    return go.Heatmap(
        x=[-0.5, columns - 0.5] if spans else [edge - 0.5 for edge in range(columns + 1)],
        y=[first - 0.5 + edge for edge in range(height + 1)],
        z=values,
        text=texts,
        texttemplate="%{text}",
        textfont={"size": FONT_SIZE - (2 if spans or columns < DENSE_FROM_COLUMNS else 4), "color": palette.text},
        colorscale=[[0, palette.grid], [1, palette.grid]] if unknown else [[0, palette.diverging[1]], [1, dark]],
        zmin=limits[0],
        zmax=limits[1],
        showscale=False,
        xgap=3 if columns < DENSE_FROM_COLUMNS else 2,
        ygap=3,
        hoverinfo="skip",
    )


def _points(cells: pd.DataFrame, columns: int) -> go.Scatter:
    """Invisible points that can be clicked and hovered over, unlike the cells of a heat map."""
    layers: list[Any] = [range(columns) if pd.isna(x) else [int(x)] for x in cells["x"]]
    points = cells.assign(x=layers).explode("x")
    hidden = {"marker": {"opacity": 0}}
    return go.Scatter(
        x=points["x"],
        y=points["y"],
        customdata=points[["id"]],
        hovertext=points["hover"],
        hovertemplate="%{hovertext}<extra></extra>",
        mode="markers",
        marker={"size": ROW_PIXELS - 3, "symbol": "square", "opacity": 0},
        selected=hidden,
        unselected=hidden,
    )


def _frames(cells: pd.DataFrame, columns: int, line: dict[str, Any]) -> go.Scatter:
    """Outlines around cells, drawn as a single line with gaps because hundreds of shapes would be slow."""
    x: list[float | None] = []
    y: list[float | None] = []
    half = 0.5 - min(0.03, 0.005 * columns)  # half the width of an outline; cells may be very wide
    for layer, row in zip(cells["x"], cells["y"], strict=True):
        left, right = (0, columns - 1) if pd.isna(layer) else (int(layer), int(layer))
        start, end = left - half, right + half
        x += [start, end, end, start, start, None]
        y += [row - 0.46, row - 0.46, row + 0.46, row + 0.46, row - 0.46, None]
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip")


def _axes(labels: pd.DataFrame, columns: int) -> dict[str, dict[str, Any]]:
    """Axes with rows from top to bottom, layers from left to right, and no grid."""
    dense = len(labels) >= DENSE_FROM_ROWS
    names = [shortened(name, MAX_LABEL_LENGTH) for name in row_labels(labels)]
    bottom = float(labels["y"].max()) + 0.5 if len(labels) else 0.5
    layered = bool(labels["x"].notna().any())
    layer_axis = {
        "title": axis_title("layer" if layered else ""),
        "tickvals": list(range(0, columns, 1 if columns <= MAX_TICKS else 4)) if layered else [],
        "range": [-0.5, columns - 0.5],
        "tickangle": 0,
    }
    row_axis = {
        "tickvals": list(labels["y"]),
        "ticktext": names if dense else list(map(_wrapped, names)),
        "tickfont": {"size": FONT_SIZE - (2 if dense else 1)},
        "range": [bottom, -0.5],
    }
    fixed = {"showgrid": False, "zeroline": False, "fixedrange": True}
    return {"xaxis": layer_axis | fixed, "yaxis": row_axis | fixed}


def _wrapped(name: str) -> str:
    """Split a long name over two lines, since phones are narrow."""
    first, _, last = name.rpartition(" ")
    return f"{first}<br>{last}" if first and len(name) > MAX_LINE_LENGTH else name


def row_labels(labels: pd.DataFrame) -> list[str]:
    """Row names: the kind, or else the path after the layer number, or after the last dot if it has no layer.

    A name that is not unique is replaced by the full path.
    """
    full = [row["row"] or row["module"] for row in labels.to_dict("records")]
    brief = [
        kind if kind in KIND_TITLES.values() and not row else name.rpartition("*." if row else ".")[2].replace("_", " ")
        for name, row, kind in zip(full, labels["row"], labels["kind"], strict=True)
    ]
    return [short if brief.count(short) == 1 else name for short, name in zip(brief, full, strict=True)]


def share_figure(table: pd.DataFrame, palette: Palette) -> go.Figure:
    """Stacked bar of the whole model, with one segment per kind."""
    table = literal(table)
    pale, dark = palette.diverging[1], palette.diverging[2]
    most = max(table["share"], default=1)
    pieces = [
        go.Bar(
            x=[100 * row["share"]],
            y=[""],
            orientation="h",
            name=row["kind"],
            text=_piece_name(row["kind"], row["share"]),
            textangle=-90 if row["share"] < NARROW else 0,
            textposition="inside",
            insidetextanchor="middle",
            textfont={"color": palette.text, "size": FONT_SIZE - 2},
            marker={"color": _between(pale, dark, row["share"] / most), "line": {"color": palette.muted, "width": 1}},
            hovertemplate=f"<b>{row['kind']}</b><br>{row['parameters']:,} parameters, {percent(row['share'])}<br>"
            f"{_matrices(row['matrices'])}<extra></extra>",
        )
        for row in table.sort_values("share", ascending=False, kind="stable").to_dict("records")
    ]
    return styled(
        go.Figure(pieces),
        palette,
        title="What is the model made of?",
        height=190,
        xaxis={"title": axis_title("share of all parameters, in %"), "range": [0, 100], "fixedrange": True},
        yaxis={"visible": False, "fixedrange": True},
        barmode="stack",
        margin={"r": 24},
        uniformtext={"mode": "hide", "minsize": FONT_SIZE - 4},
        **STATIC,
    )


def _piece_name(kind: str, share: float) -> str:
    """The label of a bar segment; empty if it does not fit."""
    if share < NARROW:
        return f"{kind.replace(' ', '<br>', 1)} {percent(share)}" if share >= TOO_NARROW else ""
    return f"{kind}<br>{percent(share)}"


def _matrices(count: int) -> str:
    return "no matrices" if not count else "1 matrix" if count == 1 else f"{count} matrices"


def _between(pale: str, dark: str, part: float) -> str:
    """Interpolate between two colours: `part` is 0 for `pale` and 1 for `dark`."""
    ends = (bytes.fromhex(colour[1:]) for colour in (pale, dark))
    return "#" + bytes(round(start + part * (end - start)) for start, end in zip(*ends, strict=True)).hex()
