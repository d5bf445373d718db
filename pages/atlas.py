"""Bundled measurements: quality against bytes, six methods at many sizes, and the effect of compressing each matrix alone."""

import streamlit as st

from offcomp.results.atlas import read_measurements, sweep_answer, sweep_table
from offcomp.ui.atlas.frontier import show_frontier
from offcomp.ui.atlas.page import choose_model, choose_view, show_nothing, show_provenance, show_sensitivity, show_sweep
from offcomp.ui.escape import plain
from offcomp.ui.frame import page

with page("Atlas", "What does each method keep at each size?"):
    documents = read_measurements()
    if documents:
        document = documents[choose_model(list(documents))]
        if show_frontier(document["model"]):
            st.subheader("What if only the linear weights are compressed, or a single matrix?")
        answer = st.empty()
        task, denominator, grouping = choose_view(document)
        answer.markdown(plain(sweep_answer(sweep_table(document, task))))
        sweep, sensitivity = st.columns([6, 5], gap="large")
        with sweep:
            show_sweep(document, task, denominator, grouping)
        with sensitivity:
            show_sensitivity(document, task)
        show_provenance(document)
    else:
        show_nothing()
