"""Provenance of the numbers on a page, run by run."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from offcomp.results.runs import label
from offcomp.results.sentences import origin_text
from offcomp.runs.store import Run
from offcomp.ui.escape import plain

MOST_NAMED = 20


def show_origins(runs: Sequence[Run]) -> None:
    """List each run's owner, plan, seed, versions and machine, in a collapsed section."""
    with st.expander("Where these numbers come from"):
        for run in runs[:MOST_NAMED]:
            st.caption(f"**{plain(label(run))}**. {plain(origin_text(run))}")
        if len(runs) > MOST_NAMED:
            st.caption(f"{MOST_NAMED} of {len(runs)} are shown; the downloads below include all of them.")
