"""Start: a real measurement at once, and the way to one's own."""

import streamlit as st

from offcomp.answers import first_impression, provenance
from offcomp.bundled import bundled_runs, missing_files
from offcomp.ui.frame import page
from offcomp.ui.plain import plain
from offcomp.ui.results import show_figures, show_first_errors

WITHOUT_RUNS = "Choose some weights of a transformer, store them smaller, and measure what the model can still do."

with page("Start", "Shrink a language model and see what breaks."):
    runs = bundled_runs()
    st.markdown(plain(first_impression(runs) if runs else WITHOUT_RUNS))
    with st.container(horizontal=True):
        if st.button("Try it", type="primary", key="start_try", icon=":material/compress:"):
            st.switch_page("pages/compress.py")
        if runs and st.button("See the comparison", key="start_compare", icon=":material/compare_arrows:"):
            st.switch_page("pages/compare.py", query_params={"runs": ",".join(run.id for run in runs)})
    if missing := missing_files():
        st.warning(plain(f"Measurements that come with offcomp are missing: {', '.join(missing)}. Install it again."))
    if runs:
        figures, chart = st.columns(2, gap="large")
        with figures:
            show_figures(runs, brief=True, abreast=1)
        with chart:
            show_first_errors(runs)
        st.caption(plain(f"Bundled measurement: {provenance(runs)}. Nothing here was computed just now."))
