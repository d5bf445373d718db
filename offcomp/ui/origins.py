"""Where the numbers of a page come from, run by run, for whoever asks."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from offcomp.answers import origin_text
from offcomp.results import label
from offcomp.runs import Run
from offcomp.ui.plain import plain

MOST_NAMED = 20


def show_origins(runs: Sequence[Run]) -> None:
    """Each run with whose it is, its plan, seed, versions and machine, folded away."""
    with st.expander("Where these numbers come from"):
        for run in runs[:MOST_NAMED]:
            st.caption(f"**{plain(label(run))}**. {plain(origin_text(run))}")
        if len(runs) > MOST_NAMED:
            st.caption(f"{MOST_NAMED} of {len(runs)} are shown; the downloads below have all.")
