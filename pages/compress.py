"""Choose modules, grouping, methods and ratio; see at once what SVD would do; run."""

import streamlit as st

from offcomp.tasks import Task
from offcomp.ui import draft
from offcomp.ui.bring import bring_examples
from offcomp.ui.choices import (
    Choices,
    choose_grouping,
    choose_methods,
    choose_model,
    choose_modules,
    choose_storage,
    choose_tasks,
)
from offcomp.ui.frame import page
from offcomp.ui.jobs import model_info
from offcomp.ui.plain import plain
from offcomp.ui.whatif import what_if

with page("Compress", "What if these weights were smaller?"):
    controls, answer = st.columns([5, 6], gap="large")
    with controls:
        info = model_info(choose_model())
        layers = f"{info.num_layers} layer{'s' * (info.num_layers != 1)}"
        st.caption(plain(f"{info.architecture}, {info.num_parameters / 1e6:.1f} M parameters, {layers}. Numbers are layers."))
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
            where = "Tick a kind, query for example," if info.family else "Its family is unknown: choose from its other weights"
            st.info(f"No module is chosen. {where} to see what compressing it would do.")
