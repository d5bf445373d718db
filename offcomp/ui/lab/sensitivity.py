"""A button that measures how sensitive the model is to each group, shown if this is to decide how the budget is divided."""

from __future__ import annotations

from functools import partial

import streamlit as st

from offcomp.planning.cost import duration
from offcomp.runs.sensitivity import estimated_seconds
from offcomp.ui.escape import plain
from offcomp.ui.jobs import request_sensitivity, wait_for
from offcomp.ui.lab.answers import Lab, not_measured

REQUESTED = "lab_sensitivity"
"""Session state key: the identity of the model whose sensitivities this session has asked for."""
HELP = (
    "Each group is compressed alone at three ratios, and the outputs are compared with the original's on 32 calibration texts. "
    "The result is kept on this machine."
)


def offer_sensitivity(lab: Lab) -> None:
    """On request, measure the sensitivities that the budget needs, one method at a time, in a separate process."""
    info = lab.choices.info
    plans = [answer.plan for answer in lab.answers if answer.fault and not_measured(answer.plan, lab.choices)]
    if plans and st.session_state.get(REQUESTED) == info.reads:
        activity = f"Measuring how much the model depends on each of {len(plans[0].groups)} groups. The sizes will follow."
        wait_for(partial(request_sensitivity, info, plans[0]), partial(st.info, activity))
    elif plans:
        seconds = sum(estimated_seconds(plan, info) for plan in plans)
        label = f"Measure how much the model depends on each group (about {duration(seconds)})"
        if st.button(plain(label), key="lab_sensitivity_button", icon=":material/sensors:", help=HELP):
            st.session_state[REQUESTED] = info.reads
            st.rerun()
