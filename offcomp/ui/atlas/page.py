"""The Atlas page: bundled measurements as charts with tables and downloads, and a message if there are none."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from pandas.api.types import is_float_dtype

from offcomp.results.atlas import (
    ALONE,
    STACKED,
    Document,
    exported,
    provenance,
    score_words,
    sensitivity_answer,
    sensitivity_table,
    sweep_table,
    tasks_of,
    unreadable_files,
)
from offcomp.results.charts.atlas import sensitivity_figure, sweep_figure
from offcomp.results.csv_text import csv_text
from offcomp.ui import draft
from offcomp.ui.escape import code, plain
from offcomp.ui.frame import palette

COMMAND = "python -m benchmarks.measurements --model {}"
BOTH = "both"
MODEL, TASK, SIZE, MATRICES = "measured_model", "measured_task", "measured_size", "measured_group"
BRIEF_SIZES = {"chosen": "linear", "matrices": "with embeddings", "whole": "model"}
BRIEF_GROUPINGS = {BOTH: "both", ALONE: "each alone", STACKED: "stacked"}
TEXT_PIXELS = 175
IN_EVERY_ROW = ("style_key", "original", "baseline", "baseline_name", "title", "metric")
NAMES = {"n": "Examples", "low": "95 % from", "high": "95 % to", "told_apart": "Distinguishable from zero"}
DENOMINATOR_HELP = (
    "Which bytes are counted: those of the compressed linear weights, of these plus the embeddings, or of the whole model."
)


def choose_model(models: list[str]) -> str:
    """The model whose measurements are shown; asks only if there are several."""
    if len(models) == 1:
        return models[0]
    draft.view("measured", MODEL, models)
    return st.selectbox("Model", models, key=MODEL, persist_state="session")


def choose_view(document: Document) -> tuple[str, str, str]:
    """Task, denominator of the ratio, and grouping."""
    with st.container(horizontal=True, gap="small"):
        task = _choose("Task", "task", TASK, tasks_of(document))
        denominator = _choose("Size of", "size", SIZE, BRIEF_SIZES, DENOMINATOR_HELP)
        grouping = _choose("Matrices", "matrices", MATRICES, BRIEF_GROUPINGS)
    return task, denominator, grouping


def _choose(label: str, name: str, key: str, titles: Mapping[str, str], help_text: str | None = None) -> str:
    """Ask for one of a few choices, initialised from the link."""
    draft.view(name, key, list(titles))
    chosen = st.segmented_control(
        plain(label),
        list(titles),
        format_func=lambda name: plain(titles[name]),
        key=key,
        persist_state="session",
        required=True,
        help=plain(help_text) if help_text else None,
    )
    return str(chosen)


def show_sweep(document: Document, task: str, denominator: str, grouping: str) -> None:
    """Plot score against size, one line per method."""
    table = sweep_table(document, task, denominator)
    chosen = table if grouping == BOTH else table[table["grouping"] == grouping]
    if chosen.empty:
        st.caption(plain(f"There are no measurements with the matrices {grouping}."))
        return
    alt = (
        f"The {score_words(table)} against the compression ratio in bytes, one line per method, with original and baseline; "
        "the table below has the numbers."
    )
    _show(sweep_figure(chosen, palette(), denominator), chosen, document, "sweep", alt)
    st.caption(f"Bundled: {len(chosen)} of {len(table)} compressed models shown, each scored on the same examples.")


def show_sensitivity(document: Document, task: str) -> None:
    """Plot the change in score by layer and kind, with one matrix compressed at a time."""
    table = sensitivity_table(document, task)
    if table.empty:
        st.caption("No matrix was compressed alone in these measurements.")
        return
    alt = (
        f"Change in the {score_words(table)} when one matrix alone is compressed, by layer and kind; "
        "the table below has the numbers."
    )
    _show(sensitivity_figure(table, palette()), table, document, "sensitivity", alt)
    st.caption(plain(f"Bundled. {sensitivity_answer(table)}"))


def _show(figure: go.Figure, table: pd.DataFrame, document: Document, purpose: str, alt: str) -> None:
    """A chart, and below it its table, with a download that includes every row's plan."""
    st.plotly_chart(figure, theme=None, key=f"measured_{purpose}", alt=alt, config={"displaylogo": False})
    with st.expander("The same as a table"):
        shown = table.drop(columns=list(IN_EVERY_ROW), errors="ignore")
        st.dataframe(
            shown.rename(columns=_words),
            hide_index=True,
            key=f"measured_{purpose}_table",
            column_config=_formats(shown),
        )
        st.download_button(
            plain(f"{purpose.capitalize()}, CSV"),
            partial(_as_csv, table, document, purpose),  # built on click
            f"offcomp-{document['model']}-{purpose}.csv",
            "text/csv",
            key=f"measured_csv_{purpose}",
            on_click="ignore",
        )
        st.caption("Every row of the download includes its plan, which `offcomp run` accepts, with seed, versions and date.")


def _formats(table: pd.DataFrame) -> dict[str, Any]:
    """Number formats with three digits, keyed by readable column names."""
    column, formats = st.column_config, {}
    for name in map(str, table.columns):
        if name in ("method", "grouping", "module"):
            formats[_words(name)] = column.TextColumn(width=TEXT_PIXELS)
        elif is_float_dtype(table[name]):
            formats[_words(name)] = column.NumberColumn(format="%.3g" if "ratio" in name else "%.3f")
    return formats


def _words(name: str) -> str:
    return NAMES.get(name, name.replace("_", " ").capitalize())


def _as_csv(table: pd.DataFrame, document: Document, purpose: str) -> str:
    return csv_text(exported(table, document, purpose))


def show_provenance(document: Document) -> None:
    """Say where the numbers come from, and how to reproduce them."""
    st.caption(
        f"Bundled measurement: {plain(provenance(document))}. Nothing on this page was computed just now. "
        f"{code(COMMAND.format(document['model']) + ' --fresh')}, in a clone of offcomp, repeats it, "
        "with `--data FOLDER` on STS-B as well."
    )


def show_nothing() -> None:
    """Explain that there are no measurements."""
    for file in unreadable_files():
        told = f"{file}, a bundled measurement, cannot be read or is incomplete. Reinstall offcomp."
        st.warning(plain(told))
    st.info(
        "This page shows six methods at many sizes, measured on a bundled model, and which matrix is the most sensitive. "
        f"The measurements are missing; {code(COMMAND.format('minilm-l6'))}, in a clone of offcomp, creates them."
    )
    if st.button("Compress something", type="primary", key="measured_compress", icon=":material/compress:"):
        st.switch_page("pages/compress.py")
