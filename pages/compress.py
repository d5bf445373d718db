"""Choose modules, grouping, methods and ratio, preview the exact SVD error, and start the runs."""

import streamlit as st

from offcomp.ui.compress.choices import choose, choose_model
from offcomp.ui.compress.preview import what_if
from offcomp.ui.escape import plain
from offcomp.ui.frame import page
from offcomp.ui.jobs import model_info

with page("Compress", "What if these weights were smaller?"):
    controls, answer = st.columns([5, 6], gap="large")
    with controls:
        info = model_info(choose_model())
        layers = f"{info.num_layers} layer{'s' * (info.num_layers != 1)}"
        st.caption(
            plain(f"{info.architecture}, {info.num_parameters / 1e6:.1f} M parameters, {layers}. Numbers denote layers.")
        )
        choices = choose(info)
    with answer:
        if choices.specs:
            st.fragment(what_if)(choices)
        else:
            where = (
                "Tick a kind, such as query,"
                if info.family
                else "The model's family is unknown: choose a matrix under Other weights"
            )
            st.info(f"No module is selected. {where} to see what compressing it would do.")
