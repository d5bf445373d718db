"""Charts in two steps: NAME_table(...) gives a DataFrame, NAME_figure(table, palette) draws it. Tables are what is tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from math import ceil
from textwrap import wrap
from types import MappingProxyType
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from offcomp.models.catalogue import ModelInfo
from offcomp.plain_text import without_unseen
from offcomp.plan import Plan
from offcomp.prediction import GroupPrediction, predict
from offcomp.spectra import Spectrum, relative_error
from offcomp.theme import MARKERS, Palette, marker

FONT_SIZE = 14
CURVE_COLUMNS = ("requested_ratio", "ratio", "relative_error", "stored_parameters", "stored_megabytes")
RATIO_TICKS = (1.25, 2, 3, 5, 10, 20, 50)
MARK_SHAPES = MARKERS | {"tucker": "x", "pruning": "hourglass", "quantization": "bowtie", "reference": "hexagon"}
"""Of points in a plane, where lines and marks that share a shape would not do."""
ESTIMATED = "estimated"
"""The origin of a point that nobody measured."""
POINT_SIZE = 12
TITLE_PIXELS, PLOT_PIXELS, AXIS_PIXELS, LEGEND_ROW_PIXELS = 46, 270, 62, 24
LEGEND_ABREAST = 2  # on a phone
EDGE_DASH = "2px,2px"
HOVER_WIDTH = 60


def literal(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its texts written so that plotly draws them as they are: it reads tags, entities and %{templates}.

    Every figure begins with it, since names, titles and texts in a table may be a stranger's.
    """
    texts = table.select_dtypes(exclude=["number", "bool", "datetime"]).columns
    return table.assign(**{name: table[name].map(literal_text) for name in texts})


def literal_text(value: Any) -> Any:
    """A text of a chart that is not in a table, or a cell; anything but text stays as it is."""
    if not isinstance(value, str):
        return value
    return escape(without_unseen(value), quote=False).replace("%{", "%&#123;")


def styled(
    figure: go.Figure, palette: Palette, *, title: str, height: int = 380, on_top: Mapping[str, Any] = MappingProxyType({})
) -> go.Figure:
    """The figure in the common look: question as title, quiet grid, no chart junk; and more of the layout on top.

    Put together as a dictionary: plotly's updates take four times as long, and a slider waits for them.
    """
    axis = {"gridcolor": palette.grid, "zerolinecolor": palette.grid, "automargin": True, "tickfont": {"color": palette.muted}}
    common = {
        "title": {"text": title, "font": {"size": 17, "color": palette.text}, "x": 0, "xanchor": "left"},
        "font": {"size": FONT_SIZE, "color": palette.text},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 60, "b": 10},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        "hoverlabel": {"font": {"size": FONT_SIZE}},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": palette.muted, "activecolor": palette.text},
    }
    layout = {name: value for name, value in figure.layout.to_plotly_json().items() if name != "template"}
    axes = {"xaxis", "yaxis", *(name for name in layout if name[1:].startswith("axis"))}
    return go.Figure(figure.data, _merged(layout, _merged(common | dict.fromkeys(axes, axis), on_top)))


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested dictionaries in one; what stands in both is taken from the second."""
    both = {
        name: _merged(below[name], above[name])
        for name in below.keys() & above.keys()
        if isinstance(below[name], dict) and isinstance(above[name], dict)
    }
    return {**below, **above, **both}


def error_curve_table(info: ModelInfo, plan: Plan, spectra: Sequence[Spectrum], ratios: Sequence[float]) -> pd.DataFrame:
    """SVD's exact relative error over all chosen weights at each requested ratio, with what it stores.

    `spectra` are those of the plan's groups, `ratio` is the achieved one in their unit. Requested ratios that some group cannot
    reach are left out.
    """
    rows = []
    for ratio in ratios:
        prediction = predict(replace(plan, groups=tuple(replace(group, ratio=ratio) for group in plan.groups)), info)
        if prediction.feasible:
            ranks = [group.size if group.form != "dense" else None for group in prediction.groups]
            error, stored = relative_error(spectra, ranks), prediction.model["chosen"]
            achieved = stored[f"{plan.groups[0].unit.removesuffix('s')}_ratio"]
            rows.append((ratio, achieved, error, stored["parameters_after"], stored["bytes_after"] / 1e6))
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def error_curve_figure(
    table: pd.DataFrame, points: pd.DataFrame, ratio: float, unit: str, palette: Palette, *, exact: bool = True
) -> go.Figure:
    """Relative error against achieved compression ratio (log): SVD as a line, what else is known as marks.

    `points` is an `error_point_table`: measured ones are solid, estimated ones hollow with a dashed edge. `exact` is false
    where the line leaves out the rounding of the storage dtype, so that it is an estimate as well.
    """
    figure, points = go.Figure(), literal(points)
    _curve(figure, table, ratio, palette, exact=exact)
    named = {"svd"}  # by its line
    for (role, is_estimated), part in points.groupby(["role", points["origin"] == ESTIMATED], sort=False):
        figure.add_trace(_points(part, str(role), bool(is_estimated), palette, named=role not in named))
        named.add(str(role))
    rows = ceil(len(named) / LEGEND_ABREAST) if len(points) else 0
    below = AXIS_PIXELS + LEGEND_ROW_PIXELS * rows
    edge = {"color": palette.muted, "width": 1, "dash": "dot"}
    layout = {
        "shapes": [{"type": "line", "x0": ratio, "x1": ratio, "y0": 0, "y1": 1, "yref": "y domain", "line": edge}],
        "xaxis": {
            "title": {"text": f"compression ratio in {unit}, log scale", "font": {"size": FONT_SIZE}},
            "type": "log",
            "tickvals": RATIO_TICKS,
            "ticktext": [f"{tick:g}x" for tick in RATIO_TICKS],
        },
        "yaxis": {"title": {"text": "relative error: lower is better", "font": {"size": FONT_SIZE}}, "range": [0, 1]},
        "legend": {"y": -AXIS_PIXELS / PLOT_PIXELS, "yanchor": "top"},
        "margin": {"t": TITLE_PIXELS, "b": below},
        "showlegend": len(points) > 0,
    }
    height = TITLE_PIXELS + PLOT_PIXELS + below
    return styled(figure, palette, title="How much error at each ratio?", height=height, on_top=layout)


def _curve(figure: go.Figure, table: pd.DataFrame, ratio: float, palette: Palette, *, exact: bool) -> None:
    """The line of SVD, with a larger mark at the chosen ratio."""
    colour, name = palette.roles["svd"], "SVD, exact" if exact else "SVD, before rounding"
    chosen = table[table["requested_ratio"] == ratio]
    edge = {"width": 2, "color": colour, "dash": "solid" if exact else EDGE_DASH}
    symbol = MARK_SHAPES["svd"] + ("" if exact else "-open")
    hover = "%{x:.3g}x smaller: relative error %{y:.3f}<br>%{customdata[0]:,} parameters, %{customdata[1]:.2f} MB"
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


def _points(part: pd.DataFrame, role: str, is_estimated: bool, palette: Palette, *, named: bool) -> go.Scatter:
    """The measured or the estimated points of one method."""
    colour = palette.colour(role)
    edge = {"width": 2, "color": colour, "dash": EDGE_DASH} if is_estimated else {"width": 1, "color": palette.surface}
    symbol = marker(role, MARK_SHAPES) + ("-open" if is_estimated else "")
    return go.Scatter(
        x=part["ratio"],
        y=part["relative_error"],
        mode="markers",
        marker={"symbol": symbol, "size": POINT_SIZE, "color": colour, "line": edge},
        customdata=[_point_details(row) for row in part.to_dict("records")],
        hovertemplate="<br>".join(f"%{{customdata[{index}]}}" for index in range(3)) + "<extra></extra>",
        hoverlabel={"align": "left"},
        name=part["method"].iloc[0],
        legendgroup=role,
        showlegend=named,
    )


def _point_details(row: Mapping[Any, Any]) -> tuple[str, str, str]:
    """What the hover of a point says."""
    error = f"about {row['relative_error']:.2f}" if row["origin"] == ESTIMATED else f"{row['relative_error']:.3f}"
    asked = "" if pd.isna(row["requested_ratio"]) else f" (asked for {row['requested_ratio']:g}x)"
    source = f"run {row['run']}, seed {row['seed']}" if row["run"] else "<br>".join(wrap(row["about"], HOVER_WIDTH))
    return (
        f"<b>{row['method']}</b>, {row['origin']}",
        f"{row['ratio']:.3g}x smaller{asked}: relative error {error}",
        source,
    )


def prediction_table(groups: Sequence[GroupPrediction], spectra: Sequence[Spectrum] | None = None) -> pd.DataFrame:
    """One row a group: rank or latent width, sizes, ratio, break-even, and SVD's error, if `spectra` are given and it fits."""
    rows = []
    for index, group in enumerate(groups):
        row = {
            "group": group.name,
            "matrix": f"{group.rows} x {group.cols}",
            group.size_name: str(group.size) if group.form == "compressed" else group.form,
            "stored parameters": group.num_parameters,
            "stored kB": group.num_bytes / 1e3,
            "compression ratio": group.compression_ratio,
            f"break-even {group.size_name}": group.break_even_size,
            "note": group.note,
        }
        if spectra is not None:
            rank = None if group.form == "dense" else group.size
            row["relative error"] = None if group.form == "infeasible" else relative_error([spectra[index]], [rank])
        rows.append(row)
    table = pd.DataFrame(rows)
    for column in table.columns.intersection(["rank", "latent width"]):
        table[column] = table[column].fillna("")
    return table
