"""One weight matrix: its singular values, what a given rank keeps, and where the residual is large."""

import streamlit as st

from offcomp.ui import draft
from offcomp.ui.escape import plain
from offcomp.ui.frame import page
from offcomp.ui.inspect.page import show_matrix
from offcomp.ui.jobs import model_info

with page("Inspect", "How compressible is this matrix?"):
    info = model_info(draft.model())
    if info.modules:
        st.fragment(show_matrix)(info)
    else:
        st.info(f"{plain(info.model)} has no weight matrices. Choose another model on the Model page.")
