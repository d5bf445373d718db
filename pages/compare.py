"""Compare finished runs: errors, task scores, stored sizes, scores plotted against size, and settings that differ."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from offcomp.ui.compare import results
from offcomp.ui.compare.pareto import agreement_measure, show_agreement, show_front
from offcomp.ui.compare.selection import choose_runs
from offcomp.ui.downloads import show_downloads
from offcomp.ui.frame import page

with page("Compare", "Which method keeps more of the model?"):
    runs = choose_runs()
    if runs:
        results.show_answer(runs)
        show_front(runs)
        results.show_figures(runs)
        results.show_origins(runs)
        panels: list[Callable[[], object]] = [partial(results.show_flip_counts, runs)]
        if measure := agreement_measure(runs):
            panels.insert(0, partial(show_agreement, runs, measure))
        if detailed := results.few_enough(runs):
            panels[-1:-1] = [partial(results.show_errors, runs), *results.score_panels(runs), partial(results.show_size, runs)]
        for start in range(0, len(panels), 2):
            for column, panel in zip(st.columns(2, gap="large"), panels[start : start + 2], strict=False):
                with column:
                    panel()
        if detailed:
            results.show_differences(runs)
        show_downloads(runs)
