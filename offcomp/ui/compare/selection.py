"""The choice of finished runs on Compare and Examples: those in the URL, or by default the newest comparable ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from offcomp.plain_text import quoted
from offcomp.results.bundled import bundled_runs, origin
from offcomp.results.runs import default_selection, label, method_title, unfinished_siblings
from offcomp.runs.store import Run, RunStore
from offcomp.ui import draft
from offcomp.ui.escape import plain

SELECTION = "compare_runs"
PROBLEMS = "compare_problems"
WRITTEN = "compare_written"
DEFAULT = "compare_usual"
"""Session state key of the flag that marks a default choice."""
MAX_COMPARED = 100
"""With more runs, marks would overlap and the long list of names would slow the page down."""
COLLAPSED_FROM = 9
"""When more runs than this are chosen, the list is collapsed to keep the page's answer in view."""
SIBLINGS_SHOWN = 3
MAX_PROBLEMS = 5


def choose_runs() -> list[Run]:
    """Return the runs to show: those in the URL, or else the newest comparable ones. Compare and Examples share the choice.

    The choice is written back to the URL. A link is applied only if it differs from the last URL written.
    """
    everything = RunStore().all()
    own = [run for run in everything if run.status == "done"]
    own_ids = {run.id for run in own}
    bundled = [run for run in bundled_runs() if run.id not in own_ids]
    pool = {run.id: run for run in [*own, *bundled]}
    _apply_link(everything, own, bundled)
    st.session_state[SELECTION] = [name for name in st.session_state[SELECTION] if name in pool]
    if not own:
        _invite()
    newest = [run.id for run in own[:MAX_COMPARED]]
    chosen = _choose_from(pool, newest)
    runs = [pool[name] for name in chosen]
    if own and st.session_state[DEFAULT] and len(chosen) < len(pool):
        st.caption(plain(f"{_default_text(runs)} {len(pool) - len(chosen):,} more can be chosen above."))
    problems = st.session_state.get(PROBLEMS, [])
    for problem in problems:
        st.warning(plain(problem), icon=":material/info:")
    _write(chosen, newest)
    if not chosen:
        st.info("Choose at least one run above.")
    for run in [] if problems else unfinished_siblings(runs, everything)[:SIBLINGS_SHOWN]:
        st.caption(plain(f"Not shown: {label(run)}, {run.status}. {run.error}"))
    return runs


def compared() -> str:
    """Describe how many runs are chosen; empty if none. Until a new link is applied, its runs are counted instead."""
    chosen = _linked_ids() if _link_is_new() else st.session_state[SELECTION]
    if chosen == [draft.EVERY_RUN]:
        return "the newest runs"
    return f"{len(chosen)} run{'s' * (len(chosen) != 1)}" if chosen else ""


def _linked_ids() -> list[str]:
    return [name for name in dict.fromkeys(st.query_params.get(draft.RUNS, "").split(",")) if name]


def _link_is_new() -> bool:
    """Return whether the URL's runs still need to be applied: true on the first visit or if the page did not write the URL."""
    state = st.session_state
    return SELECTION not in state or st.query_params.get(draft.RUNS, "") not in ("", state.get(WRITTEN))


def _apply_link(everything: Sequence[Run], own: Sequence[Run], bundled: Sequence[Run]) -> None:
    """Select the runs in the URL unless the page itself wrote them; if there are none, select the newest comparable runs."""
    state, linked = st.session_state, st.query_params.get(draft.RUNS, "")
    if not _link_is_new():
        return
    finished = {run.id for run in [*own, *bundled]}
    names = [run.id for run in own] if linked == draft.EVERY_RUN else _linked_ids()
    available = [name for name in names if name in finished]
    missing = [name for name in names if name not in finished]
    state[PROBLEMS] = [_problem(name, everything) for name in missing[:MAX_PROBLEMS]]
    if len(missing) > MAX_PROBLEMS:
        more = len(missing) - MAX_PROBLEMS
        state[PROBLEMS].append(f"{more:,} more {'run' if more == 1 else 'runs'} in the link cannot be shown.")
    if len(available) > MAX_COMPARED:
        which = "newest" if linked == draft.EVERY_RUN else "first"
        state[PROBLEMS].append(f"Comparing the {which} {MAX_COMPARED} of {len(available):,} runs; choose others above.")
    state[DEFAULT] = not available
    state[SELECTION] = available[:MAX_COMPARED] or default_selection(own, bundled)


def _default_text(chosen: Sequence[Run]) -> str:
    """Describe what `default_selection` chose."""
    pair = len(set(map(method_title, chosen))) == len(chosen) > 1
    return f"Default selection: the newest {'run of each method at one ratio' if pair else 'runs'} on the same weights."


def _choose_from(pool: Mapping[str, Run], newest: Sequence[str]) -> list[str]:
    """Show the multiselect, collapsed if many runs are chosen, and a button that selects the user's newest runs."""
    count = len(st.session_state[SELECTION])
    target = st.expander(f"{count:,} of {len(pool):,} runs chosen") if count > COLLAPSED_FROM else st.container()
    with target:
        chosen = st.multiselect(
            "Runs to compare",
            list(pool),
            key=SELECTION,
            format_func=lambda name: label(pool[name]) + (", bundled" if origin(pool[name]) == "bundled" else ""),
            placeholder="Choose one or more finished runs",
            max_selections=MAX_COMPARED,
            on_change=_chosen_by_hand,
            persist_state="session",
        )
        if len(newest) > COLLAPSED_FROM and len(chosen) < len(newest):
            text = f"Choose the newest {len(newest)} finished runs"
            st.button(text, key="compare_all", on_click=_choose, args=(list(newest),), type="tertiary")
    return list(chosen)


def _choose(names: list[str]) -> None:
    st.session_state[SELECTION] = names
    _chosen_by_hand()


def _write(chosen: Sequence[str], newest: Sequence[str]) -> None:
    """Write the choice to the URL. The newest runs are written as a single word because a long list of ids would not fit."""
    text = draft.EVERY_RUN if len(chosen) > COLLAPSED_FROM and set(chosen) == set(newest) else ",".join(chosen)
    st.session_state[WRITTEN] = text
    draft.note(draft.RUNS, text, default="")


def _problem(name: str, everything: Sequence[Run]) -> str:
    """Explain why a run in the URL is not shown."""
    run = next((run for run in everything if run.id == name), None)
    if run is None:
        return f"There is no run {quoted(name)} on this machine: it was deleted or belongs to another machine."
    if not run.ended:
        return f"Run {name} is {run.status}; it can be compared once it is done."
    return f"Run {name} has no result to compare ({run.status}). {run.error}"


def _chosen_by_hand() -> None:
    st.session_state.update({PROBLEMS: [], DEFAULT: False})


def _invite() -> None:
    """Explain that there are no finished runs in the home folder yet."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("You have no finished runs yet, so this page shows bundled measurements.", width="stretch")
        if st.button("Compress something", key="compare_compress", icon=":material/compress:"):
            st.switch_page("pages/compress.py")
