"""Which finished runs a page shows: those of the URL, else the newest that belong together."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from offcomp.bundled import bundled_runs
from offcomp.results import default_selection, label, unfinished_siblings
from offcomp.runs import Run, RunStore

SELECTION = "compare_runs"
PROBLEMS = "compare_problems"
PARAMETER = "runs"  # of the URL
SIBLINGS_SHOWN = 3


def choose_runs() -> list[Run]:
    """The runs to compare: those of the URL, else the newest that belong together. The choice is written back to the URL."""
    everything = RunStore().all()
    own = [run for run in everything if run.status == "done"]
    bundled = [run for run in bundled_runs() if run.id not in {mine.id for mine in own}]
    pool = {run.id: run for run in [*own, *bundled]}
    if SELECTION not in st.session_state:
        asked = [name for name in st.query_params.get(PARAMETER, "").split(",") if name]
        st.session_state[PROBLEMS] = [_problem(name, everything) for name in asked if name not in pool]
        st.session_state[SELECTION] = [name for name in dict.fromkeys(asked) if name in pool] or default_selection(own, bundled)
    st.session_state[SELECTION] = [name for name in st.session_state[SELECTION] if name in pool]
    if not own:
        _invite()
    chosen = st.multiselect(
        "Runs to compare",
        list(pool),
        key=SELECTION,
        format_func=lambda name: label(pool[name]) + ("" if pool[name] in own else ", bundled"),
        placeholder="Choose one or more finished runs",
        on_change=_forget_problems,
    )
    for problem in st.session_state.get(PROBLEMS, []):
        st.warning(problem, icon=":material/info:")
    if chosen:
        st.query_params[PARAMETER] = ",".join(chosen)
    else:
        st.query_params.pop(PARAMETER, None)
        st.info("Choose at least one run above.")
    runs = [pool[name] for name in chosen]
    named = st.session_state.get(PROBLEMS)
    for run in [] if named else unfinished_siblings(runs, everything)[:SIBLINGS_SHOWN]:
        st.caption(f"Not shown: {label(run)}, {run.status}. {run.error}")
    return runs


def _problem(name: str, everything: Sequence[Run]) -> str:
    """Why a run of the URL is not shown."""
    run = next((run for run in everything if run.id == name), None)
    if run is None:
        return f"There is no run {name!r} here: it was deleted, or made on another machine."
    if not run.ended:
        return f"Run {name} is {run.status}; it can be compared once it is done."
    return f"Run {name} has no result to compare ({run.status}). {run.error}"


def _forget_problems() -> None:
    st.session_state[PROBLEMS] = []


def _invite() -> None:
    """What a home without finished runs says."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("You have no finished run yet, so this shows the measurements that come with offcomp.", width="stretch")
        if st.button("Compress something", key="compare_compress", icon=":material/compress:"):
            st.switch_page("pages/compress.py")
