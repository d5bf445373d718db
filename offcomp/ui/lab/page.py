"""A page of the Lab: the question with the Run button, the plan, what is known about it, and then the page's own content."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import streamlit as st

from offcomp.runs.resident import warm_up
from offcomp.ui.escape import plain
from offcomp.ui.frame import fragment, page
from offcomp.ui.lab.answers import Lab, lab_of
from offcomp.ui.lab.cost import show_cost
from offcomp.ui.lab.panel import show_panel
from offcomp.ui.lab.run import STARTED, run_button, show_progress, to_run
from offcomp.ui.lab.sensitivity import offer_sensitivity
from offcomp.ui.lab.sentence import show_sentence
from offcomp.ui.lab.strip import show_notes, show_strip, strip_sentence

SEEN = "lab_seen"
"""Session state key: the identity of the model that the Lab showed last."""


def lab_page(
    name: str,
    question: str,
    show: Callable[[Lab], object],
    *,
    below: Callable[[], object] = lambda: None,
    always_compares: bool = False,
) -> None:
    """Draw a page of the Lab.

    show                draws the part of the page that depends on the plan
    below               draws the part that does not, even if the model cannot be used
    always_compares     show the strip even before anything has run
    """
    with page(name):
        st.fragment(_lab)(question, show, always_compares)
        below()


@fragment()
def _lab(question: str, show: Callable[[Lab], object], always_compares: bool) -> None:
    """Draw the title, the plan and what depends on it in a fragment, so that a change of plan does not rerun the whole page."""
    with st.container(horizontal=True, vertical_alignment="center", key="lab_head"):
        st.title(plain(question), anchor=False, width="stretch")
        place = st.container(width="content")
    choices, cost_place = show_panel()
    lab = lab_of(choices)
    with place:
        started = run_button(lab)
    if started:
        st.rerun()  # so that the button and the sidebar show that the runs are under way
    _warm_up(lab)
    if lab.answers:
        with cost_place:
            show_cost(lab)
        show_progress(lab)
    if lab.answers and (always_compares or _was_started(lab)):
        if sentence := strip_sentence(lab):
            st.markdown(plain(sentence))
        show_strip(lab)
        show_notes(lab)
        offer_sensitivity(lab)
        show_sentence(lab)
    show(lab)


def _was_started(lab: Lab) -> bool:
    """Return whether this session has started a run of the current draft."""
    started = st.session_state.get(STARTED, ())
    return any(answer.run and answer.run.id in started for answer in lab.answers)


def _warm_up(lab: Lab) -> None:
    """Load the model in the background once the user has changed something, so that the first run starts sooner."""
    model = lab.choices.info.reads
    if st.session_state.get(SEEN) == model and to_run(lab):
        with suppress(OSError):
            warm_up(lab.choices.info)
    st.session_state[SEEN] = model
