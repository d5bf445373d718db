"""Charts in two steps: NAME_table(...) gives a DataFrame, NAME_figure(table, palette) draws it. Tables are what is tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from offcomp.prediction import GroupPrediction
from offcomp.spectra import Spectrum, relative_error
from offcomp.theme import Palette

RATIOS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 50.0)
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
