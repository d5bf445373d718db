"""Compare finished runs: errors, scores, size, what differs, and which predictions changed."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from offcomp.ui.frame import page
from offcomp.ui.results import show_answer, show_differences, show_downloads, show_errors, show_figures, show_size
from offcomp.ui.scores import score_panels, show_changes, show_flip_counts, show_flips
from offcomp.ui.selection import choose_runs

with page("Compare", "Which method keeps more of the model?"):
    runs = choose_runs()
    if runs:
        show_answer(runs)
        show_figures(runs)
        panels: list[Callable[[], None]] = [
            partial(show_errors, runs),
            *score_panels(runs),
            partial(show_size, runs),
            partial(show_flip_counts, runs),
        ]
        for start in range(0, len(panels), 2):
            for column, panel in zip(st.columns(2, gap="large"), panels[start : start + 2], strict=False):
                with column:
                    panel()
        show_flips(runs)
        show_changes(runs)
        show_differences(runs)
        show_downloads(runs)
