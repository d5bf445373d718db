"""Charts of the effect of compressing modules together: a heat map of pairs, and the merge tree. Tables: `results.groups`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from offcomp.planning.merge_survey import Merge, Survey
from offcomp.results.charts.style import FONT_SIZE, literal_text, styled
from offcomp.results.charts.theme import Palette
from offcomp.results.groups import ROOM, THOUSAND, kinds_words, module_words, spread_of, stem_and_layer, stem_title, tree_table

MOST_NUMBERS = 12
"""Largest number of modules for which every cell shows its number."""
MOST_LARGE_NUMBERS = 8  # on a phone
CELL_PIXELS, LEAF_PIXELS = 44, 26
HEAT_PIXELS = (330, 560)
TREE_PIXELS = (300, 900)
FRAME_PIXELS = 130
TOP_PIXELS = 62


def pair_figure(table: pd.DataFrame, palette: Palette) -> go.Figure:
    """Gain of every pair, module by module: blue helps, red hurts; empty if the two cannot be stacked."""
    names = list(dict.fromkeys([*table["first"], *table["second"]]))
    place = {name: index for index, name in enumerate(names)}
    grid: list[list[float | None]] = [[None] * len(names) for _ in names]
    texts = [[""] * len(names) for _ in names]
    for row in table.to_dict("records"):
        for y, x in ((place[row["first"]], place[row["second"]]), (place[row["second"]], place[row["first"]])):
            grid[y][x] = None if pd.isna(row["gain"]) else THOUSAND * row["gain"]
            texts[y][x] = _pair_hover(row)
    limit = THOUSAND * float(table["gain"].abs().max()) or 1.0
    few = len(names) <= MOST_NUMBERS
    bar = {"orientation": "h", "thickness": 8, "x": 0.5, "y": 1.0, "yanchor": "bottom", "ticks": "", "nticks": 5}
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            zmin=-limit,
            zmax=limit,
            colorscale=_scale(palette),
            colorbar=bar | {"tickfont": {"size": FONT_SIZE - 3, "color": palette.muted}, "outlinewidth": 0},
            showscale=not few,
            xgap=2 if few else 0,
            ygap=2 if few else 0,
            customdata=texts,
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
        )
    )
    if few:
        _numbers(figure, grid, palette)
    side = max(HEAT_PIXELS[0], min(HEAT_PIXELS[1], FRAME_PIXELS + CELL_PIXELS * len(names)))
    figure = styled(figure, palette, title="Which pairs gain from being stacked?", height=side)
    _module_axes(figure, names, palette)
    under = _axis_words(names)
    about = f"gain in thousandths {'' if under else '<br>'}of relative error<br>blue: together is better, red: worse"
    figure.update_xaxes(title={"text": f"{under}<br>{about}" if under else about, "font": {"size": FONT_SIZE - 1}})
    figure.update_yaxes(title={"text": under, "font": {"size": FONT_SIZE - 1}})
    return figure.update_layout(margin_t=TOP_PIXELS if few else TOP_PIXELS + 24)


def _scale(palette: Palette) -> list[list[object]]:
    return [[step / 2, colour] for step, colour in enumerate(palette.diverging)]


def _pair_hover(row: Mapping[Any, Any]) -> str:
    pair = f"<b>{literal_text(module_words((row['first'], row['second'])))}</b>"
    if pd.isna(row["gain"]):
        return f"{pair}<br>do not fit into one matrix"
    return (
        f"{pair}<br>stacked by {row['stack']}, {THOUSAND * row['gain']:+.1f} thousandths<br>"
        f"{row['separate_error']:.3f} separate, {row['joint_error']:.3f} together<br>"
        f"at the same {row['stored_parameters']:,} parameters"
    )


def _numbers(figure: go.Figure, grid: Sequence[Sequence[float | None]], palette: Palette) -> None:
    cells = [(x, y, value) for y, row in enumerate(grid) for x, value in enumerate(row) if value is not None]
    figure.add_scatter(
        x=[x for x, _, _ in cells],
        y=[y for _, y, _ in cells],
        mode="text",
        text=[f"{value:+.0f}" if round(value) else "0" for _, _, value in cells],
        textfont={"size": FONT_SIZE - 2 if len(grid) <= MOST_LARGE_NUMBERS else FONT_SIZE - 4, "color": palette.text},
        hoverinfo="skip",
        showlegend=False,
    )


def _axis_words(names: Sequence[str]) -> str:
    """Axis title: names the kind if there is only one, since the ticks then show just the layer."""
    stems = {stem_and_layer(name)[0] for name in names}
    return f"{literal_text(kinds_words(names))}, layer" if len(stems) == 1 else ""


def _runs(names: Sequence[str]) -> list[tuple[str, int, int]]:
    """(kind, first index, number of modules) of each run of modules of one kind."""
    runs, start = [], 0
    for stem, run in groupby(stem_and_layer(name)[0] for name in names):
        length = len(list(run))
        runs.append((literal_text(stem_title(stem)), start, length))
        start += length
    return runs


def _layer_ticks(names: Sequence[str]) -> list[str]:
    """The layer of every module, as space permits; with several kinds, also the name of each kind under its middle."""
    step = 1 if len(names) <= 2 * MOST_NUMBERS else 4
    layers = [stem_and_layer(name)[1] for name in names]
    runs = _runs(names)
    if len(runs) == 1:
        return [str(layer) if place % step == 0 else "" for place, layer in enumerate(layers)]
    few = len(names) <= MOST_NUMBERS
    texts = ["" if layer is None or not few else str(layer) for layer in layers]
    for title, start, length in runs:
        texts[start + (length - 1) // 2] += f"<br>{title}" if few else title
    return texts


def _module_axes(figure: go.Figure, names: Sequence[str], palette: Palette) -> None:
    across = _layer_ticks(names)
    several = len(_runs(names)) > 1
    down = [literal_text(module_words([name])) for name in names] if several and len(names) <= MOST_NUMBERS else across
    ends = (-0.5, len(names) - 0.5)
    for update, texts, limits in ((figure.update_xaxes, across, ends), (figure.update_yaxes, down, ends[::-1])):
        shown = [(place, text) for place, text in enumerate(texts) if text]
        update(tickvals=[place for place, _ in shown], ticktext=[text for _, text in shown], range=limits)
        update(showgrid=False, zeroline=False, ticks="")
    figure.update_xaxes(tickangle=-90 if several and len(names) > MOST_NUMBERS else 0)
    for _, start, _ in _runs(names)[1:]:
        line = {"color": palette.text, "width": 1}
        figure.add_vline(x=start - 0.5, line=line)
        figure.add_hline(y=start - 0.5, line=line)


def tree_figure(survey: Survey, stack: str, kept: int, palette: Palette) -> go.Figure:
    """The merges as a tree from left to right, with the cut after the first `kept`."""
    merges, nodes, count = survey.merges[stack], tree_table(survey, stack), len(survey.modules)
    x, y = list(nodes["x"]), list(nodes["y"])
    figure = go.Figure()
    for index, step in reversed(list(enumerate(merges))):
        (one, other), end = step.parts, x[count + index]
        inside = index < kept
        line = {
            "color": palette.text if inside else palette.muted,
            "width": 2 if inside else 1,
            "dash": "solid" if inside else "dot",
        }
        figure.add_scatter(
            x=[x[one], end, end, x[other]],
            y=[y[one], y[one], y[other], y[other]],
            mode="lines",
            line=line,
            hoverinfo="skip",
        )
    figure.add_trace(_merge_marks(survey, merges, x[count:], y[count:], palette))
    figure.add_vline(x=0, line={"color": palette.muted, "width": 1})
    cut = _cut_place(x[:1] + x[count:], kept, spread_of(x[count:]))
    figure.add_vline(x=cut, line={"color": palette.series["svd"], "width": 2, "dash": "dash"})
    figure.add_annotation(
        x=cut, yref="paper", y=1.0, yanchor="bottom", text="cut", showarrow=False, font={"color": palette.series["svd"]}
    )
    height = max(TREE_PIXELS[0], min(TREE_PIXELS[1], FRAME_PIXELS + LEAF_PIXELS * count))
    figure = styled(figure, palette, title="Which merges pay off?", height=height)
    _tree_axes(figure, nodes[:count], x, palette)
    return figure


def _cut_place(heights: Sequence[float], kept: int, spread: float) -> float:
    """The x position between the last kept merge and the next."""
    if kept + 1 < len(heights):
        return (heights[kept] + heights[kept + 1]) / 2
    return heights[kept] - ROOM * spread


def _merge_marks(
    survey: Survey, merges: Sequence[Merge], x: Sequence[float], y: Sequence[float], palette: Palette
) -> go.Scatter:
    """One marker per merge, coloured by its gain, with all details in the hover text."""
    gains = [THOUSAND * step.gain for step in merges]
    limit = max(map(abs, gains)) or 1.0
    details = [
        f"<b>Merge {number}: {len(step.joint.modules)} modules</b>, by {step.joint.stack}<br>"
        f"this merge {gain:+.1f} thousandths<br>"
        f"group: {step.joint.separate_error:.3f} separate, {step.joint.joint_error:.3f} together<br>"
        f"all {len(survey.modules)} modules after it: {step.error:.3f}"
        for number, (step, gain) in enumerate(zip(merges, gains, strict=True), 1)
    ]
    return go.Scatter(
        x=x,
        y=y,
        mode="markers+text" if len(merges) < MOST_NUMBERS else "markers",
        marker={
            "size": 11,
            "color": gains,
            "cmin": -limit,
            "cmax": limit,
            "colorscale": _scale(palette),
            "line": {"width": 1, "color": palette.text},
        },
        text=[f"{gain:+.0f}" if round(gain) else "0" for gain in gains],
        textposition="middle left",
        textfont={"size": FONT_SIZE - 2, "color": palette.text},
        customdata=details,
        hovertemplate="%{customdata}<extra></extra>",
        cliponaxis=False,
    )


def _tree_axes(figure: go.Figure, leaves: pd.DataFrame, x: Sequence[float], palette: Palette) -> None:
    names = list(leaves["module"])
    under = _axis_words(names)
    labels = [str(stem_and_layer(name)[1]) if under else literal_text(module_words([name])) for name in names]
    size = FONT_SIZE if len(names) <= 2 * MOST_NUMBERS else FONT_SIZE - 4
    room = ROOM * (max(x) - min(x))
    figure.update_xaxes(
        title={
            "text": "gain of the merge,<br>thousandths of relative error<br>left of the line helps, right hurts",
            "font": {"size": FONT_SIZE - 1},
        },
        range=[max(x), min(x) - 2 * room],
        zeroline=False,
        nticks=7,
    )
    figure.update_yaxes(
        title={"text": under, "font": {"size": FONT_SIZE - 1}},
        tickvals=list(leaves["y"]),
        ticktext=labels,
        tickfont={"size": size, "color": palette.muted},
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(showlegend=False, margin_t=TOP_PIXELS)
