"""Compare finished runs: score against size, errors, task scores, stored size, and differing settings."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from offcomp.ui.compare.origins import show_origins
from offcomp.ui.compare.pareto import agreement_measure, show_agreement, show_front
from offcomp.ui.compare.results import few_enough, show_answer, show_differences, show_errors, show_figures, show_size
from offcomp.ui.compare.scores import score_panels, show_flip_counts
from offcomp.ui.compare.selection import choose_runs
from offcomp.ui.downloads import show_downloads
from offcomp.ui.frame import page

with page("Compare", "Which method keeps more of the model?"):
    runs = choose_runs()
    if runs:
        show_answer(runs)
        show_front(runs)
        show_figures(runs)
        show_origins(runs)
        panels: list[Callable[[], None]] = [partial(show_flip_counts, runs)]
        if measure := agreement_measure(runs):
            panels.insert(0, partial(show_agreement, runs, measure))
        if detailed := few_enough(runs):
            panels[-1:-1] = [partial(show_errors, runs), *score_panels(runs), partial(show_size, runs)]
        for start in range(0, len(panels), 2):
            for column, panel in zip(st.columns(2, gap="large"), panels[start : start + 2], strict=False):
                with column:
                    panel()
        if detailed:
            show_differences(runs)
        show_downloads(runs)
