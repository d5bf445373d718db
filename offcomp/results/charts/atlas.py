"""Charts of bundled measurements: scores by compression ratio, and sensitivity by matrix. See `results.atlas` for tables."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import isfinite, log10
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from offcomp.models.families import KIND_TITLES
from offcomp.results.atlas import ALONE, STACKED, score_words
from offcomp.results.charts.dots import SYMBOLS, legend_entry, original_star
from offcomp.results.charts.style import FONT_SIZE, TITLE_PIXELS, axis_title, gain_map, literal, outlined, styled, text_trace
from offcomp.results.charts.theme import Palette, marker
from offcomp.results.scores import METRICS, Metric, change_text, sentence_start

TITLES_OF_SIZES = {"chosen": "linear weights", "matrices": "linear and embedding weights", "whole": "whole model"}
GROUPING_STYLES = {ALONE: ("solid", ""), STACKED: ("dash", "-open")}
TICKS = (1, 1.05, 1.1, 1.15, 1.2, 1.25, 1.5, 1.75, 2, 3, 4, 6, 8, 12, 16)
MAX_TICKS = 10
MARKER_SIZE = 9
LEGEND_ENTRY_PIXELS = 96  # two fit in a row on a phone
CELL_PIXELS = 46
WITHOUT_LAYER = "none"


def sweep_figure(table: pd.DataFrame, palette: Palette, denominator: str = "chosen") -> go.Figure:
    """Plot score against compression ratio in bytes, with one line per method and grouping and 95 % intervals on hover.

    The original is shown as a star with a dotted line, and the baseline as a labelled dashed line.
    """
    table = literal(table)
    metric = METRICS[table["metric"].iloc[0]]
    factor = 100 if metric.percent else 1
    figure = go.Figure()
    for (method, _), part in table.groupby(["method", "grouping"], sort=False):
        named = method not in {trace.legendgroup for trace in figure.data}
        figure.add_trace(_line(part.sort_values("byte_ratio"), palette, metric).update(showlegend=named))
    groupings = table["grouping"].unique()
    if len(groupings) > 1:
        figure.add_traces([_legend_of(grouping, palette) for grouping in groupings])
    _references(figure, table, palette, metric)
    _log_ratios(figure, table)
    up = "upper" if metric.direction == "higher" else "lower"
    ratio_title = f"compression ratio in bytes (log scale)<br>of the {TITLES_OF_SIZES[denominator]}<br>{up} right is better"
    figure.update_xaxes(title=axis_title(ratio_title))
    values = [factor * value for value in [*table["score"], table["original"].iloc[0], *table["baseline"].dropna()]]
    margin = 0.06 * (max(values) - min(values))
    figure.update_yaxes(
        title=sentence_start(score_words(table)) + (", in %" if metric.percent else ""),
        range=[min(values) - 2 * margin, max(values) + margin],  # the label of the baseline is below its line
        nticks=8,
    )
    return styled(
        figure,
        palette,
        title="How does the score change with the compression ratio?",
        title_top=10,
        height=560,
        legend={"entrywidth": LEGEND_ENTRY_PIXELS, "font": {"size": FONT_SIZE - 2}, "tracegroupgap": 0},
        showlegend=True,
        margin={"t": TITLE_PIXELS + 100},
    )


def _line(part: pd.DataFrame, palette: Palette, metric: Metric) -> go.Scatter:
    """A line for one method and grouping, with the full setting of each point on hover."""
    method, style_key, grouping = part.iloc[0][["method", "style_key", "grouping"]]
    dash, fill = GROUPING_STYLES[grouping]
    colour, factor = palette.colour(style_key), 100 if metric.percent else 1
    details = [
        f"requested {row['requested_ratio']:g}x in {row['unit']}, achieved {row['byte_ratio']:.3g}x in bytes<br>"
        f"{metric.number(row['score'])}, {_change(row, metric)}<br>"
        f"relative error {row['relative_error']:.3f}, {row['n']:,} {metric.counts}"
        for row in part.to_dict("records")
    ]
    return go.Scatter(
        x=part["byte_ratio"],
        y=factor * part["score"],
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker=outlined(marker(style_key, SYMBOLS) + fill, MARKER_SIZE, colour),
        customdata=details,
        hovertemplate=f"%{{customdata}}<br>bundled measurement<extra>{method}<br>{grouping}</extra>",
        name=method.rpartition(", ")[2].capitalize() if ", " in method else method,  # legends are narrow on phones
        legendgroup=method,
    )


def _change(row: Mapping[Hashable, Any], metric: Metric) -> str:
    """The difference from the original, split over two lines."""
    return change_text(metric, row["difference"], row["low"], row["high"], separator="<br>")


def _legend_of(grouping: str, palette: Palette) -> go.Scatter:
    """A legend entry that shows the line and marker style of a grouping."""
    dash, fill = GROUPING_STYLES[grouping]
    entry = legend_entry("circle" + fill, MARKER_SIZE, palette.muted, grouping)
    return entry.update(mode="lines+markers", line={"color": palette.muted, "width": 2, "dash": dash})


def _references(figure: go.Figure, table: pd.DataFrame, palette: Palette, metric: Metric) -> None:
    """Add the original as a star at 1x with a horizontal line, and the baseline as a labelled line."""
    factor, original, baseline = 100 if metric.percent else 1, table["original"].iloc[0], table["baseline"].iloc[0]
    figure.add_hline(y=factor * original, line={"color": palette.series["original"], "width": 1, "dash": "dot"})
    hover = f"{metric.number(original)}, not compressed<br>bundled measurement<extra>Original</extra>"
    figure.add_trace(original_star([1], [factor * original], palette, 15, hover))
    if isfinite(baseline):
        figure.add_hline(
            y=factor * baseline,
            line={"color": palette.series["reference"], "width": 2, "dash": "dash"},
            annotation_text=f"{table['baseline_name'].iloc[0]}: {metric.number(baseline)}",
            annotation_font_color=palette.muted,
            annotation_position="bottom left",
        )


def _log_ratios(figure: go.Figure, table: pd.DataFrame) -> None:
    """Make the ratio axis logarithmic, include the original in its range, and label its ticks as ratios."""
    lowest, highest = min(1.0, table["byte_ratio"].min()), table["byte_ratio"].max()
    margin = 0.05 * log10(highest / lowest)
    step = log10(highest / lowest) / MAX_TICKS
    ticks: list[float] = []
    for tick in TICKS:
        if lowest <= tick <= highest and (not ticks or log10(tick / ticks[-1]) >= step):
            ticks.append(tick)
    ends = [log10(lowest) - margin, log10(highest) + margin]
    figure.update_xaxes(type="log", range=ends, tickvals=ticks, ticktext=[f"{tick:g}x" for tick in ticks])


def sensitivity_figure(table: pd.DataFrame, palette: Palette) -> go.Figure:
    """Heat map of score changes by layer and kind: red is worse, blue is better. Changes beyond noise are outlined and bold.

    The colour scale covers the changes caused by matrices in layers. Embeddings may exceed it, but including them would make
    all other cells look pale.
    """
    table = literal(table)
    metric = METRICS[table["metric"].iloc[0]]
    layers = [WITHOUT_LAYER if pd.isna(layer) else str(layer) for layer in table["layer"]]
    columns = sorted(set(layers), key=lambda layer: -1 if layer == WITHOUT_LAYER else int(layer))
    kinds = list(dict.fromkeys(table["kind"]))
    cells = table.assign(x=list(map(columns.index, layers)), y=table["kind"].map(kinds.index))
    cells = cells.assign(gain=table["difference"].map(metric.ranked), hover=_cell_details(table, metric))
    in_layers = cells.loc[cells["layer"].notna(), "gain"]
    limit = float((cells["gain"] if in_layers.empty else in_layers).abs().max()) or 1.0
    figure = go.Figure(gain_map(cells, limit, palette, gap=3, showscale=False))
    _numbers(figure, cells, metric, palette)
    unit = "points" if metric.percent else "thousandths" if metric.most == 1 else metric.word
    bare = {"showgrid": False, "zeroline": False}
    figure.update_xaxes(
        title=axis_title(f"layer<br>change in {unit}<br>outlined: beyond noise<br>red: worse"),
        tickvals=list(range(len(columns))),
        ticktext=columns,
        range=[-0.5, len(columns) - 0.5],
        **bare,
    )
    figure.update_yaxes(
        tickvals=list(range(len(kinds))),
        ticktext=[KIND_TITLES.get(kind, kind) for kind in kinds],
        range=[len(kinds) - 0.5, -0.5],
        **bare,
    )
    return styled(figure, palette, title="Which matrix is the most sensitive?", height=168 + CELL_PIXELS * len(kinds))


def _cell_details(table: pd.DataFrame, metric: Metric) -> list[str]:
    """The hover text of each cell."""
    return [
        f"<b>{row['module']}</b>, {row['method']} at {row['requested_ratio']:g}x, error {row['relative_error']:.3f}<br>"
        f"{_change(row, metric)}<br>"
        f"{metric.number(row['score'])} on {row['n']:,} {metric.counts}, bundled measurement"
        for row in table.to_dict("records")
    ]


def _numbers(figure: go.Figure, cells: pd.DataFrame, metric: Metric, palette: Palette) -> None:
    """Write the change into every cell, in bold and with an outline if it is beyond noise."""
    thousandths = metric.most == 1 and not metric.percent  # cells are narrow on phones
    texts = [f"{1000 * value:+.0f}" if thousandths else metric.bare_change(value) for value in cells["difference"]]
    bold = [f"<b>{text}</b>" if beyond_noise else text for text, beyond_noise in zip(texts, cells["told_apart"], strict=True)]
    figure.add_trace(text_trace(cells["x"], cells["y"], bold, palette, FONT_SIZE - 2))
    for x, y in cells.loc[cells["told_apart"].astype(bool), ["x", "y"]].itertuples(index=False):
        ends = {"x0": x - 0.46, "x1": x + 0.46, "y0": y - 0.45, "y1": y + 0.45}
        figure.add_shape(type="rect", **ends, line={"color": palette.text, "width": 2})
