"""Charts of the gain from compressing modules together: a heat map of pairs, and the merge tree. See `results.groups`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from offcomp.planning.merge_survey import Merge, Survey
from offcomp.results.charts.style import FONT_SIZE, axis_title, colour_scale, gain_map, literal_text, styled, text_trace
from offcomp.results.charts.theme import Palette
from offcomp.results.groups import MARGIN, kinds_words, module_words, spread_of, stem_and_layer, stem_title, tree_table

MAX_NUMBERS = 12
"""Maximum number of modules for which the cells show numbers."""
MAX_LARGE_NUMBERS = 8  # more would need a smaller font to fit on a phone
CELL_PIXELS, LEAF_PIXELS = 44, 26
HEAT_PIXELS = (330, 560)
TREE_PIXELS = (300, 900)
FRAME_PIXELS = 130
TOP_PIXELS = 62


def pair_figure(table: pd.DataFrame, palette: Palette) -> go.Figure:
    """Heat map of the gain of every pair of modules: blue helps, red hurts. Pairs that cannot be stacked are left blank."""
    names = list(dict.fromkeys([*table["first"], *table["second"]]))
    indices = {name: index for index, name in enumerate(names)}
    pairs = table.assign(gain=1000 * table["gain"], hover=[_pair_hover(row) for row in table.to_dict("records")])
    cells = pd.concat([pairs, pairs.rename(columns={"first": "second", "second": "first"})])
    cells = cells.assign(x=cells["second"].map(indices), y=cells["first"].map(indices))
    limit = float(cells["gain"].abs().max()) or 1.0
    few = len(names) <= MAX_NUMBERS
    bar: dict[str, Any] = {
        "orientation": "h",
        "thickness": 8,
        "x": 0.5,
        "y": 1.0,
        "yanchor": "bottom",
        "ticks": "",
        "nticks": 5,
    }
    bar |= {"tickfont": {"size": FONT_SIZE - 3, "color": palette.muted}, "outlinewidth": 0}
    gap = 2 if few else 0
    figure = go.Figure(gain_map(cells, limit, palette, gap=gap, colorbar=bar, showscale=not few, hoverongaps=False))
    if few:
        known = cells.dropna(subset="gain")
        size = FONT_SIZE - 2 if len(names) <= MAX_LARGE_NUMBERS else FONT_SIZE - 4
        figure.add_trace(text_trace(known["x"], known["y"], list(map(_signed, known["gain"])), palette, size))
    _module_axes(figure, names, palette)
    kind = _axis_words(names)
    legend = f"gain in thousandths {'' if kind else '<br>'}of relative error<br>blue: together is better, red: worse"
    figure.update_xaxes(title=axis_title(f"{kind}<br>{legend}" if kind else legend, FONT_SIZE - 1))
    figure.update_yaxes(title=axis_title(kind, FONT_SIZE - 1))
    return styled(
        figure,
        palette,
        title="Which pairs benefit from stacking?",
        height=_clipped(FRAME_PIXELS + CELL_PIXELS * len(names), HEAT_PIXELS),
        margin={"t": TOP_PIXELS if few else TOP_PIXELS + 24},
    )


def _clipped(pixels: int, limits: tuple[int, int]) -> int:
    return max(limits[0], min(limits[1], pixels))


def _pair_hover(row: Mapping[Hashable, Any]) -> str:
    pair = f"<b>{literal_text(module_words((row['first'], row['second'])))}</b>"
    if pd.isna(row["gain"]):
        return f"{pair}<br>cannot be stacked into one matrix"
    return (
        f"{pair}<br>stacked by {row['stack']}, gain {1000 * row['gain']:+.1f} thousandths<br>"
        f"relative error {row['separate_error']:.3f} separately, {row['joint_error']:.3f} together<br>"
        f"both with {row['stored_parameters']:,} parameters"
    )


def _signed(gain: float) -> str:
    """A gain without decimals: "+3", "-1", "0"."""
    return f"{gain:+.0f}" if round(gain) else "0"


def _axis_words(names: Sequence[str]) -> str:
    """Axis title: the kind if all modules share one, since the ticks then only show the layer; otherwise empty."""
    stems = {stem_and_layer(name)[0] for name in names}
    return f"{literal_text(kinds_words(names))}, layer" if len(stems) == 1 else ""


def _kind_spans(names: Sequence[str]) -> list[tuple[str, int, int]]:
    """(kind, first index, length) of each block of consecutive modules of the same kind."""
    spans, start = [], 0
    for stem, group in groupby(stem_and_layer(name)[0] for name in names):
        length = len(list(group))
        spans.append((literal_text(stem_title(stem)), start, length))
        start += length
    return spans


def _layer_ticks(names: Sequence[str]) -> list[str]:
    """Tick labels: the layer of each module, as space permits. If there are several kinds, each is named below its layers."""
    step = 1 if len(names) <= 2 * MAX_NUMBERS else 4
    layers = [stem_and_layer(name)[1] for name in names]
    spans = _kind_spans(names)
    if len(spans) == 1:
        return [str(layer) if index % step == 0 else "" for index, layer in enumerate(layers)]
    few = len(names) <= MAX_NUMBERS
    texts = ["" if layer is None or not few else str(layer) for layer in layers]
    for title, start, length in spans:
        texts[start + (length - 1) // 2] += f"<br>{title}" if few else title
    return texts


def _module_axes(figure: go.Figure, names: Sequence[str], palette: Palette) -> None:
    across = _layer_ticks(names)
    spans = _kind_spans(names)
    several = len(spans) > 1
    down = [literal_text(module_words([name])) for name in names] if several and len(names) <= MAX_NUMBERS else across
    ends = (-0.5, len(names) - 0.5)
    for update, texts, limits in ((figure.update_xaxes, across, ends), (figure.update_yaxes, down, ends[::-1])):
        shown = {index: text for index, text in enumerate(texts) if text}
        update(tickvals=list(shown), ticktext=list(shown.values()), range=limits, showgrid=False, zeroline=False, ticks="")
    figure.update_xaxes(tickangle=-90 if several and len(names) > MAX_NUMBERS else 0)
    line = {"color": palette.text, "width": 1}
    for _, start, _ in spans[1:]:
        figure.add_vline(x=start - 0.5, line=line)
        figure.add_hline(y=start - 0.5, line=line)


def tree_figure(survey: Survey, stack: str, kept: int, palette: Palette) -> go.Figure:
    """Draw the merges as a tree from left to right, with a cut after the first `kept` merges."""
    merges, nodes, count = survey.merges[stack], tree_table(survey, stack), len(survey.modules)
    x, y = list(nodes["x"]), list(nodes["y"])
    figure = go.Figure()
    kept_line = {"color": palette.text, "width": 2, "dash": "solid"}
    undone_line = {"color": palette.muted, "width": 1, "dash": "dot"}
    for index, step in reversed(list(enumerate(merges))):
        (first, second), end = step.parts, x[count + index]
        figure.add_scatter(
            x=[x[first], end, end, x[second]],
            y=[y[first], y[first], y[second], y[second]],
            mode="lines",
            line=kept_line if index < kept else undone_line,
            hoverinfo="skip",
        )
    figure.add_trace(_merge_marks(survey, merges, x[count:], y[count:], palette))
    figure.add_vline(x=0, line={"color": palette.muted, "width": 1})
    cut, colour = _cut_position(x[:1] + x[count:], kept, spread_of(x[count:])), palette.series["svd"]
    line = {"color": colour, "width": 2, "dash": "dash"}
    figure.add_vline(x=cut, line=line, annotation_text="cut", annotation_position="top", annotation_font_color=colour)
    _tree_axes(figure, nodes[:count], x, palette)
    height = _clipped(FRAME_PIXELS + LEAF_PIXELS * count, TREE_PIXELS)
    return styled(figure, palette, title="Which merges pay off?", height=height, margin={"t": TOP_PIXELS})


def _cut_position(heights: Sequence[float], kept: int, spread: float) -> float:
    """The x position halfway between the last kept merge and the next one."""
    if kept + 1 < len(heights):
        return (heights[kept] + heights[kept + 1]) / 2
    return heights[kept] - MARGIN * spread


def _merge_marks(
    survey: Survey, merges: Sequence[Merge], x: Sequence[float], y: Sequence[float], palette: Palette
) -> go.Scatter:
    """One marker per merge, coloured by its gain, with all details in the hover text."""
    gains = [1000 * step.gain for step in merges]
    limit = max(map(abs, gains)) or 1.0
    details = [
        f"<b>Merge {number}: {len(step.joint.modules)} modules</b>, by {step.joint.stack}<br>"
        f"this merge {gain:+.1f} thousandths<br>"
        f"group: {step.joint.separate_error:.3f} separately, {step.joint.joint_error:.3f} together<br>"
        f"all {len(survey.modules)} modules after it: {step.error:.3f}"
        for number, (step, gain) in enumerate(zip(merges, gains, strict=True), 1)
    ]
    return go.Scatter(
        x=x,
        y=y,
        mode="markers+text" if len(merges) < MAX_NUMBERS else "markers",
        marker={
            "size": 11,
            "color": gains,
            "cmin": -limit,
            "cmax": limit,
            "colorscale": colour_scale(palette.diverging),
            "line": {"width": 1, "color": palette.text},
        },
        text=list(map(_signed, gains)),
        textposition="middle left",
        textfont={"size": FONT_SIZE - 2, "color": palette.text},
        customdata=details,
        hovertemplate="%{customdata}<extra></extra>",
        cliponaxis=False,
    )


def _tree_axes(figure: go.Figure, leaves: pd.DataFrame, x: Sequence[float], palette: Palette) -> None:
    names = list(leaves["module"])
    kind = _axis_words(names)
    labels = [str(stem_and_layer(name)[1]) if kind else literal_text(module_words([name])) for name in names]
    size = FONT_SIZE if len(names) <= 2 * MAX_NUMBERS else FONT_SIZE - 4
    gain_title = "gain from merging, in<br>thousandths of relative error<br>(left of the line: it helps)"
    figure.update_xaxes(
        title=axis_title(gain_title, FONT_SIZE - 1),
        range=[max(x), min(x) - 2 * MARGIN * (max(x) - min(x))],
        zeroline=False,
        nticks=7,
    )
    figure.update_yaxes(
        title=axis_title(kind, FONT_SIZE - 1),
        tickvals=list(leaves["y"]),
        ticktext=labels,
        tickfont={"size": size, "color": palette.muted},
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
