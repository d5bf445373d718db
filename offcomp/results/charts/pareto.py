"""Charts of score against size and of score against relative error. See `results.pareto` for the tables."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import combinations
from math import ceil, isfinite, log10
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from offcomp.results.charts.dots import SYMBOLS, interval_bars, labels, legend_entry, original_star, shortened
from offcomp.results.charts.scores import LOG_FROM
from offcomp.results.charts.style import FONT_SIZE, TITLE_PIXELS, axis_title, literal, outlined, styled
from offcomp.results.charts.theme import Palette, marker
from offcomp.results.pareto import ALONE, TOGETHER, UNIT_TITLES, metric_named
from offcomp.results.runs import title_of_style_key
from offcomp.results.scores import Metric, sentence_start, within_sentence

AXIS_PIXELS = 84  # tick labels and a two-line title
LEGEND_ROW_PIXELS = 22
LEGEND_ENTRY_PIXELS = 104
LEGEND_ABREAST = 3  # legend entries per row on a phone
MARKER_SIZE, STAR_SIZE, KEY_SIZE = 12, 17, 10
PALE = 0.38
MAX_BARS = 40
"""If there are more runs than this, only those on the front have error bars, to avoid overlap."""
MAX_LABELS = 6
RUN = 1
"""Index of the run id in the custom data of a marker."""
FREE_WIDTH, FREE_HEIGHT = 0.4, 0.07
"""Width and height of a point's label, as fractions of the axes."""
REFERENCE_DASHES = ("dash", "longdashdot")
FILLS = {ALONE: "", TOGETHER: "-open"}


def front_figure(table: pd.DataFrame, palette: Palette, references: pd.DataFrame, picked: str = "") -> go.Figure:
    """Plot value against size, with a step line for the front, pale markers off the front, and a star for the original.

    Colour and shape indicate the method, and the fill indicates the grouping. A band shows the 95 % interval of the original.
    References are dashed lines named in the legend. The selected run is circled.
    """
    table, references = literal(table), literal(references)
    metric = metric_named(table["metric"].iloc[0])
    shown, references = _in_axis_units(table, metric), _in_axis_units(references, metric)
    original, runs = shown[shown["style_key"] == "original"].iloc[:1], shown[shown["run"] != ""]
    figure = go.Figure()
    _original_band(figure, original, palette)
    _reference_lines(figure, references, shown, palette)
    _step_line(figure, shown, palette)
    labelled = _labels_fit(shown)
    for (_, _, on_front), part in runs.groupby(["style_key", "grouping", "on_front"], sort=False):
        bars = len(runs) <= MAX_BARS or bool(on_front)
        figure.add_trace(_marks(part, palette, metric, pale=not on_front, bars=bars))
    _ring(figure, runs[runs["run"] == picked], palette)
    if not labelled:
        figure.add_traces(_method_keys(runs, palette))
    _star(figure, original, palette, metric)
    if labelled:
        middle = (shown["size"].min() + shown["size"].max()) / 2
        names = runs["name"].map(shortened)
        figure.add_trace(labels(runs["size"], runs["value"], names, palette, left=runs["size"] > middle, vertical="top"))
    if runs["grouping"].nunique() > 1:
        figure.add_traces([legend_entry("circle" + fill, KEY_SIZE, palette.muted, name) for name, fill in FILLS.items()])
    _value_axis(figure, shown, list(references["value"]), metric)
    figure.update_xaxes(range=_size_range(shown["size"]))
    size_title = f"stored size of the whole model, in {UNIT_TITLES[shown['unit'].iloc[0]]}"
    return _finished(figure, palette, metric, size_title, title="Which run does best for its size?", height=400)


def _in_axis_units(table: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Add the values as `text`, and convert the numbers to percentages if the metric is displayed in percent."""
    columns, factor = table.columns.intersection(["value", "low", "high"]), 100 if metric.percent else 1
    return table.assign(text=table["value"].map(metric.number), **{name: factor * table[name] for name in columns})


def _original_band(figure: go.Figure, original: pd.DataFrame, palette: Palette) -> None:
    """Add a line for the value of the original, with its 95 % interval as a band in the background."""
    colour = palette.series["original"]
    for row in original.to_dict("records"):
        if row["high"] > row["low"]:
            figure.add_hrect(y0=row["low"], y1=row["high"], fillcolor=colour, opacity=0.07, line_width=0, layer="below")
        figure.add_hline(y=row["value"], line={"color": colour, "width": 1, "dash": "dot"}, layer="below")


def _step_line(figure: go.Figure, shown: pd.DataFrame, palette: Palette) -> None:
    """Add a step line for the best value up to each size."""
    front = shown[shown["on_front"]].sort_values("size").drop_duplicates("size")
    if shown["size"].nunique() > 1 and len(front):
        figure.add_scatter(
            x=[*front["size"], shown["size"].max()],
            y=[*front["value"], front["value"].iloc[-1]],
            mode="lines",
            line={"shape": "hv", "color": palette.muted, "width": 2},
            hoverinfo="skip",
            name="best up to this size",
        )


def _marks(part: pd.DataFrame, palette: Palette, metric: Metric, *, pale: bool, bars: bool) -> go.Scatter:
    """Markers for the runs of one method and grouping, with details on hover."""
    style_key, grouping = part.iloc[0][["style_key", "grouping"]]
    colour, opacity = palette.colour(style_key), PALE if pale else 1.0
    bars = bars and bool((part["high"] > part["low"]).any())
    return go.Scatter(
        x=part["size"],
        y=part["value"],
        mode="markers",
        opacity=opacity,
        marker=outlined(marker(style_key, SYMBOLS) + FILLS.get(grouping, ""), MARKER_SIZE, colour),
        error_y=interval_bars(part, "value", colour) if bars else None,
        customdata=[(_details(row, metric), row["run"]) for row in part.to_dict("records")],
        hovertemplate="%{customdata[0]}<extra></extra>",
        unselected={"marker": {"opacity": opacity}},
        showlegend=False,
    )


def _ring(figure: go.Figure, picked: pd.DataFrame, palette: Palette) -> None:
    """Add a ring around the selected run."""
    marker = {"symbol": "circle-open", "size": 2 * MARKER_SIZE, "color": palette.text, "line": {"width": 2}}
    figure.add_scatter(x=picked["size"], y=picked["value"], mode="markers", marker=marker, hoverinfo="skip", showlegend=False)


def _details(row: Mapping[Hashable, Any], metric: Metric) -> str:
    """The hover text of a run."""
    n = f", {row['n']:,} {metric.counts}" if row["n"] else ""
    return (
        f"<b>{shortened(row['name'], 60)}</b>, {row['grouping']}, run {row['run']}<br>"
        f"{metric.word} {row['text']}{n}<br>"
        f"{row['about'].replace(' (', '<br>(')}<br>"
        f"{row['size']:.4g} {UNIT_TITLES[row['unit']]}, compression ratio {row['ratio']:.3g}x<br>"
        f"relative error {row['relative_error']:.3f}"
    )


def _star(figure: go.Figure, original: pd.DataFrame, palette: Palette, metric: Metric) -> None:
    """Add a star for the original on top of all other markers."""
    unit = UNIT_TITLES[original["unit"].iloc[0]]
    hover = f"<b>Original</b>, not compressed<br>{metric.word} {original['text'].iloc[0]}<br>%{{x:.4g}} {unit}<extra></extra>"
    star = original_star(original["size"], original["value"], palette, STAR_SIZE, hover)
    figure.add_trace(star.update(unselected={"marker": {"opacity": 1.0}}))


def _labels_fit(shown: pd.DataFrame) -> bool:
    """Whether every marker can be labelled: there must be only a few, and no label may cover another marker."""
    points = list(zip(shown["size"], shown["value"], strict=True))
    if len(points) > MAX_LABELS:
        return False
    width = (shown["size"].max() - shown["size"].min()) or 1.0
    height = max(shown["high"].max() - shown["low"].min(), 1e-9)
    return all(
        abs(a[0] - b[0]) > FREE_WIDTH * width or abs(a[1] - b[1]) > FREE_HEIGHT * height for a, b in combinations(points, 2)
    )


def _method_keys(runs: pd.DataFrame, palette: Palette) -> list[go.Scatter]:
    """A legend entry for each method, kept short because phones are narrow."""
    titles = {style_key: title_of_style_key(style_key).rpartition(", ")[2] for style_key in runs["style_key"].unique()}
    looks = {style_key: (marker(style_key, SYMBOLS), KEY_SIZE, palette.colour(style_key)) for style_key in titles}
    return [legend_entry(*looks[style_key], sentence_start(title)) for style_key, title in titles.items()]


def _reference_lines(figure: go.Figure, references: pd.DataFrame, shown: pd.DataFrame, palette: Palette) -> None:
    """Add a line for each bit width of plain rounding, named in the legend because labels on lines would cover markers."""
    unit = UNIT_TITLES[shown["unit"].iloc[0]]
    for row, dash in zip(references.to_dict("records"), REFERENCE_DASHES, strict=False):
        size = f"{row['size']:.3g}"
        figure.add_scatter(
            x=_size_range(shown["size"]),
            y=[row["value"], row["value"]],
            mode="lines",
            line={"color": palette.series["reference"], "width": 2, "dash": dash},
            name=f"{row['name']}, {size} {unit.split()[0]}",
            hovertemplate=f"every linear weight rounded to {row['name']}: {size} {unit}<br>bundled measurement<extra></extra>",
        )


def _size_range(sizes: pd.Series) -> list[float]:
    """The range of the size axis."""
    low, high = sizes.min(), sizes.max()
    margin = 0.08 * ((high - low) or 0.1 * high or 1.0)
    return [low - margin, high + margin]


def _value_axis(figure: go.Figure, shown: pd.DataFrame, references: list[float], metric: Metric) -> None:
    """Set up the value axis with space for error bars and labels, on a log scale if perplexities are far apart."""
    values = [value for value in [*shown["low"], *shown["high"], *shown["value"], *references] if isfinite(value)]
    lowest, highest = min(values), max(values)
    log = metric.direction == "lower" and lowest > 0 and highest > LOG_FROM * lowest
    low, high = (log10(lowest), log10(highest)) if log else (lowest, highest)
    span = (high - low) or (10 if metric.percent else 0.1)
    notes = (", in %" if metric.percent else "") + (", log scale" if log else "")
    figure.update_yaxes(
        title=axis_title(sentence_start(f"{metric.word}{_on_task(shown)}") + notes),
        range=[low - 0.1 * span, high + 0.14 * span],
        nticks=8,
        type="log" if log else None,
    )


def _on_task(shown: pd.DataFrame) -> str:
    title = shown["title"].iloc[0]
    return "" if title.lower() == metric_named(shown["metric"].iloc[0]).word else f" on {within_sentence(title)}"


def agreement_figure(table: pd.DataFrame, palette: Palette) -> go.Figure:
    """Plot value against relative error, with one marker per run. If value and error agree, the markers form a line."""
    table = literal(table)
    metric = metric_named(table["metric"].iloc[0])
    shown = _in_axis_units(table, metric)
    figure = go.Figure()
    for _, part in shown.groupby(["style_key", "grouping"], sort=False):
        mark = _marks(part, palette, metric, pale=False, bars=False)
        figure.add_trace(mark.update(x=part["relative_error"]))
    figure.add_traces(_method_keys(shown, palette))
    _value_axis(figure, shown, [], metric)
    error_title = "relative error of the chosen weights"
    return _finished(figure, palette, metric, error_title, title="Do error and score agree?", height=330)


def _finished(figure: go.Figure, palette: Palette, metric: Metric, x_title: str, *, title: str, height: int) -> go.Figure:
    """Apply the common style and put the legend below the axis, where extra rows reserved for phones leave no visible gap."""
    better = "upper" if metric.direction == "higher" else "lower"
    figure.update_xaxes(title=axis_title(f"{x_title}<br>{better} left is better"), nticks=7)
    entries = sum(trace.showlegend is not False for trace in figure.data)
    legend_pixels = LEGEND_ROW_PIXELS * ceil(entries / LEGEND_ABREAST) if entries > 1 else 0
    legend = {"entrywidth": LEGEND_ENTRY_PIXELS, "font": {"size": FONT_SIZE - 2}, "tracegroupgap": 0, "yanchor": "top"}
    return styled(
        figure,
        palette,
        title=title,
        title_top=10,
        height=height + legend_pixels,
        legend=legend | {"y": -AXIS_PIXELS / (height - TITLE_PIXELS - AXIS_PIXELS)},
        margin={"b": AXIS_PIXELS + legend_pixels},
        showlegend=entries > 1,
    )
