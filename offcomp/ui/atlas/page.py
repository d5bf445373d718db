"""The Atlas page: bundled measurements as charts with tables and downloads, or a message if they are missing."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from pandas.api.types import is_float_dtype

from offcomp.results import atlas
from offcomp.results.atlas import Document, sensitivity_table, sweep_table
from offcomp.results.charts.atlas import sensitivity_figure, sweep_figure
from offcomp.ui import draft
from offcomp.ui.charts import csv_button, draw, show_table
from offcomp.ui.escape import code, plain
from offcomp.ui.frame import palette
from offcomp.ui.switch import choose_one

COMMAND = "python -m benchmarks.measurements --model {}"
BOTH = "both"
MODEL, TASK, SIZE, MATRICES = "measured_model", "measured_task", "measured_size", "measured_group"
BRIEF_SIZES = {"chosen": "linear", "matrices": "with embeddings", "whole": "model"}
BRIEF_GROUPINGS = {BOTH: "both", atlas.ALONE: "each alone", atlas.STACKED: "stacked"}
TEXT_PIXELS = 175
IN_EVERY_ROW = ["style_key", "original", "baseline", "baseline_name", "title", "metric"]
NAMES = {"n": "Examples", "low": "95 % from", "high": "95 % to", "told_apart": "Distinguishable from zero"}
DENOMINATOR_HELP = "Which bytes to count: the compressed linear weights only, those plus the embeddings, or the whole model."


def choose_model(models: list[str]) -> str:
    """Return the model to show measurements for; a selector appears only if there are several models."""
    if len(models) == 1:
        return models[0]
    draft.view("measured", MODEL, models)
    return st.selectbox("Model", models, key=MODEL, persist_state="session")


def choose_view(document: Document) -> tuple[str, str, str]:
    """Let the user choose the task, the denominator of the ratio and the grouping."""
    with st.container(horizontal=True, gap="small"):
        task = choose_one("Task", atlas.tasks_of(document), TASK, parameter="task")
        denominator = choose_one("Size of", BRIEF_SIZES, SIZE, parameter="size", description=DENOMINATOR_HELP)
        grouping = choose_one("Matrices", BRIEF_GROUPINGS, MATRICES, parameter="matrices")
    return task, denominator, grouping


def show_sweep(document: Document, task: str, denominator: str, grouping: str) -> None:
    """Plot score against size, with one line per method."""
    table = sweep_table(document, task, denominator)
    chosen = table if grouping == BOTH else table[table["grouping"] == grouping]
    if chosen.empty:
        st.caption(plain(f"There are no measurements for this choice of matrices: {grouping}."))
        return
    alt = f"Line chart of the {atlas.score_words(table)} against the compression ratio in bytes, one line per method, "
    alt += "with the original and the baseline"
    _show(sweep_figure(chosen, palette(), denominator), chosen, document, "sweep", alt)
    st.caption(f"Bundled: {len(chosen)} of {len(table)} compressed models shown, all scored on the same examples.")


def show_sensitivity(document: Document, task: str) -> None:
    """Plot how much the score changes when a single matrix is compressed, by layer and kind."""
    table = sensitivity_table(document, task)
    if table.empty:
        st.caption("These measurements do not cover compressing a single matrix.")
        return
    alt = f"Change in the {atlas.score_words(table)} when a single matrix is compressed, by layer and kind"
    _show(sensitivity_figure(table, palette()), table, document, "sensitivity", alt)
    st.caption(plain(f"Bundled. {atlas.sensitivity_answer(table)}"))


def _show(figure: go.Figure, table: pd.DataFrame, document: Document, purpose: str, alt: str) -> None:
    """Draw a chart with a table and a CSV download below; `alt` is the chart's alternative text."""
    draw(figure, f"measured_{purpose}", f"{alt}; the table below has the numbers.")
    with st.expander("Show as a table"):
        shown = table.drop(columns=IN_EVERY_ROW, errors="ignore")
        show_table(shown, f"measured_{purpose}_table", names=NAMES, formats=_formats(shown))
        file_name, make = f"offcomp-{document['model']}-{purpose}.csv", partial(atlas.exported, table, document, purpose)
        csv_button(f"{purpose.capitalize()}, CSV", file_name, f"measured_csv_{purpose}", make)
        st.caption("Each row of the download includes the plan (for use with `offcomp run`), seed, versions and date.")


def _formats(table: pd.DataFrame) -> dict[str, Any]:
    """Format scores to three decimal places and ratios to three significant digits, and fix the width of text columns."""
    column = st.column_config
    floats = [name for name in table.columns if is_float_dtype(table[name])]
    numbers = {name: column.NumberColumn(format="%.3g" if "ratio" in name else "%.3f") for name in floats}
    return numbers | dict.fromkeys(("method", "grouping", "module"), column.TextColumn(width=TEXT_PIXELS))


def show_provenance(document: Document) -> None:
    """Show where the numbers come from and how to reproduce them."""
    st.caption(
        f"Bundled measurement: {plain(atlas.provenance(document))}. Nothing on this page was computed live. "
        f"To reproduce the measurements, run {code(COMMAND.format(document['model']) + ' --fresh')} in a clone of offcomp; "
        "add `--data FOLDER` to include STS-B."
    )


def show_nothing() -> None:
    """Explain that the bundled measurements are missing."""
    for file in atlas.unreadable_files():
        st.warning(plain(f"The bundled measurement {file} cannot be read or is incomplete. Reinstall offcomp."))
    st.info(
        "This page compares six methods at many sizes on a bundled model, and shows which matrix is the most sensitive. "
        f"The measurements are missing. To create them, run {code(COMMAND.format('minilm-l6'))} in a clone of offcomp."
    )
    if st.button("Compress something", type="primary", key="measured_compress", icon=":material/compress:"):
        st.switch_page("pages/compress.py")
