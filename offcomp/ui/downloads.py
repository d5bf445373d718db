"""What people take away of a comparison: the report, its tables, and the commands that write the same and the weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

import streamlit as st

from offcomp.answers import provenance
from offcomp.csv_text import csv_text
from offcomp.report import comparison_document, comparison_table, comparison_tables, html_report, table_names
from offcomp.runs import Run
from offcomp.ui.plain import plain
from offcomp.ui.results import MOST_CARDS, MOST_IN_DETAIL

EXPORTS_PIXELS = 140
FORMULAS = "In CSV, a text that a spreadsheet would take for a formula has an apostrophe before it."


def show_downloads(runs: Sequence[Run]) -> None:
    """The tables with run, plan, seed and versions in every row."""
    st.subheader("Take the numbers along")
    with st.container(horizontal=True):
        st.download_button(
            "Report, HTML",
            partial(html_report, runs),  # made when it is asked for, in a second or two
            "offcomp-report.html",
            "text/html",
            key="compare_report",
            icon=":material/description:",
            on_click="ignore",
        )
        for name in table_names(runs):
            st.download_button(
                plain(f"{name.capitalize()}, CSV"),
                partial(_as_csv, runs, name),  # made when it is asked for
                f"offcomp-{name}.csv",
                "text/csv",
                key=f"compare_csv_{name}",
                on_click="ignore",
            )
        st.download_button(
            "All, JSON",
            partial(_as_json, runs),
            "offcomp-comparison.json",
            "application/json",
            key="compare_json",
            on_click="ignore",
        )
    st.caption(
        plain(
            "The report is one file that opens anywhere without a network. Every row of the tables names its run, plan, seed "
            f"and versions. {FORMULAS} First run: {provenance(runs)}. Without a browser{_limited(runs)}:"
        )
    )
    st.code(f"offcomp compare {' '.join(run.id for run in runs[:MOST_IN_DETAIL])} --html offcomp-report.html", language="bash")
    _show_exports([run for run in runs[:MOST_IN_DETAIL] if run.has_weights])


def _limited(runs: Sequence[Run]) -> str:
    return f" (the first {MOST_IN_DETAIL} of these {len(runs)} runs)" if len(runs) > MOST_IN_DETAIL else ""


def _show_exports(runs: Sequence[Run]) -> None:
    """The command that writes the compressed weights of each run to a folder; bundled runs have none."""
    if runs:
        st.caption(
            "The compressed weights of your own runs, each in a folder with a list of every stored tensor. `--dense` adds the "
            "whole model, which transformers loads; `offcomp verify` checks the folder."
        )
        lines = "\n".join(f"offcomp export {run.id} offcomp-{run.id}" for run in runs)
        st.code(lines, language="bash", height=EXPORTS_PIXELS if len(runs) > MOST_CARDS else "content")


def _as_csv(runs: Sequence[Run], name: str) -> str:
    return csv_text(comparison_table(runs, name))


def _as_json(runs: Sequence[Run]) -> str:
    """Several tables as one JSON document, a list of rows each."""
    return json.dumps(comparison_document(comparison_tables(runs)), indent=1)
