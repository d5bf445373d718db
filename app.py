"""The Start page: a bundled measurement, and buttons to compress a model and to compare runs."""

import streamlit as st

from offcomp.results.bundled import bundled_runs, missing_files
from offcomp.results.sentences import first_impression, provenance
from offcomp.ui.compare.results import show_figures, show_first_errors
from offcomp.ui.escape import plain
from offcomp.ui.frame import page

WITHOUT_RUNS = "Choose some weights of a transformer, compress them, and measure what the model can still do."

with page("Start", "Shrink a language model and see what breaks."):
    runs = bundled_runs()
    st.markdown(plain(first_impression(runs) if runs else WITHOUT_RUNS))
    with st.container(horizontal=True):
        if st.button("Try it", type="primary", key="start_try", icon=":material/compress:"):
            st.switch_page("pages/compress.py")
        if runs and st.button("See the comparison", key="start_compare", icon=":material/compare_arrows:"):
            st.switch_page("pages/compare.py", query_params={"runs": ",".join(run.id for run in runs)})
    if missing := missing_files():
        st.warning(plain(f"Bundled measurements are missing: {', '.join(missing)}. Reinstall offcomp."))
    if runs:
        figures, chart = st.columns(2, gap="large")
        with figures:
            show_figures(runs, brief=True, columns=1)
        with chart:
            show_first_errors(runs)
        st.caption(plain(f"Bundled measurement: {provenance(runs)}. Nothing on this page was computed live."))
