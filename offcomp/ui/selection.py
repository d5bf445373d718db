"""Which finished runs Compare and Examples show: those of the URL, else the newest that belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from offcomp.bundled import bundled_runs
from offcomp.plain_text import quoted
from offcomp.results import default_selection, label, unfinished_siblings
from offcomp.runs import Run, RunStore
from offcomp.ui import draft
from offcomp.ui.plain import plain

SELECTION = "compare_runs"
PROBLEMS = "compare_problems"
WRITTEN = "compare_written"
FOLDED_FROM = 9
"""More chosen runs than these are folded away, so that the page's answer stays in sight."""
SIBLINGS_SHOWN = 3
MOST_PROBLEMS = 5


def choose_runs() -> list[Run]:
    """The runs to look at: those of the URL, else the newest that belong together; Compare and Examples share them.

    The choice is written back to the URL. A link is followed where it differs from what was last written.
    """
    everything = RunStore().all()
    own = [run for run in everything if run.status == "done"]
    bundled = [run for run in bundled_runs() if run.id not in {mine.id for mine in own}]
    pool = {run.id: run for run in [*own, *bundled]}
    _follow_link(everything, own, bundled)
    st.session_state[SELECTION] = [name for name in st.session_state[SELECTION] if name in pool]
    if not own:
        _invite()
    chosen = _ask(pool, [run.id for run in own])
    for problem in st.session_state.get(PROBLEMS, []):
        st.warning(plain(problem), icon=":material/info:")
    _write(chosen, [run.id for run in own])
    if not chosen:
        st.info("Choose at least one run above.")
    runs = [pool[name] for name in chosen]
    named = st.session_state.get(PROBLEMS)
    for run in [] if named else unfinished_siblings(runs, everything)[:SIBLINGS_SHOWN]:
        st.caption(plain(f"Not shown: {label(run)}, {run.status}. {run.error}"))
    return runs


def compared() -> str:
    """How many runs are chosen, in words; empty where none is. Until the page has followed a new link, those of the link."""
    names = [name for name in st.query_params.get(draft.RUNS, "").split(",") if name]
    chosen = names if _link_is_new() else st.session_state[SELECTION]
    return "all runs" if chosen == [draft.EVERY_RUN] else f"{len(chosen)} run{'s' * (len(chosen) != 1)}" if chosen else ""


def _link_is_new() -> bool:
    """Whether the runs of the URL are still to be followed: at first, and where it names others than the page wrote."""
    state = st.session_state
    return SELECTION not in state or st.query_params.get(draft.RUNS, "") not in ("", state.get(WRITTEN))


def _follow_link(everything: Sequence[Run], own: Sequence[Run], bundled: Sequence[Run]) -> None:
    """Take the runs that the URL names, where it names others than the page wrote; at first the newest that belong together."""
    state, asked = st.session_state, st.query_params.get(draft.RUNS, "")
    if not _link_is_new():
        return
    finished = {run.id for run in [*own, *bundled]}
    names = [run.id for run in own] if asked == draft.EVERY_RUN else [name for name in dict.fromkeys(asked.split(",")) if name]
    missing = [name for name in names if name not in finished]
    state[PROBLEMS] = [_problem(name, everything) for name in missing[:MOST_PROBLEMS]]
    if len(missing) > MOST_PROBLEMS:
        state[PROBLEMS].append(f"{len(missing) - MOST_PROBLEMS:,} more runs of the link cannot be shown.")
    state[SELECTION] = [name for name in names if name in finished] or default_selection(own, bundled)


def _ask(pool: Mapping[str, Run], own: Sequence[str]) -> list[str]:
    """The widget; folded away where many runs are chosen, with a way to have all of one's own."""
    count, mine = len(st.session_state[SELECTION]), set(own)
    place = st.expander(f"{count:,} runs chosen, of {len(pool)}") if count > FOLDED_FROM else st.container()
    with place:
        chosen = st.multiselect(
            "Runs to compare",
            list(pool),
            key=SELECTION,
            format_func=lambda name: label(pool[name]) + ("" if name in mine else ", bundled"),
            placeholder="Choose one or more finished runs",
            on_change=_forget_problems,
            persist_state="session",
        )
        if len(own) > FOLDED_FROM and len(chosen) < len(own):
            st.button(f"All {len(own)} finished runs", key="compare_all", on_click=_choose, args=(list(own),), type="tertiary")
    return list(chosen)


def _choose(names: list[str]) -> None:
    st.session_state[SELECTION] = names
    _forget_problems()


def _write(chosen: Sequence[str], own: Sequence[str]) -> None:
    """The choice into the URL; every finished run of this home has one word there, as hundreds of names would make no link."""
    text = draft.EVERY_RUN if len(chosen) > FOLDED_FROM and set(chosen) == set(own) else ",".join(chosen)
    st.session_state[WRITTEN] = text
    draft.note(draft.RUNS, text, usual="")


def _problem(name: str, everything: Sequence[Run]) -> str:
    """Why a run of the URL is not shown."""
    run = next((run for run in everything if run.id == name), None)
    if run is None:
        return f"There is no run {quoted(name)} here: it was deleted, or made on another machine."
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
