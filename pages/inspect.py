"""One weight matrix: its singular values, what a rank keeps of it, and what is lost where."""

import streamlit as st

from offcomp.ui import draft
from offcomp.ui.frame import page
from offcomp.ui.inspect import show_matrix
from offcomp.ui.jobs import model_info
from offcomp.ui.plain import plain

with page("Inspect", "How compressible is this matrix?"):
    info = model_info(draft.model())
    if info.modules:
        st.fragment(show_matrix)(info)
    else:
        st.info(f"{plain(info.model)} has no weight matrix. Choose another model on the page Model.")
