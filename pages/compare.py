"""Compare finished runs: errors, accuracy, size, what differs, and which predictions flipped."""

import streamlit as st

from offcomp.ui.frame import page
from offcomp.ui.results import (
    show_accuracy,
    show_answer,
    show_differences,
    show_downloads,
    show_errors,
    show_figures,
    show_flip_counts,
    show_flips,
    show_size,
)
from offcomp.ui.selection import choose_runs

with page("Compare", "Which method keeps more of the model?"):
    runs = choose_runs()
    if runs:
        show_answer(runs)
        show_figures(runs)
        left, right = st.columns(2, gap="large")
        with left:
            show_errors(runs)
        with right:
            show_accuracy(runs)
        left, right = st.columns(2, gap="large")
        with left:
            show_size(runs)
        with right:
            show_flip_counts(runs)
        show_flips(runs)
        show_differences(runs)
        show_downloads(runs)
