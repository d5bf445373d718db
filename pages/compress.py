"""Choose modules, grouping, methods and ratio; preview the exact SVD error; start the runs."""

import streamlit as st

from offcomp.planning.data.tasks import Task
from offcomp.ui import draft
from offcomp.ui.compress.choices import (
    Choices,
    choose_grouping,
    choose_methods,
    choose_model,
    choose_modules,
    choose_storage,
    choose_tasks,
)
from offcomp.ui.compress.preview import what_if
from offcomp.ui.escape import plain
from offcomp.ui.frame import page
from offcomp.ui.jobs import model_info
from offcomp.ui.uploads import bring_examples

with page("Compress", "What if these weights were smaller?"):
    controls, answer = st.columns([5, 6], gap="large")
    with controls:
        info = model_info(choose_model())
        layers = f"{info.num_layers} layer{'s' * (info.num_layers != 1)}"
        st.caption(
            plain(f"{info.architecture}, {info.num_parameters / 1e6:.1f} M parameters, {layers}. Numbers denote layers.")
        )
        specs = choose_modules(info)
        grouping, stack, block = choose_grouping()
        methods, options = choose_methods()
        tasks: tuple[str | Task, ...] = (*choose_tasks(info), *bring_examples(info))
        unit, dtype, seed = choose_storage()
    with answer:
        if specs:
            choices = Choices(info, specs, grouping, stack, block, methods, options, unit, dtype, seed, tasks, draft.groups())
            st.fragment(what_if)(choices)
        else:
            where = "Tick a kind, query for example," if info.family else "The family is unknown: choose from its other weights"
            st.info(f"No module is selected. {where} to see what compressing it would do.")
