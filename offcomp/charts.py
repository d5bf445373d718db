"""Charts in two steps: NAME_table(...) gives a DataFrame, NAME_figure(table, palette) draws it. Tables are what is tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import plotly.graph_objects as go

from offcomp.models.catalogue import ModelInfo
from offcomp.plan import Plan
from offcomp.prediction import GroupPrediction, predict
from offcomp.spectra import Spectrum, relative_error
from offcomp.theme import MARKERS, Palette

FONT_SIZE = 14


def styled(figure: go.Figure, palette: Palette, *, title: str, height: int = 380) -> go.Figure:
    """The common look: question as title, quiet grid, no chart junk."""
    figure.update_layout(
        title={"text": title, "font": {"size": 17, "color": palette.text}, "x": 0, "xanchor": "left"},
        font={"size": FONT_SIZE, "color": palette.text},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        height=height,
        margin={"l": 10, "r": 10, "t": 60, "b": 10},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        hoverlabel={"font": {"size": FONT_SIZE}},
    )
    axis = {"gridcolor": palette.grid, "zerolinecolor": palette.grid, "automargin": True, "tickfont": {"color": palette.muted}}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def error_curve_table(info: ModelInfo, plan: Plan, spectra: Sequence[Spectrum], ratios: Sequence[float]) -> pd.DataFrame:
    """SVD's exact relative error over all chosen weights at each requested ratio, with the parameters it stores.

    `spectra` are those of the plan's groups. Ratios that some group cannot reach are left out.
    """
    rows = []
    for ratio in ratios:
        prediction = predict(replace(plan, groups=tuple(replace(group, ratio=ratio) for group in plan.groups)), info)
        if prediction.feasible:
            ranks = [group.size if group.form != "dense" else None for group in prediction.groups]
            rows.append(
                {
                    "requested_ratio": ratio,
                    "relative_error": relative_error(spectra, ranks),
                    "stored_parameters": prediction.model["chosen"]["parameters_after"],
                    "stored_megabytes": prediction.model["chosen"]["bytes_after"] / 1e6,
                }
            )
    return pd.DataFrame(rows, columns=["requested_ratio", "relative_error", "stored_parameters", "stored_megabytes"])


def error_curve_figure(table: pd.DataFrame, ratio: float, unit: str, palette: Palette) -> go.Figure:
    """Relative error against compression ratio (log), with the chosen ratio marked."""
    colour = palette.roles["svd"]
    hover = (
        "%{x:g}x smaller: relative error %{y:.3f}<br>%{customdata[0]:,} parameters, %{customdata[1]:.2f} MB<extra>SVD</extra>"
    )
    curve = go.Scatter(
        x=table["requested_ratio"],
        y=table["relative_error"],
        customdata=table[["stored_parameters", "stored_megabytes"]],
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"symbol": MARKERS["svd"], "size": 7},
        hovertemplate=hover,
        name="SVD",
    )
    chosen = table[table["requested_ratio"] == ratio]
    here = go.Scatter(
        x=chosen["requested_ratio"],
        y=chosen["relative_error"],
        mode="markers+text",
        marker={"symbol": MARKERS["svd"], "size": 14, "color": colour, "line": {"width": 2, "color": palette.text}},
        text=[f" {error:.3f} at {ratio:g}x" for error in chosen["relative_error"]],
        textposition="bottom right",
        textfont={"size": FONT_SIZE, "color": palette.text},
        hoverinfo="skip",
    )
    figure = go.Figure([curve, here])
    figure.add_vline(x=ratio, line={"color": palette.muted, "width": 1, "dash": "dot"})
    ticks = [1.25, 2, 3, 5, 10, 20, 50]
    figure.update_xaxes(
        title=f"compression ratio in {unit}, log scale",
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:g}x" for tick in ticks],
    )
    figure.update_yaxes(title="relative error: lower is better", rangemode="tozero", range=[0, 1])
    figure.update_layout(showlegend=False)
    return styled(figure, palette, title="How much error does SVD make at each ratio? (exact)", height=340)


def prediction_table(groups: Sequence[GroupPrediction], spectra: Sequence[Spectrum] | None = None) -> pd.DataFrame:
    """One row a group: rank or latent width, sizes, ratio, break-even, and SVD's exact error where `spectra` are given."""
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
            row["relative error"] = relative_error([spectra[index]], [rank])
        rows.append(row)
    table = pd.DataFrame(rows)
    for column in table.columns.intersection(["rank", "latent width"]):
        table[column] = table[column].fillna("")
    return table
