"""Downloads for a comparison: the report, its tables, and commands that export the report and the weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

import streamlit as st

from offcomp.results.report import comparison_document, comparison_table, html_report, table_names
from offcomp.results.sentences import provenance
from offcomp.runs.store import Run
from offcomp.ui.charts import csv_button, download_button
from offcomp.ui.compare.results import MAX_CARDS, MAX_IN_DETAIL
from offcomp.ui.escape import plain

EXPORTS_PIXELS = 140
FORMULAS = "In CSV files, text that a spreadsheet would interpret as a formula is prefixed with an apostrophe."


def show_downloads(runs: Sequence[Run]) -> None:
    """Offer the report and its tables for download, and show the equivalent export commands."""
    st.subheader("Export results")
    with st.container(horizontal=True):
        report, icon = partial(html_report, runs), ":material/description:"
        download_button("Report, HTML", "offcomp-report.html", "text/html", "compare_report", report, icon=icon)
        for name in table_names(runs):
            table = partial(comparison_table, runs, name)
            csv_button(f"{name.capitalize()}, CSV", f"offcomp-{name}.csv", f"compare_csv_{name}", table)
        document = partial(_as_json, runs)
        download_button("All, JSON", "offcomp-comparison.json", "application/json", "compare_json", document)
    limit = f" (the first {MAX_IN_DETAIL} of these {len(runs)} runs)" if len(runs) > MAX_IN_DETAIL else ""
    st.caption(
        plain(
            "The report is a self-contained file that works offline. Each table row includes the run, plan, seed "
            f"and versions. {FORMULAS} First run: {provenance(runs)}. On the command line{limit}:"
        )
    )
    st.code(f"offcomp compare {' '.join(run.id for run in runs[:MAX_IN_DETAIL])} --html offcomp-report.html", language="bash")
    _show_exports([run for run in runs[:MAX_IN_DETAIL] if run.has_weights])


def _show_exports(runs: Sequence[Run]) -> None:
    """Show the commands that export each run's compressed weights to a folder; bundled runs have no weights."""
    if runs:
        st.caption(
            "Export the compressed weights of your own runs to one folder per run, with a list of all stored tensors. "
            "`--dense` also saves the whole model for use with transformers; `offcomp verify` checks the folder."
        )
        lines = "\n".join(f"offcomp export {run.id} offcomp-{run.id}" for run in runs)
        st.code(lines, language="bash", height=EXPORTS_PIXELS if len(runs) > MAX_CARDS else "content")


def _as_json(runs: Sequence[Run]) -> str:
    """Return all tables as one JSON document, with each table as a list of rows."""
    return json.dumps(comparison_document(runs), indent=1)
