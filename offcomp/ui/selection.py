"""Which finished runs Compare and Examples show: those of the URL, else the newest that belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from offcomp.bundled import bundled_runs, origin
from offcomp.plain_text import quoted
from offcomp.results import default_selection, label, method_title, unfinished_siblings
from offcomp.runs import Run, RunStore
from offcomp.ui import draft
from offcomp.ui.plain import plain

SELECTION = "compare_runs"
PROBLEMS = "compare_problems"
WRITTEN = "compare_written"
USUAL = "compare_usual"
"""Whether the choice is the one that the page makes where nobody chose."""
MOST_COMPARED = 100
"""More marks would hide each other, and so many names would make the page wait."""
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
    chosen = _ask(pool, _newest(own))
    if own and st.session_state[USUAL] and len(chosen) < len(pool):
        more = f"{len(pool) - len(chosen):,} more can be chosen above."
        st.caption(plain(f"{_which([pool[name] for name in chosen])} {more}"))
    for problem in st.session_state.get(PROBLEMS, []):
        st.warning(plain(problem), icon=":material/info:")
    _write(chosen, _newest(own))
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
    return (
        "the newest runs" if chosen == [draft.EVERY_RUN] else f"{len(chosen)} run{'s' * (len(chosen) != 1)}" if chosen else ""
    )


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
    found = [name for name in names if name in finished]
    missing = [name for name in names if name not in finished]
    state[PROBLEMS] = [_problem(name, everything) for name in missing[:MOST_PROBLEMS]]
    if len(missing) > MOST_PROBLEMS:
        state[PROBLEMS].append(f"{len(missing) - MOST_PROBLEMS:,} more runs of the link cannot be shown.")
    if len(found) > MOST_COMPARED:
        which = "newest" if asked == draft.EVERY_RUN else "first"
        state[PROBLEMS].append(f"The {which} {MOST_COMPARED} of {len(found):,} runs are compared; choose others above.")
    state[USUAL] = not found
    state[SELECTION] = found[:MOST_COMPARED] or default_selection(own, bundled)


def _which(usual: Sequence[Run]) -> str:
    """What `default_selection` found."""
    pair = len(set(map(method_title, usual))) == len(usual) > 1
    return f"At first, the newest {'run of each method at one ratio' if pair else 'runs'} on the same weights."


def _newest(own: Sequence[Run]) -> list[str]:
    """Ids of one's own finished runs, as many as can be compared."""
    return [run.id for run in own[:MOST_COMPARED]]


def _ask(pool: Mapping[str, Run], newest: Sequence[str]) -> list[str]:
    """The widget; folded away where many runs are chosen, with a way to have the newest of one's own."""
    count = len(st.session_state[SELECTION])
    place = st.expander(f"{count:,} runs chosen, of {len(pool):,}") if count > FOLDED_FROM else st.container()
    with place:
        chosen = st.multiselect(
            "Runs to compare",
            list(pool),
            key=SELECTION,
            format_func=lambda name: label(pool[name]) + (", bundled" if origin(pool[name]) == "bundled" else ""),
            placeholder="Choose one or more finished runs",
            max_selections=MOST_COMPARED,
            on_change=_chosen_by_hand,
            persist_state="session",
        )
        if len(newest) > FOLDED_FROM and len(chosen) < len(newest):
            text = f"The newest {len(newest)} finished runs"
            st.button(text, key="compare_all", on_click=_choose, args=(list(newest),), type="tertiary")
    return list(chosen)


def _choose(names: list[str]) -> None:
    st.session_state[SELECTION] = names
    _chosen_by_hand()


def _write(chosen: Sequence[str], newest: Sequence[str]) -> None:
    """The choice into the URL; the newest runs of this home have one word there, as many names would make no link."""
    text = draft.EVERY_RUN if len(chosen) > FOLDED_FROM and set(chosen) == set(newest) else ",".join(chosen)
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


def _chosen_by_hand() -> None:
    st.session_state.update({PROBLEMS: [], USUAL: False})


def _invite() -> None:
    """What a home without finished runs says."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("You have no finished run yet, so this shows the measurements that come with offcomp.", width="stretch")
        if st.button("Compress something", key="compare_compress", icon=":material/compress:"):
            st.switch_page("pages/compress.py")
