"""The plan as one panel, the same on every page of the Lab: model, weights, groups, methods, tasks, budget.

Each part opens in a popover, whose widgets are built only while it is open, so that the ratio slider stays fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from offcomp.methods import all_methods, make_method, method_of_style_key, own_options, plugin_faults
from offcomp.models.bundled_models import MODELS
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.data.tasks import find_task
from offcomp.planning.grouping import GROUPINGS, STACK_HELP, STACKS
from offcomp.planning.plan import CORRECTIONS, NOTHING
from offcomp.results.charts.plan_map import plan_map_alt, plan_map_svg
from offcomp.results.targets import SENSITIVITY
from offcomp.ui import draft
from offcomp.ui.escape import plain
from offcomp.ui.frame import palette
from offcomp.ui.jobs import model_info
from offcomp.ui.lab.budget import choose_budget, choose_size
from offcomp.ui.lab.choices import OWN_TASKS, Choices, read_choices, shown_options, table_identity
from offcomp.ui.lab.weights import choose_modules
from offcomp.ui.link import OWN
from offcomp.ui.uploads import bring_calibration_text, bring_examples

TASKS = "panel_chosen_tasks"


def show_panel() -> tuple[Choices, DeltaGenerator]:
    """Show the panel; return the choices and the container for the run cost. Raises ModelError for an unusable model."""
    with st.container(border=True, key="panel"):
        picture, controls = st.columns([1, 9], vertical_alignment="center", gap="small")
        with controls:
            with st.container(horizontal=True, gap="xsmall", vertical_alignment="center", key="panel_parts"):
                info = model_info(choose_model())
                _part("Weights", lambda: choose_modules(info))
                _part("Groups", _choose_grouping)
                _part("Methods", _choose_methods)
                _part("Tasks", lambda: _choose_tasks(info))
                _part("Budget", lambda: choose_budget(info))
            slider, text = st.columns([4, 5], vertical_alignment="center", gap="medium")
            with slider:
                choose_size(info)
            choices = read_choices(info)
            summary = text.container(gap="xxsmall")
            summary.caption(plain(choices.summary))
        names = {spec.name for spec in choices.specs}
        picture.image(plan_map_svg(info, names, palette()), width="stretch", alt=plan_map_alt(info, names))
    return choices, summary


def _part(title: str, show: Callable[[], object]) -> None:
    """Show one part of the plan in a popover. The title does not change, since that would close the popover."""
    popover = st.popover(plain(title), key=f"panel_{title.lower()}", on_change="rerun")
    if popover.open:
        with popover:
            show()


def choose_model() -> str:
    """Let the user choose a model from the catalogue, or enter any folder or hub id."""
    titles = {entry.name: entry.title for entry in MODELS}
    known = list(dict.fromkeys([*titles, st.session_state["model"]]))
    chosen = st.selectbox(
        "Model",
        known,
        format_func=lambda name: titles.get(name, name),
        key="model",
        accept_new_options=True,
        persist_state="session",
        on_change=draft.forget_modules,
        placeholder="A model, a folder or a hub id",
        label_visibility="collapsed",
        width=285,
    )
    return str(chosen or MODELS[0].name)


def _choose_grouping() -> None:
    """Let the user choose the grouping, the stacking and the number of layers per block."""
    own = [OWN] if draft.groups() else []
    grouping = st.selectbox(
        "Compress together",
        [*own, *GROUPINGS],
        format_func=lambda name: GROUPINGS[name][0] if name in GROUPINGS else f"Custom groups ({len(draft.groups())})",
        key="grouping",
        persist_state="session",
        help="Modules in the same group are compressed as one matrix and share a basis or a decoder.",
    )
    st.selectbox(
        "Stacking",
        ["best", *STACKS],
        key="stack",
        persist_state="session",
        disabled=grouping == OWN,
        help="  \n".join(f"**{plain(name)}**: {plain(text)}" for name, text in STACK_HELP.items()),
    )
    if grouping == "blocks":
        st.number_input("Layers per block", 1, 48, key="block", persist_state="session")


def _choose_methods() -> None:
    """Let the user choose the methods to compare and set the options of each."""
    st.pills(
        "Methods to compare",
        [method.style_key for method in all_methods()],
        selection_mode="multi",
        format_func=lambda style_key: plain(method_of_style_key(style_key).title),
        key="methods",
        persist_state="session",
        wrap=True,
    )
    for fault in plugin_faults():
        st.warning(plain(fault))
    for method in all_methods():
        if method.style_key in (st.session_state["methods"] or []) and (shown := shown_options(method)):
            with st.expander(plain(f"{method.title} options")):
                st.caption(plain(method.paper))
                for option in shown:
                    _option_widget(method.style_key, option.name, option.default, option.metadata)
    correct = st.segmented_control(
        "Correct afterwards",
        list(CORRECTIONS),
        key="correct",
        required=True,
        persist_state="session",
        help="  \n".join(f"**{plain(name)}**: {plain(text)}" for name, text in CORRECTIONS.items()),
    )
    _choose_calibration(is_needed=correct != NOTHING)


def _choose_calibration(*, is_needed: bool) -> None:
    """Let the user choose the calibration text, if it is needed for corrections, for a method, or to measure sensitivities."""
    choices = [method for method in all_methods() if method.style_key in (st.session_state["methods"] or [])]
    by_sensitivity = st.session_state["allocate"] and st.session_state["weighting"] == SENSITIVITY
    if is_needed or by_sensitivity or any(_is_calibrated(method) for method in choices):
        with st.expander("Calibration text"):
            bring_calibration_text()


def _is_calibrated(method: Any) -> bool:
    options = {
        option.name: st.session_state.get(draft.option_key(method.style_key, option.name), option.default)
        for option in shown_options(method)
    }
    return bool(make_method(method.name, own_options(method) | options).calibrated)


def _option_widget(style_key: str, name: str, default: Any, metadata: Any) -> Any:
    """Show the widget for one option, based on the type of its default, its choices or range, and its help text."""
    key, label = draft.option_key(style_key, name), plain(name.replace("_", " "))
    help_text = plain(metadata.get("help", "")) or None
    if isinstance(default, bool):
        return st.checkbox(label, default, key=key, help=help_text, persist_state="session")
    if "choices" in metadata:
        choices = list(metadata["choices"])
        return st.selectbox(
            label, choices, choices.index(default), key=key, help=help_text, persist_state="session", disabled=len(choices) == 1
        )
    low, high = metadata["range"]
    step = 1 if isinstance(default, int) else None
    shown = "%d" if step else "%.4g"
    return st.number_input(label, low, high, default, step=step, format=shown, key=key, help=help_text, persist_state="session")


def _choose_tasks(info: ModelInfo) -> None:
    """Let the user choose from the bundled tasks that the model supports, and add a task made from their own table."""
    st.session_state[TASKS] = list(draft.tasks(info))
    st.multiselect(
        "Tasks",
        draft.fitting_tasks(info),
        format_func=lambda name: find_task(name).title,
        key=TASKS,
        on_change=lambda: draft.choose_tasks(st.session_state[TASKS]),
        placeholder="No task: errors and sizes only",
        help="The model is scored on the same examples before and after compression. Each task adds a few seconds to a run. "
        "To use a task from the Hugging Face Hub, edit the plan or use the command line; see `offcomp tasks`.",
    )
    st.session_state[OWN_TASKS] = (table_identity(info), bring_examples(info))
