"""The first chart of the Atlas page: quality against bytes for every method, if this was measured for the model."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from offcomp.errors import StorageError
from offcomp.results.charts.frontier_svg import NARROW, WIDE, frontier_svg
from offcomp.results.frontier import (
    KEPT,
    REFITTED,
    Quality,
    choices,
    exported,
    frontier_answer,
    frontier_table,
    provenance,
    quality_files,
    read_quality,
)
from offcomp.ui.charts import csv_button, show_table
from offcomp.ui.escape import code, plain
from offcomp.ui.frame import palette, style
from offcomp.ui.switch import choose_one

TASK, PROBES = "quality_task", "quality_probes"
MODES = {KEPT: "kept", REFITTED: "refitted"}
PROBES_HELP = (
    "Classes are predicted by a probe on the embeddings. Kept: fitted on the original model, as for users who do not change "
    "anything. Refitted: fitted on the compressed model, which shows what the embeddings still contain."
)
TITLE = "How much quality is left in fewer bytes?"
COMMAND = "python -m benchmarks.quality"
ONE_SIZE = """
.st-key-quality_narrow {display: none}
@media (max-width: 640px) {.st-key-quality_wide {display: none} .st-key-quality_narrow {display: flex}}
"""
"""A phone shows a drawing of its own, since the letters of a scaled one would be too small."""
HIDDEN = ["style_key", "hollow", "original"]
NAMES = {
    **{
        "line": "Method",
        "stored": "Stored as",
        "ratio": "Times fewer bytes",
        "draws": "Draws of text",
        "score": "Score, points",
    },
    **{"difference": "Difference, points", "low": "95 % from", "high": "95 % to", "cosine_distance": "Cosine distance"},
}


def show_frontier(model: str) -> bool:
    """Show the chart, its table and its download, or a sentence if the files are damaged; returns whether a chart is shown."""
    if not quality_files(model):
        return False
    try:
        quality = read_quality(model)
    except StorageError as error:
        st.warning(plain(error))
        return False
    answer = st.empty()
    with st.container(horizontal=True, gap="small"):
        mode = choose_one("Probes", MODES, PROBES, parameter="probes", description=PROBES_HELP)
        titles = choices(quality, mode)
        task = choose_one("Points on", titles, TASK, parameter="quality", wrap=True)
    table = frontier_table(quality, task, mode)
    answer.markdown(plain(f"{frontier_answer(table)}."))
    _draw(table, titles[task])
    st.caption(
        f"Bundled: {len(table)} ways of storing the whole model, all scored on the same examples. Bars are 95 % intervals. "
        f"Hollow marks: without text, or linear weights alone. {plain(provenance(quality))}. To reproduce the "
        f"measurements, run {code(COMMAND)} in a clone of offcomp."
    )
    _show_table(quality, table)
    return True


def show_winner(model: str) -> None:
    """Show the chart of the mean over all tasks, with its answer; nothing if it was not measured or the files are damaged."""
    try:
        quality = read_quality(model) if quality_files(model) else None
    except StorageError:
        quality = None
    if quality is not None:
        table, titles = frontier_table(quality, next(iter(choices(quality, KEPT))), KEPT), choices(quality, KEPT)
        st.markdown(plain(f"{frontier_answer(table)}."))
        _draw(table, next(iter(titles.values())))
        st.page_link("pages/atlas.py", label="Every task, with its numbers", icon=":material/monitoring:", width="content")


def _draw(table: pd.DataFrame, what: str) -> None:
    style(ONE_SIZE)
    alt = f"Points gained or lost ({what}) against times fewer bytes, one line per method; the table below has the numbers."
    for key, frame in (("quality_wide", WIDE), ("quality_narrow", NARROW)):
        with st.container(key=key):
            st.image(frontier_svg(table, palette(), title=TITLE, what=what, frame=frame), width="content", alt=alt)


def _show_table(quality: Quality, table: pd.DataFrame) -> None:
    with st.expander("Show as a table"):
        shown = table.drop(columns=HIDDEN)
        formats = {name: st.column_config.NumberColumn(format="%.1f") for name in ("ratio", "score")}
        formats |= {name: st.column_config.NumberColumn(format="%+.1f") for name in ("difference", "low", "high")}
        formats |= {"bytes": st.column_config.NumberColumn(format="localized")}
        formats |= {"cosine_distance": st.column_config.NumberColumn(format="%.3f")}
        show_table(shown, "quality_table", names=NAMES, formats=formats)
        make = partial(exported, table, quality)
        csv_button("Quality, CSV", f"offcomp-{quality.model}-quality.csv", "quality_csv", make)
