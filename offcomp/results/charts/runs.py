"""Charts of finished runs: NAME_table(runs) returns a DataFrame, and NAME_figure(table, palette) plots it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from offcomp.results.charts.dots import CROWDED, dots, in_rows, series_of
from offcomp.results.charts.style import literal
from offcomp.results.charts.theme import Palette
from offcomp.results.runs import DENOMINATORS, model_of, result_of
from offcomp.results.sentences import smaller
from offcomp.runs.result import Errors, GroupResult
from offcomp.runs.store import Run

LEVELS = ("group", "module")
UNITS = ("parameters", "bytes")
SHORT_DENOMINATORS = {"chosen modules": "chosen", "all linear and embedding weights": "all weights", "whole model": "model"}

ERROR_COLUMNS = ("run", "name", "style_key", "symbol", "row", "relative_error", "cosine_distance", "about")


def error_table(runs: Sequence[Run], level: str = "group") -> pd.DataFrame:
    """One row per run and group (or module), with its errors. `about` briefly describes the row."""
    rows = []
    for run, series in zip(runs, series_of(runs).values(), strict=True):
        for group in result_of(run).groups:
            entries: Mapping[str, Errors | GroupResult]
            entries = group.module_errors if level == "module" else {group.name: group}
            stored = f"{group.num_parameters:,} parameters, {smaller(group.parameter_ratio)}"
            count = len(group.modules)
            description = f"in group {group.name}" if level == "module" else f"{count} module{'s' * (count > 1)}, {stored}"
            rows += [
                (run.id, *series, name, errors.relative_error, errors.cosine_distance, description)
                for name, errors in entries.items()
            ]
    return pd.DataFrame(rows, columns=list(ERROR_COLUMNS))


def error_figure(table: pd.DataFrame, palette: Palette, level: str = "group") -> go.Figure:
    """Plot relative error by group or module, with one dot per run."""
    table = literal(table)
    hover = "%{customdata[0]}<br>relative error %{x:.3f}, cosine distance %{customdata[1]:.3f}<br>%{customdata[2]}"
    details = table[["row", "cosine_distance", "about"]]
    top = max(1.0, float(table["relative_error"].max()) * 1.12)
    figure = dots(table, palette, "relative_error", number="{:.3f}".format, details=details, hover=hover, crowded=CROWDED * top)
    figure.update_xaxes(title="relative error (left is better)", range=[0, top])
    return in_rows(figure, table, palette, title=f"Which {level}s lose more?")


SIZE_COLUMNS = ("run", "name", "style_key", "symbol", "row", "unit", "before", "after", "ratio", "share")


def size_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run, unit and denominator: the size before and after compression, the ratio, and the remaining share."""
    rows = []
    for run, series in zip(runs, series_of(runs).values(), strict=True):
        for denominator, title in DENOMINATORS.items():
            sizes = model_of(run).sizes.of(denominator)
            for unit in UNITS:
                before, after = sizes.before(unit), sizes.after(unit)
                rows.append((run.id, *series, title, unit, before, after, sizes.ratio(unit), after / before if before else 1.0))
    return pd.DataFrame(rows, columns=list(SIZE_COLUMNS))


def size_figure(table: pd.DataFrame, palette: Palette, unit: str) -> go.Figure:
    """Plot the remaining share of the original size for each of the three denominators."""
    shown = literal(table[table["unit"] == unit])
    shown = shown.assign(share=100 * shown["share"], full=shown["row"], row=shown["row"].map(SHORT_DENOMINATORS))
    hover = "%{customdata[0]}<br>%{customdata[1]:,} to %{customdata[2]:,} " + unit + ", compression ratio %{customdata[3]:.3g}x"
    details = shown[["full", "before", "after", "ratio"]]
    right = max(112.0, float(shown["share"].max()) * 1.12)
    figure = dots(shown, palette, "share", number="{:.3g} %".format, details=details, hover=hover, crowded=CROWDED * right)
    figure.add_vline(x=100, line={"color": palette.series["original"], "width": 1, "dash": "dot"})
    figure.update_xaxes(title=f"{unit} remaining (% of the original)<br>left is smaller", range=[0, right])
    return in_rows(figure, shown, palette, title="How much is left after compression?")
