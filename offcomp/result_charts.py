"""Charts of finished runs in two steps: NAME_table(runs) gives a DataFrame, NAME_figure(table, palette) draws it.

All are dots on horizontal lines: names of any length and any number of rows stay legible. A method keeps its colour and shape;
several runs that would look alike differ by fill.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil, inf

import pandas as pd
import plotly.graph_objects as go

from offcomp.answers import smaller
from offcomp.charts import FONT_SIZE, styled
from offcomp.results import Z_95, result_of, role_of, short_names
from offcomp.runs import Run
from offcomp.theme import LIGHT, MARKERS, Palette

FILLS = ("", "-open", "-open-dot")
MORE_FILLS = (*FILLS, "-x-open", "-cross-open")  # that these shapes have as well
FULL_SHAPES = ("circle", "diamond", "square")
SYMBOLS = MARKERS | {"reference": "cross", "quantization": "x"}  # a line has no place among dots
MARKER_SIZE = 11
LABELLED_POINTS = 8  # more would touch each other
CROWDED = 0.75  # share of the axis from which labels stand on the left of their marks
ROW_PIXELS = 44
DENSE_ROW_PIXELS = 24
DENSE_FROM_ROWS = 8
FRAME_PIXELS = 130
TITLE_PIXELS = 46
LEGEND_ROW_PIXELS = 22
LEGEND_PIXELS = 330  # the width that a legend has on a phone
LONGEST_ROW_NAME = 26
LEVELS = ("group", "module")
UNITS = ("parameters", "bytes")
DENOMINATORS = {"chosen": "chosen modules", "matrices": "all linear and embedding weights", "whole": "whole model"}
SHORT_DENOMINATORS = {"chosen modules": "chosen", "all linear and embedding weights": "all weights", "whole model": "model"}


def _series(runs: Sequence[Run]) -> dict[str, tuple[str, str, str]]:
    """Run -> (name, role, marker symbol)."""
    names, seen = short_names(runs), Counter[tuple[str, str]]()
    series = {}
    for run in runs:
        role = role_of(run)
        fills = MORE_FILLS if SYMBOLS[role] in FULL_SHAPES else FILLS
        look = LIGHT.roles[role], SYMBOLS[role]
        series[run.id] = (names[run.id], role, SYMBOLS[role] + fills[seen[look] % len(fills)])
        seen[look] += 1
    return series


ERROR_COLUMNS = ("run", "name", "role", "symbol", "row", "relative_error", "cosine_distance", "about")


def error_table(runs: Sequence[Run], level: str = "group") -> pd.DataFrame:
    """One row a run and group (or module): its errors. `about` tells in words what the row is."""
    rows = []
    for run, series in zip(runs, _series(runs).values(), strict=True):
        for group in result_of(run)["groups"]:
            entries = group["module_errors"] if level == "module" else {group["name"]: group}
            stored = f"{group['num_parameters']:,} parameters, {smaller(group['parameter_ratio'])}"
            count = len(group["modules"])
            about = f"in group {group['name']}" if level == "module" else f"{count} module{'s' * (count > 1)}, {stored}"
            rows += [
                (run.id, *series, name, errors["relative_error"], errors["cosine_distance"], about)
                for name, errors in entries.items()
            ]
    return pd.DataFrame(rows, columns=list(ERROR_COLUMNS))


def error_figure(table: pd.DataFrame, palette: Palette, level: str = "group") -> go.Figure:
    """Relative error by group or module, one dot a run."""
    hover = "%{customdata[0]}<br>relative error %{x:.3f}, cosine distance %{customdata[1]:.3f}<br>%{customdata[2]}"
    details = table[["row", "cosine_distance", "about"]]
    top = max(1.0, float(table["relative_error"].max()) * 1.12)
    figure = _dots(table, palette, "relative_error", number="{:.3f}", details=details, hover=hover, crowded=CROWDED * top)
    figure.update_xaxes(title="relative error (left is better)", range=[0, top])
    return _in_rows(figure, table, palette, title=f"Which {level}s lose more?")


ACCURACY_COLUMNS = ("run", "name", "role", "symbol", "task", "row", "accuracy", "low", "high", "n", "baseline", "about")


def accuracy_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a task and run, and one a task and original model: accuracy with its 95 % interval, and the majority baseline."""
    rows: dict[tuple[str, ...], tuple[object, ...]] = {}
    many_models = len({run.plan.model for run in runs}) > 1
    for run, (name, role, symbol) in zip(runs, _series(runs).values(), strict=True):
        original = f"Original, {run.plan.model}" if many_models else "Original"
        for task, score in result_of(run)["scores"].items():
            about = f"agrees with the original on {score['paired']['agreement']:.1%}"
            for key, series, which, words in (
                ((task, original), (original, "original", MARKERS["original"]), "original", "not compressed"),
                ((task, run.id), (name, role, symbol), "compressed", about),
            ):
                value, n = score[which]["value"], score[which]["n"]
                margin = Z_95 * score[which]["standard_error"]
                ends = max(0.0, value - margin), min(1.0, value + margin)
                owner = run.id if which == "compressed" else ""
                row = (owner, *series, task, series[0], value, *ends, n, score["majority_baseline"], words)
                rows.setdefault(key, row)
    return pd.DataFrame(list(rows.values()), columns=list(ACCURACY_COLUMNS))


def accuracy_figure(table: pd.DataFrame, palette: Palette) -> go.Figure:
    """Accuracy of one task with 95 % intervals; the original is the star, the majority baseline a dashed line."""
    shown = table.assign(**{name: 100 * table[name] for name in ("accuracy", "low", "high", "baseline")})
    hover = (
        "%{x:.1f} %, 95 % interval %{customdata[0]:.1f} to %{customdata[1]:.1f}<br>%{customdata[2]} sentences, %{customdata[3]}"
    )
    details = shown[["low", "high", "n", "about"]]
    figure = _dots(shown, palette, "accuracy", number="{:.1f} %", details=details, hover=hover, intervals=True)
    baseline = float(shown["baseline"].min())
    left = max(0.0, min(baseline, float(shown["low"].min())) - 3)
    highest = float(shown["high"].max())
    right = highest + 0.25 * (highest - left)  # room for the numbers
    figure.add_vline(
        x=baseline,
        line={"color": palette.roles["reference"], "width": 2, "dash": "dash"},
        annotation={"text": f"always the same answer: {baseline:.1f} %", "font": {"color": palette.muted}},
        annotation_position="bottom right",
    )
    for original in shown.loc[shown["role"] == "original", "accuracy"]:
        figure.add_vline(x=original, line={"color": palette.roles["original"], "width": 1, "dash": "dot"})
    zoomed = f"<br>the axis starts at {left:.0f} %" if left > 0 else ""
    ticks = [tick for tick in range(0, 101, 10) if left <= tick <= right]
    figure.update_xaxes(
        title=f"accuracy in %, with 95 % interval<br>right is better{zoomed}", range=[left, right], tickvals=ticks
    )
    return _in_rows(
        figure, shown, palette, title=f"What is left of the {shown['task'].iloc[0]} accuracy?", legend=False, below=0.4
    )


SIZE_COLUMNS = ("run", "name", "role", "symbol", "row", "unit", "before", "after", "ratio", "share")


def size_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run, unit and denominator: the size before and after, its ratio, and the share that is left."""
    rows = []
    for run, series in zip(runs, _series(runs).values(), strict=True):
        for denominator, title in DENOMINATORS.items():
            sizes = result_of(run)["model"]["sizes"][denominator]
            for unit in UNITS:
                before, after = sizes[f"{unit}_before"], sizes[f"{unit}_after"]
                ratio = sizes[f"{unit.removesuffix('s')}_ratio"]
                rows.append((run.id, *series, title, unit, before, after, ratio, after / before if before else 1.0))
    return pd.DataFrame(rows, columns=list(SIZE_COLUMNS))


def size_figure(table: pd.DataFrame, palette: Palette, unit: str) -> go.Figure:
    """The share of the original that is left, for the three denominators."""
    shown = table[table["unit"] == unit]
    shown = shown.assign(share=100 * shown["share"], full=shown["row"], row=shown["row"].map(SHORT_DENOMINATORS))
    hover = "%{customdata[0]}<br>%{customdata[1]:,} to %{customdata[2]:,} " + unit + ", %{customdata[3]:.3g}x smaller"
    details = shown[["full", "before", "after", "ratio"]]
    right = max(112.0, float(shown["share"].max()) * 1.12)
    figure = _dots(shown, palette, "share", number="{:.3g} %", details=details, hover=hover, crowded=CROWDED * right)
    figure.add_vline(x=100, line={"color": palette.roles["original"], "width": 1, "dash": "dot"})
    figure.update_xaxes(title=f"{unit} left, in % of the original<br>left is smaller", range=[0, right])
    return _in_rows(figure, shown, palette, title="How much is left to store?")


def _dots(
    table: pd.DataFrame,
    palette: Palette,
    x: str,
    *,
    number: str,
    details: pd.DataFrame,
    hover: str,
    crowded: float = inf,
    intervals: bool = False,
) -> go.Figure:
    """One trace a series; series that share rows are set apart a little, and few points carry their number."""
    rows = {row: index for index, row in enumerate(dict.fromkeys(table["row"]))}
    series = list(dict.fromkeys(zip(table["name"], table["role"], table["symbol"], strict=True)))
    shared = len(table) > len(rows) and len(series) > 1
    figure = go.Figure()
    for index, (name, role, symbol) in enumerate(series):
        part = table[table["name"] == name]
        apart = 0.5 * (index / (len(series) - 1) - 0.5) if shared else 0.0
        heights = [rows[row] + apart for row in part["row"]]
        colour, size = palette.roles[role], MARKER_SIZE + 4 * (role == "original")
        errors = {"array": part["high"] - part[x], "arrayminus": part[x] - part["low"]} if intervals else None
        figure.add_scatter(
            x=part[x],
            y=heights,
            mode="markers",
            marker={"symbol": symbol, "size": size, "color": colour, "line": {"width": 2, "color": colour}},
            error_x=errors and errors | {"color": colour, "thickness": 2, "width": 6},
            customdata=details.loc[part.index],
            hovertemplate=hover + f"<extra>{name}</extra>",
            name=name,
        )
        if len(table) <= LABELLED_POINTS:
            ends, texts = part["high" if intervals else x], [number.format(value) for value in part[x]]
            _label(figure, palette, ends, heights, texts, crowded=crowded)
    return figure


def _label(
    figure: go.Figure, palette: Palette, ends: pd.Series, heights: list[float], texts: list[str], *, crowded: float
) -> None:
    """Numbers right of where the marks end; left of them beyond `crowded`, near the right border."""
    left = ends > crowded
    figure.add_scatter(
        x=ends,
        y=heights,
        mode="text",
        text=[f"{text}   " if turned else f"   {text}" for text, turned in zip(texts, left, strict=True)],
        textposition=["middle left" if turned else "middle right" for turned in left],
        textfont={"size": FONT_SIZE - 1, "color": palette.text},
        hoverinfo="skip",
        showlegend=False,
    )


def _in_rows(
    figure: go.Figure, table: pd.DataFrame, palette: Palette, *, title: str, legend: bool = True, below: float = 0.0
) -> go.Figure:
    """The common look with a named line for every row, and a height that fits them."""
    rows = list(dict.fromkeys(table["row"]))
    pixels = DENSE_ROW_PIXELS if len(rows) > DENSE_FROM_ROWS else ROW_PIXELS
    names = [f"{name:8}" for name in dict.fromkeys(table["name"])] if legend else []
    widest = max((45 + 8 * len(name) for name in names), default=1)  # plotly gives every entry the width of the widest
    legend_rows = ceil(len(names) / max(1, LEGEND_PIXELS // widest))
    top = TITLE_PIXELS + LEGEND_ROW_PIXELS * legend_rows
    height = max(300, FRAME_PIXELS + LEGEND_ROW_PIXELS * legend_rows + pixels * len(rows))
    figure = styled(figure, palette, title=title, height=height)
    figure.update_layout(showlegend=legend, margin_t=top)
    figure.update_layout(title={"yref": "container", "y": 1 - 10 / height, "yanchor": "top"})
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[shortened(row) for row in rows],
        range=[len(rows) - 0.4 + below, -0.6],
        zeroline=False,
    )
    return figure


def shortened(name: str, longest: int = LONGEST_ROW_NAME) -> str:
    """A long name with its middle left out, so that both its ends still tell it apart."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"
