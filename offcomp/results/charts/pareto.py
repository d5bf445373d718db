"""Charts of score against size, and of score against relative error. Tables: `results.pareto`."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, log10
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from offcomp.results.charts.dots import SYMBOLS, shortened
from offcomp.results.charts.scores import LOG_FROM
from offcomp.results.charts.style import FONT_SIZE, literal, styled
from offcomp.results.charts.theme import MARKERS, Palette, marker
from offcomp.results.pareto import ALONE, SIZES, TOGETHER, metric_named
from offcomp.results.runs import title_of_style_key
from offcomp.results.scores import Metric, sentence_start, within_sentence

FRONT_PIXELS = 400
AGREEMENT_PIXELS = 330
TITLE_PIXELS = 46
AXIS_PIXELS = 84  # numbers and two lines of title
LEGEND_ROW_PIXELS = 22
LEGEND_ENTRY_PIXELS = 104
LEGEND_ABREAST = 3  # on a phone
MARKER_SIZE, STAR_SIZE = 12, 17
PALE = 0.38
MOST_BARS = 40
"""With more runs, only those on the front have an interval bar: all the bars together would hide each other."""
MOST_LABELS = 6
RUN = 4
"""Index of the run id in the custom data of a marker."""
FREE_WIDTH, FREE_HEIGHT = 0.4, 0.07
"""Fractions of the axes that the name of a point takes up."""
REFERENCE_DASHES = ("dash", "longdashdot")
FILLS = {ALONE: "", TOGETHER: "-open"}


def front_figure(table: pd.DataFrame, references: pd.DataFrame, palette: Palette, picked: str = "") -> go.Figure:
    """Value against size: the front as a stepped line, other runs pale, the original as a star with its interval as a band.

    Colour and shape show the method, the fill the grouping. References are dashed lines, named in the legend. The picked run
    has a ring.
    """
    table, references = literal(table), literal(references)
    metric = metric_named(table["metric"].iloc[0])
    factor = 100 if metric.percent else 1
    shown = table.assign(**{name: factor * table[name] for name in ("value", "low", "high")})
    original, runs = shown[shown["style_key"] == "original"].iloc[:1], shown[shown["run"] != ""]
    figure = go.Figure()
    _original_band(figure, original, palette)
    _reference_lines(figure, references.assign(value=factor * references["value"]), shown, palette)
    _step_line(figure, shown, palette)
    labelled = _has_room(shown)
    for (style_key, grouping, on_front), part in runs.groupby(["style_key", "grouping", "on_front"], sort=False):
        bars = len(runs) <= MOST_BARS or bool(on_front)
        figure.add_trace(_marks(part, str(style_key), str(grouping), palette, metric, pale=not on_front, bars=bars))
    _ring(figure, runs[runs["run"] == picked], palette)
    for style_key in [] if labelled else runs["style_key"].unique():
        figure.add_trace(_method_key(str(style_key), palette))
    _star(figure, original, palette, metric)
    if labelled:
        _names(figure, runs, (shown["size"].min() + shown["size"].max()) / 2, palette)
    if runs["grouping"].nunique() > 1:
        for grouping, fill in FILLS.items():
            figure.add_trace(_key("circle" + fill, palette.muted, grouping))
    _value_axis(figure, shown, references, metric)
    _size_axis(figure, shown, metric)
    return _finished(figure, palette, "Which run is best for its size?", FRONT_PIXELS)


def _original_band(figure: go.Figure, original: pd.DataFrame, palette: Palette) -> None:
    """Add the value of the original, with its 95 % interval as a band behind everything."""
    colour = palette.series["original"]
    for row in original.to_dict("records"):
        if row["high"] > row["low"]:
            figure.add_hrect(y0=row["low"], y1=row["high"], fillcolor=colour, opacity=0.07, line_width=0, layer="below")
        figure.add_hline(y=row["value"], line={"color": colour, "width": 1, "dash": "dot"}, layer="below")


def _step_line(figure: go.Figure, shown: pd.DataFrame, palette: Palette) -> None:
    """Add a line for the best value up to each size."""
    front = shown[shown["on_front"]].sort_values("size").drop_duplicates("size")
    if shown["size"].nunique() > 1 and len(front):
        last = pd.DataFrame({"size": [shown["size"].max()], "value": [front["value"].iloc[-1]]})
        line = pd.concat([front[["size", "value"]], last])
        figure.add_scatter(
            x=line["size"],
            y=line["value"],
            mode="lines",
            line={"shape": "hv", "color": palette.muted, "width": 2},
            hoverinfo="skip",
            name="best up to its size",
        )


def _marks(
    part: pd.DataFrame, style_key: str, grouping: str, palette: Palette, metric: Metric, *, pale: bool, bars: bool
) -> go.Scatter:
    """The runs of one method and grouping; hovering shows each in full."""
    colour = palette.colour(style_key)
    errors = {"array": part["high"] - part["value"], "arrayminus": part["value"] - part["low"]}
    symbol = marker(style_key, SYMBOLS) + FILLS.get(grouping, "")
    return go.Scatter(
        x=part["size"],
        y=part["value"],
        mode="markers",
        opacity=PALE if pale else 1.0,
        marker={"symbol": symbol, "size": MARKER_SIZE, "color": colour, "line": {"width": 2, "color": colour}},
        error_y=errors | {"color": colour, "thickness": 2, "width": 6} if bars and _has_interval(part) else None,
        customdata=[_details(row, metric) for row in part.to_dict("records")],
        hovertemplate="<br>".join(f"%{{customdata[{index}]}}" for index in range(RUN)) + "<extra></extra>",
        unselected={"marker": {"opacity": PALE if pale else 1.0}},
        showlegend=False,
    )


def _ring(figure: go.Figure, picked: pd.DataFrame, palette: Palette) -> None:
    """Add a ring around the picked run."""
    marker = {"symbol": "circle-open", "size": 2 * MARKER_SIZE, "color": palette.text, "line": {"width": 2}}
    figure.add_scatter(x=picked["size"], y=picked["value"], mode="markers", marker=marker, hoverinfo="skip", showlegend=False)


def _has_interval(part: pd.DataFrame) -> bool:
    """Whether any interval is wider than a point."""
    return bool((part["high"] > part["low"]).any())


def _details(row: Mapping[Any, Any], metric: Metric) -> tuple[str, str, str, str, str]:
    """The hover text of a run, and its id."""
    value = row["value"] / (100 if metric.percent else 1)
    n = f", {row['n']:,} {metric.counts}" if row["n"] else ""
    return (
        f"<b>{shortened(row['name'], 60)}</b>, {row['grouping']}, run {row['run']}",
        f"{metric.word} {metric.number(value)}{n}",
        row["about"].replace(" (", "<br>("),
        f"{row['size']:.4g} {SIZES[row['unit']][0]}, {row['ratio']:.3g}x smaller, relative error {row['relative_error']:.3f}",
        row["run"],
    )


def _star(figure: go.Figure, original: pd.DataFrame, palette: Palette, metric: Metric) -> None:
    """Add the original, on top of everything."""
    unit = SIZES[original["unit"].iloc[0]][0]
    value = metric.number(original["value"].iloc[0] / (100 if metric.percent else 1))
    figure.add_scatter(
        x=original["size"],
        y=original["value"],
        mode="markers",
        marker={"symbol": MARKERS["original"], "size": STAR_SIZE, "color": palette.series["original"]},
        hovertemplate=f"<b>Original</b>, not compressed<br>{metric.word} {value}<br>%{{x:.4g}} {unit}<extra></extra>",
        unselected={"marker": {"opacity": 1.0}},
        name="Original",
    )


def _has_room(shown: pd.DataFrame) -> bool:
    """Whether every marker can be labelled: they are few, and none is where another's name goes."""
    points = list(zip(shown["size"], shown["value"], strict=True))
    if len(points) > MOST_LABELS:
        return False
    width = (shown["size"].max() - shown["size"].min()) or 1.0
    height = max(shown["high"].max() - shown["low"].min(), 1e-9)
    return all(
        abs(a[0] - b[0]) > FREE_WIDTH * width or abs(a[1] - b[1]) > FREE_HEIGHT * height
        for index, a in enumerate(points)
        for b in points[:index]
    )


def _names(figure: go.Figure, runs: pd.DataFrame, middle: float, palette: Palette) -> None:
    """Add the name of each run next to its marker, towards the middle of the chart."""
    for row in runs.to_dict("records"):
        left = row["size"] > middle
        figure.add_scatter(
            x=[row["size"]],
            y=[row["value"]],
            mode="text",
            text=[f"{shortened(row['name'])}   " if left else f"   {shortened(row['name'])}"],
            textposition="top left" if left else "top right",
            textfont={"size": FONT_SIZE - 1, "color": palette.text},
            hoverinfo="skip",
            showlegend=False,
        )


def _method_key(style_key: str, palette: Palette) -> go.Scatter:
    """The legend entry of a method, kept short for narrow phones."""
    title = title_of_style_key(style_key).rpartition(", ")[2]
    colour = palette.colour(style_key)
    return _key(marker(style_key, SYMBOLS), colour, sentence_start(title))


def _key(symbol: str, colour: str, name: str) -> go.Scatter:
    """A legend entry without a marker in the chart."""
    marker = {"symbol": symbol, "size": MARKER_SIZE - 2, "color": colour, "line": {"width": 2, "color": colour}}
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=name, hoverinfo="skip")


def _reference_lines(figure: go.Figure, references: pd.DataFrame, shown: pd.DataFrame, palette: Palette) -> None:
    """Add a line for each bit width of plain rounding, named in the legend: names on the lines would cover markers."""
    ends = _with_room(shown["size"])
    for row, dash in zip(references.to_dict("records"), REFERENCE_DASHES, strict=False):
        figure.add_scatter(
            x=ends,
            y=[row["value"], row["value"]],
            mode="lines",
            line={"color": palette.series["reference"], "width": 2, "dash": dash},
            name=f"{row['name']}, {row['size']:.3g} {SIZES[shown['unit'].iloc[0]][0].split()[0]}",
            hovertemplate=f"every linear weight rounded to {row['name']}: {row['size']:.3g} "
            f"{SIZES[shown['unit'].iloc[0]][0]}<br>bundled measurement<extra></extra>",
        )


def _with_room(sizes: pd.Series) -> list[float]:
    """The ends of the size axis."""
    low, high = sizes.min(), sizes.max()
    room = 0.08 * ((high - low) or 0.1 * high or 1.0)
    return [low - room, high + room]


def _value_axis(figure: go.Figure, shown: pd.DataFrame, references: pd.DataFrame, metric: Metric) -> None:
    """Set the value axis, with space for bars and names; logarithmic if perplexities are far apart."""
    factor = 100 if metric.percent else 1
    ends = [*shown["low"], *shown["high"], *shown["value"], *(factor * references["value"])]
    values = [value for value in ends if isfinite(value)]
    lowest, highest = min(values), max(values)
    log = metric.direction == "lower" and lowest > 0 and highest > LOG_FROM * lowest
    low, high = (log10(lowest), log10(highest)) if log else (lowest, highest)
    room = (high - low) or 0.1 * factor
    notes = (", in %" if metric.percent else "") + (", log scale" if log else "")
    title = sentence_start(f"{metric.word}{_task(shown)}") + notes
    figure.update_yaxes(
        title={"text": title, "font": {"size": FONT_SIZE}}, range=[low - 0.1 * room, high + 0.14 * room], nticks=8
    )
    if log:
        figure.update_yaxes(type="log")


def _task(shown: pd.DataFrame) -> str:
    title = shown["title"].iloc[0]
    return "" if title.lower() == metric_named(shown["metric"].iloc[0]).word else f" on {within_sentence(title)}"


def _size_axis(figure: go.Figure, shown: pd.DataFrame, metric: Metric) -> None:
    unit = SIZES[shown["unit"].iloc[0]][0]
    better = "up" if metric.direction == "higher" else "down"
    figure.update_xaxes(
        title={
            "text": f"stored size of the whole model, in {unit}<br>left and {better} is better",
            "font": {"size": FONT_SIZE},
        },
        range=_with_room(shown["size"]),
        nticks=7,
    )


def agreement_figure(table: pd.DataFrame, palette: Palette) -> go.Figure:
    """Value against relative error, one marker per run: if the two agree, the markers lie along a line."""
    table = literal(table)
    metric = metric_named(table["metric"].iloc[0])
    factor = 100 if metric.percent else 1
    shown = table.assign(**{name: factor * table[name] for name in ("value", "low", "high")})
    figure = go.Figure()
    for (style_key, grouping), part in shown.groupby(["style_key", "grouping"], sort=False):
        mark = _marks(part, str(style_key), str(grouping), palette, metric, pale=False, bars=False)
        figure.add_trace(mark.update(x=part["relative_error"]))
    for style_key in shown["style_key"].unique():
        figure.add_trace(_method_key(str(style_key), palette))
    _value_axis(figure, shown, pd.DataFrame({"value": []}), metric)
    better = "up" if metric.direction == "higher" else "down"
    text = f"relative error of the chosen weights<br>left and {better} is better"
    figure.update_xaxes(title={"text": text, "font": {"size": FONT_SIZE}}, nticks=7)
    return _finished(figure, palette, "Do error and score agree?", AGREEMENT_PIXELS)


def _finished(figure: go.Figure, palette: Palette, title: str, height: int) -> go.Figure:
    """Apply the common style, with the legend below the axis, where rows that only a phone needs leave no gap."""
    entries = sum(trace.showlegend is not False for trace in figure.data)
    bottom = AXIS_PIXELS + LEGEND_ROW_PIXELS * -(-entries // LEGEND_ABREAST) * (entries > 1)
    plot = height - TITLE_PIXELS - AXIS_PIXELS
    height = TITLE_PIXELS + plot + bottom
    figure = styled(figure, palette, title=title, height=height)
    figure.update_layout(
        legend={
            **{"entrywidth": LEGEND_ENTRY_PIXELS, "font": {"size": FONT_SIZE - 2}, "tracegroupgap": 0},
            **{"y": -AXIS_PIXELS / plot, "yanchor": "top"},
        },
        margin={"t": TITLE_PIXELS, "b": bottom},
        title={"yref": "container", "y": 1 - 10 / height, "yanchor": "top"},
        showlegend=entries > 1,
    )
    return figure
