"""How each method computes one entry of a matrix, with the numbers filled in, on demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from offcomp.errors import OffcompError
from offcomp.files import changed
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.results.reconstructions import Reconstruction
from offcomp.results.runs import title_of_style_key
from offcomp.runs.pictures import group_of
from offcomp.runs.resident import ask
from offcomp.ui.escape import plain, plain_table
from offcomp.ui.frame import reporting_errors, style
from offcomp.ui.inspect.methods import PATIENT_SECONDS
from offcomp.ui.switch import choose_one

ROW, COLUMN, METHOD, OPEN = "inspect_row", "inspect_column", "inspect_entry_method", "inspect_entry_open"
STYLE = ".st-key-inspect_steps :is(td, th) {overflow-wrap: anywhere; white-space: normal; padding: .3rem .4rem}"
CELL_HELP = "Leave both empty for the entry with the largest error."


def show_entry(info: ModelInfo, spec: ModuleSpec, found: Sequence[Reconstruction], rank: int) -> None:
    """Offer to compute one entry step by step."""
    section = st.expander("How is one entry computed?", key=OPEN, on_change="rerun", icon=":material/calculate:")
    if section.open:
        with section:
            st.fragment(_show_entry)(info, spec, found, rank)


@reporting_errors()
def _show_entry(info: ModelInfo, spec: ModuleSpec, found: Sequence[Reconstruction], rank: int) -> None:
    titles = {each.style_key: each.title for each in found}
    left, middle, right = st.columns([6, 2, 2], gap="medium", vertical_alignment="bottom")
    with left:
        style_key = choose_one("Method", titles, METHOD, wrap=True)
    row = middle.number_input(
        "Row", 0, spec.rows - 1, None, key=f"{ROW}_{spec.rows}", persist_state="session", placeholder="worst", help=CELL_HELP
    )
    column = right.number_input(
        "Column",
        0,
        spec.cols - 1,
        None,
        key=f"{COLUMN}_{spec.cols}",
        persist_state="session",
        placeholder="worst",
        help=CELL_HELP,
    )
    if (row is None) != (column is None):
        st.info("Enter both a row and a column, or leave both empty for the entry with the largest error.")
        return
    chosen = next(each for each in found if each.style_key == style_key)
    cell = None if row is None or column is None else (int(row), int(column))
    try:
        with st.spinner("Computing the entry."):
            answer = _answer(info, spec.name, _source(chosen, spec, rank), cell)
    except OffcompError as error:
        st.error(plain(f"{error}."), icon=":material/error:")
        return
    _show_answer(answer, chosen)


def _source(found: Reconstruction, spec: ModuleSpec, rank: int) -> tuple[Any, ...]:
    """The run and the version of its stored tensors, or the rank of SVD."""
    if found.run is None:
        return "rank", rank
    return "run", found.run.id, changed(found.run.group_file(group_of(found.run, spec.name).name))


@st.cache_data(max_entries=256, show_spinner=False, hash_funcs={ModelInfo: lambda info: (info.model, info.reads)})
def _answer(info: ModelInfo, module: str, source: tuple[Any, ...], cell: tuple[int, int] | None) -> dict[str, Any]:
    """Ask the resident worker. Cached by the model's files, the module, the run's tensors or the rank, and the cell."""
    question = {"kind": "entry", "module": module, source[0]: source[1], "cell": cell and list(cell)}
    return ask(info, question, seconds=PATIENT_SECONDS)


def _show_answer(answer: Mapping[str, Any], found: Reconstruction) -> None:
    """Show the steps as a table, below a sentence that names the entry."""
    original, entry = answer["original"], answer["entry"]
    where = f"{answer['row_name']}, column {answer['col']:,}"
    st.markdown(
        plain(
            f"{found.title} at {where}: {entry:.4g}. The original is {original:.4g}, so the error is {entry - original:+.3g}."
        )
    )
    if not answer["steps"]:
        st.caption(plain(f"The steps of {title_of_style_key(found.style_key)} are not listed."))
        return
    rows = [[label, numbers, "" if value is None else f"{value:.6g}"] for label, numbers, value in answer["steps"]]
    table = pd.DataFrame(rows, columns=["Step", "Numbers", "Result"])
    style(STYLE)
    with st.container(key="inspect_steps"):
        st.table(plain_table(table), hide_index=True, border="horizontal")
