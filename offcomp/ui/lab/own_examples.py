"""Make a task from an uploaded table: preview its rows, assign its columns, list its classes, and check the model's head.

This module does not read files itself: table views come from `offcomp.planning.data.task_check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from offcomp.errors import InputError, TaskError, shortly
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.data.head_labels import ModelHead
from offcomp.planning.data.task_check import TableView, classes_of, head_of_model, task_fault, view_of
from offcomp.planning.data.task_columns import chosen_columns
from offcomp.planning.data.task_fields import own_task
from offcomp.planning.data.tasks import FAMILIES, ONE, PAIR, Task, TaskFamily, fitting_families
from offcomp.ui.escape import plain


def own_tasks(info: ModelInfo, path: Path) -> tuple[Task, ...]:
    """Make a task from an uploaded table: show how it was read, accept corrections, and check that the model fits the task.

    Returns an empty tuple while a column is unassigned, or if the table cannot be read or the model does not fit the task.
    """
    head = head_of_model(info)
    fitting = [name for name in fitting_families(info.architecture, info.reads_text) if _fits_head(name, head)]
    if not fitting:
        st.caption("This model does not take text as input, so the table is ignored.")
        return ()
    try:
        view = view_of(path)
    except InputError as error:
        st.error(plain(f"{error}."), icon=":material/error:")
        return ()
    if st.session_state.get("upload_family") not in fitting:
        st.session_state["upload_family"] = fitting[0]
    family = st.selectbox(
        "What the model does",
        fitting,
        format_func=lambda name: FAMILIES[name].title,
        key="upload_family",
        persist_state="session",
    )
    st.dataframe([*view.first], hide_index=True, key="upload_rows")
    columns = _chosen_columns(FAMILIES[str(family)], path, view)
    if columns is None:
        st.caption(f"{view.rows:,} rows, the first {len(view.first)} of which are shown above.")
        return ()
    renamed = {column: table_column for column, table_column in columns.items() if column != table_column}
    task = own_task(str(path), str(family), renamed, source="Uploaded")
    st.caption(plain(_understood(view, path, columns)))
    if fault := task_fault(task, info):
        st.error(plain(fault), icon=":material/error:")
        return ()
    return (task,)


def _fits_head(family: str, head: ModelHead | None) -> bool:
    """Return whether the model's own head suits the task family; true if the family does not use that head."""
    if head is None or not family.startswith("head"):
        return True
    return not head.multi_label and head.is_regression == (family == "head-regression")


def _chosen_columns(family: TaskFamily, path: Path, view: TableView) -> dict[str, str] | None:
    """Map task columns to table columns, guessed from the contents and corrected by the user; None until all are assigned."""
    digest, columns = path.parent.name, list(view.contents)
    try:
        guessed = chosen_columns(own_task(str(path), family.name, {}), view.contents, path.name)
        doubt = ""
    except TaskError as error:
        guessed, doubt = {}, str(error)
    pair = PAIR in family.inputs
    if pair and ONE in family.inputs:
        pair = st.toggle(
            "Two texts per example", PAIR[0] in guessed, key=f"upload_pair_{family.name}_{digest}", persist_state="session"
        )
    wanted = [*(PAIR if pair else ONE), *([family.target] if family.target else [])]
    with st.container(horizontal=True):
        chosen = {
            column: st.selectbox(
                plain(column),
                columns,
                columns.index(guessed[column]) if column in guessed else None,
                key=f"upload_column_{family.name}_{column}_{digest}",
                placeholder="choose",
                persist_state="session",
            )
            for column in wanted
        }
    assigned = {column: table_column for column, table_column in chosen.items() if table_column is not None}
    if len(assigned) < len(wanted):
        text = doubt.split("; specify ")[0] or f"{path.name} needs a column for each of {', '.join(wanted)}"
        st.warning(plain(f"{text}: choose the columns above."))
        return None
    if len({*assigned.values()}) < len(assigned):
        st.warning(plain(f"Choose different columns for {' and '.join(assigned)}: one column is used twice."))
        return None
    return assigned


def _understood(view: TableView, path: Path, columns: Mapping[str, str]) -> str:
    """Summarise the row and class counts, for example "120 rows, 2 classes (bad 40, good 80)"."""
    text = f"{view.rows:,} rows"
    if "label" in columns:
        try:
            counts = classes_of(path, columns)
        except InputError:  # the task check reports it
            return f"{text}. The first {len(view.first)} rows are shown above."
        total = sum(counts.values())
        tested = "" if total == view.rows else f", of which {total:,} are used for testing"
        shown = shortly([f"{name} {count:,}" for name, count in counts.items()])
        text += f"{tested}, {len(counts):,} classes ({shown})"
    return f"{text}. The first {len(view.first)} rows are shown above."
