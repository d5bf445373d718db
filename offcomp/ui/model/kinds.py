"""A form on the Model page to correct the kinds of a model whose family is not known."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import streamlit as st

from offcomp.errors import ModelError
from offcomp.files import home_folder
from offcomp.models.catalogue import MATRICES, ModelInfo
from offcomp.models.families import KINDS, OTHER_KINDS
from offcomp.models.identity import KINDS_FILE
from offcomp.models.kinds_file import changed_kinds, named_by_structure, pattern_of, with_kinds
from offcomp.models.listing import keep_kinds, kept_kinds, recognised_info
from offcomp.planning.size_notes import structure_answer
from offcomp.ui import draft
from offcomp.ui.charts import download_button
from offcomp.ui.escape import plain
from offcomp.ui.frame import reporting_errors

TABLE, ROUND = "model_kinds", "model_kinds_round"
KIND_PIXELS, PATTERN_PIXELS = 150, 330
UNDO = "Back to what was recognised"
HELP = (
    "`*` stands for the number of a layer or expert. The last six kinds in the list, from *router* on, are compressed only if "
    "chosen by name."
)
KEPT = (
    "Apply writes the kinds to a file in the model's folder on this machine, so the command line uses them as well. To correct "
    "another copy of the model, download the file and run `offcomp modules FOLDER --kinds FILE`."
)


def show_structure(info: ModelInfo) -> None:
    """State how many kinds were recognised by structure, and offer to correct them. Nothing for a known family."""
    if info.family or info.model_type == MATRICES:
        return
    recognised = recognised_info(info.model, home_folder())
    if recognised is None:  # the listing could not be saved
        return
    if answer := structure_answer(info, len(named_by_structure(info, recognised))):
        st.markdown(plain(answer))
    with st.expander("Correct the kinds of matrices"):
        _show_form(info, recognised)


def _show_form(info: ModelInfo, recognised: ModelInfo) -> None:
    """Show the table with one row for each pattern of modules, a check of the changes, and what can be done with them."""
    table = _patterns(info, recognised)
    edited = st.data_editor(
        table,
        key=f"{TABLE}_{info.fingerprint[-12:]}_{st.session_state.get(ROUND, 0)}",
        hide_index=True,
        disabled=["pattern", "matrices"],
        column_order=["kind", "pattern", "matrices"],  # on a phone, the column that can be changed comes first
        column_config={
            "pattern": st.column_config.TextColumn("Matrices", width=PATTERN_PIXELS),
            "kind": st.column_config.SelectboxColumn("Kind", options=[*KINDS, *OTHER_KINDS], required=True, width=KIND_PIXELS),
            "matrices": st.column_config.NumberColumn("Number", format="localized"),
        },
    )
    st.caption(HELP)
    chosen = edited[edited["kind"].notna() & (edited["kind"] != table["kind"])]
    changes = dict(zip(chosen["pattern"], chosen["kind"], strict=True))
    answers = changed_kinds(kept_kinds(info.model), changes, recognised.modules)
    fault = _fault(recognised, answers)
    if fault:
        st.error(plain(fault), icon=":material/error:")
    text = json.dumps(answers, indent=1) + "\n"
    with st.container(horizontal=True):
        apply = st.button("Apply", key="model_kinds_apply", disabled=bool(fault) or not changes, icon=":material/check:")
        is_corrected = info.fingerprint != recognised.fingerprint
        undo = st.button(UNDO, key="model_kinds_undo", disabled=not is_corrected, icon=":material/undo:")
        download_button("Kinds, JSON", KINDS_FILE, "application/json", "model_kinds_json", lambda: text)
    st.caption(KEPT)
    if apply or undo:
        _keep(info, text.encode() if apply and answers else None)


def _patterns(info: ModelInfo, recognised: ModelInfo) -> pd.DataFrame:
    """One row for each pattern of modules: its kind, missing if its matrices have several, and its number of matrices."""
    patterns = [pattern_of(spec) for spec in recognised.modules]
    table = pd.DataFrame({"pattern": patterns, "kind": [spec.kind for spec in info.modules]})
    patterns_of = table.groupby("pattern", sort=False, as_index=False)
    return patterns_of.agg(kind=("kind", _only), matrices=("kind", "size"))


def _only(kinds: pd.Series[str]) -> str | None:
    """The kind of all these matrices; None if they have several."""
    return kinds.iloc[0] if kinds.nunique() == 1 else None


def _fault(recognised: ModelInfo, answers: dict[str, Any]) -> str:
    """Why the model would reject these answers; empty if it would not."""
    try:
        with_kinds(recognised.modules, answers, "This table")
    except ModelError as error:
        return str(error)
    return ""


def _keep(info: ModelInfo, content: bytes | None) -> None:
    """Write or remove the file of kinds, and draw the page again with the new names."""
    with reporting_errors():
        keep_kinds(info.model, content, home_folder())
        draft.forget_modules()
        st.session_state[ROUND] = st.session_state.get(ROUND, 0) + 1
        st.rerun()
