"""Helpers for charts, tables and downloads that look the same on every page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from pandas.api.types import is_float_dtype, is_numeric_dtype
from streamlit.delta_generator import DeltaGenerator

from offcomp.results.csv_text import csv_text
from offcomp.results.report import DRAWN_COLUMNS
from offcomp.results.scores import sentence_start
from offcomp.ui.escape import plain

TALL_CHART_PIXELS = 640
OnClick = Callable[[], None] | Literal["ignore"]


def draw(figure: go.Figure, key: str, alt: str) -> None:
    """Draw a chart that ignores clicks."""
    st.plotly_chart(figure, theme=None, key=key, alt=alt, config={"displaylogo": False})


def draw_clickable(figure: go.Figure, key: str, alt: str, on_click: OnClick) -> None:
    """Draw a chart; `on_click` is called when the user clicks a mark."""
    config = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
    st.plotly_chart(figure, theme=None, key=key, alt=alt, config=config, on_select=on_click, selection_mode="points")


def show_chart(
    target: DeltaGenerator, figure: go.Figure, table: pd.DataFrame, *, key: str, alt: str, on_click: OnClick = "ignore"
) -> None:
    """Draw a chart in `target`, scrollable if very tall, with its table in a collapsed expander below."""
    tall = figure.layout.height > TALL_CHART_PIXELS
    with target.container(height=TALL_CHART_PIXELS if tall else "content", border=False):
        draw_clickable(figure, key, alt, on_click)
    with st.expander("Show as a table"):
        shown = table.drop(columns=DRAWN_COLUMNS, errors="ignore")
        show_table(shown, f"{key}_table", formats=number_formats(shown))


def show_table(
    table: pd.DataFrame,
    key: str,
    *,
    names: Mapping[str, str] = {},
    formats: Mapping[str, Any] = {},
    height: int | Literal["auto"] = "auto",
) -> None:
    """Show a table with readable headings; `names` overrides the headings derived from column names."""
    titles = {name: names.get(name) or sentence_start(name.replace("_", " ")) for name in map(str, table.columns)}
    config = {title: formats[name] for name, title in titles.items() if name in formats}
    st.dataframe(table.rename(columns=titles), hide_index=True, key=key, column_config=config, height=height)


def number_formats(table: pd.DataFrame) -> dict[str, Any]:
    """Format floats to three decimal places and integers with thousands separators."""
    return {
        name: st.column_config.NumberColumn(format="%.3f" if is_float_dtype(table[name]) else "localized")
        for name in table.columns
        if is_numeric_dtype(table[name])
    }


def show_metric(label: str, value: str, note: str, description: str = "", width: int | Literal["stretch"] = "stretch") -> None:
    """Show a labelled value with a note below it, as plain text."""
    text, help_text = plain(note), plain(description) or None
    st.metric(plain(label), plain(value), text, delta_color="off", delta_arrow="off", help=help_text, width=width)


def csv_button(label: str, file_name: str, key: str, make: Callable[[], pd.DataFrame]) -> None:
    """Show a download button for a table as CSV; the file is built only on click."""
    download_button(label, file_name, "text/csv", key, lambda: csv_text(make()))


def download_button(
    label: str, file_name: str, mime: str, key: str, make: Callable[[], str | bytes], *, icon: str | None = None
) -> None:
    """Show a download button for a file, built only on click; downloading does not rerun the page."""
    st.download_button(plain(label), make, file_name, mime, key=key, icon=icon, on_click="ignore")
