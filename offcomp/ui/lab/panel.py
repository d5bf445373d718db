"""The plan as one panel, the same on every page of the Lab: model, weights, groups, methods, tasks, budget.

Each part opens in a popover, whose widgets are built only while it is open, so that the ratio slider stays fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from offcomp.methods import all_methods, make_method, method_of_style_key, own_options, plugin_faults
from offcomp.models.bundled_models import MODELS
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.families import KIND_TITLES
from offcomp.numerics.accounting import DTYPE_CHOICES, UNITS
from offcomp.planning.data.metrics import METRICS
from offcomp.planning.data.tasks import find_task
from offcomp.planning.grouping import GROUPINGS, STACK_HELP, STACKS
from offcomp.results.charts.plan_map import plan_map_alt, plan_map_svg
from offcomp.results.model import PARTS
from offcomp.results.targets import PER_POINT, Target, parse_target
from offcomp.ui import draft
from offcomp.ui.escape import plain
from offcomp.ui.frame import palette
from offcomp.ui.jobs import model_info
from offcomp.ui.lab.choices import OWN_TASKS, Choices, read_choices, shown_options, table_identity
from offcomp.ui.link import OWN, RATIOS
from offcomp.ui.uploads import bring_calibration_text, bring_examples

UNIT_HELP = "Compression papers usually count parameters; bytes determine the size on disk."
DTYPE_HELP = "stored: keep the dtype of the checkpoint, so all savings come from the method."
TASKS, BUDGET = "panel_chosen_tasks", "panel_budget_kind"
BUDGETS = {
    "ratio": "a compression ratio",
    "rank": "a rank",
    "energy": "a share of the energy",
    "megabytes": "the size of the whole model",
    "error": "a relative error",
    "loss": "a loss of the score",
}
BUDGET_HELP = "Whichever it is, the plan that meets it is shown at once: sizes and errors are known or estimated before a run."
ALLOCATE_HELP = (
    "Instead of the same ratio for every group, give more to the groups whose error falls fastest, weighted by how much the "
    "task depends on them where that has been measured. Only SVD, whose errors are known at every rank."
)
EQUAL_HELP = "Methods stop at slightly different sizes. This sets all of them to the largest size that each of them can store."
TARGETS: dict[str, tuple[str, Any, Any, Any]] = {
    "rank": ("Rank of every group", 1, 100_000, 8),
    "energy": ("Share of the energy that every group keeps", 0.01, 1.0, 0.05),
    "megabytes": ("Size of the whole model in MB, now {}", 0.001, 1e6, 1.0),
    "error": ("Relative error over the chosen weights, at most", 0.001, 1.0, 0.05),
    "loss": ("Lose at most so many {} of {}", 0.01, 100.0, 0.5),
}
"""Kind of target -> title, smallest and largest value, step."""
FIRST_SHARE = 0.8
"""The first size to aim for, as a share of the whole model."""


def show_panel() -> tuple[Choices, DeltaGenerator]:
    """Show the panel; return the choices and the place for the cost of the runs. Raises ModelError for an unusable model."""
    with st.container(border=True, key="panel"):
        picture, controls = st.columns([1, 9], vertical_alignment="center", gap="small")
        with controls:
            with st.container(horizontal=True, gap="xsmall", vertical_alignment="center", key="panel_parts"):
                info = model_info(choose_model())
                _part("Weights", lambda: _choose_modules(info))
                _part("Groups", _choose_grouping)
                _part("Methods", _choose_methods)
                _part("Tasks", lambda: _choose_tasks(info))
                _part("Budget", lambda: _choose_budget(info))
            slider, cost = st.columns([5, 4], vertical_alignment="bottom", gap="medium")
            with slider:
                choose_size(info)
            choices = read_choices(info)
            st.caption(plain(choices.summary))
        names = {spec.name for spec in choices.specs}
        picture.image(plan_map_svg(info, names, palette()), width="stretch", alt=plan_map_alt(info, names))
    return choices, cost


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
        width=240,
    )
    return str(chosen or MODELS[0].name)


def choose_size(info: ModelInfo) -> None:
    """Let the user choose the size: the ratio by a slider, or the value of another target."""
    if st.session_state["target"]:
        _choose_target_value(parse_target(st.session_state["target"]), info)
    else:
        st.select_slider(
            "Compression ratio", RATIOS, key="ratio", format_func=lambda value: f"{value:g}x", persist_state="session"
        )


def _choose_target_value(target: Target, info: ModelInfo) -> None:
    title, low, high, step = TARGETS[target.kind]
    scale = PER_POINT if target.kind == "loss" else 1
    if target.kind == "loss":
        title = title.format("% of its score" if target.relative else "points", target.task or "the first task")
    if target.kind == "megabytes":
        title = title.format(f"{info.num_bytes / 1e6:.1f}")
    key = f"panel_target_{target.kind}"
    st.session_state[key] = type(step)(target.value * scale)

    def change() -> None:
        st.session_state["target"] = str(replace(target, value=st.session_state[key] / scale))

    shown = "%d" if isinstance(step, int) else "%.3g"
    st.number_input(plain(title), low, high, step=step, format=shown, key=key, on_change=change)


def _first_target(kind: str, info: ModelInfo) -> str:
    """Return a target of a kind to begin with."""
    tasks = [find_task(name) for name in draft.tasks(info)]
    scored = next((task for task in tasks if METRICS[task.kind.metric].most == 1 or "perplexity" in task.kind.metric), None)
    first = {
        "ratio": "",
        "rank": "rank 64",
        "energy": "energy 0.9",
        "megabytes": f"{max(1, round(info.num_bytes * FIRST_SHARE / 1e6))} MB",
        "error": "error 0.3",
        "loss": "lose 1 point",
    }[kind]
    if kind == "loss" and scored:
        first = f"lose {'5 %' if 'perplexity' in scored.kind.metric else '1 point'} of {scored.name}"
    return first


def _rows(info: ModelInfo) -> dict[tuple[str, str], list[ModuleSpec]]:
    """Return the rows of the grid: the modules compressed by default, grouped by part and kind."""
    rows: dict[tuple[str, str], list[ModuleSpec]] = {}
    for spec in info.modules:
        if spec.default:
            rows.setdefault((spec.part, spec.kind), []).append(spec)
    kinds = list(KIND_TITLES)
    return dict(sorted(rows.items(), key=lambda row: (PARTS.index(row[0][0]), kinds.index(row[0][1]))))


def _choose_modules(info: ModelInfo) -> None:
    """Show a grid with a checkbox per kind and a pill per layer, and all other weights in an expander below it."""
    names = {spec.name for spec in draft.modules(info)}
    for (part, kind), specs in _rows(info).items():
        title = f"{part} {KIND_TITLES[kind]}".strip()
        _choose_row(info, f"{info.fingerprint[:8]}_{part}_{kind}", title, specs, names)
    other_weights = {spec.name: spec for spec in info.modules if not spec.default and min(spec.shape) > 1}
    if other_weights:
        with st.expander("Other weights", expanded=not _rows(info)):
            key = f"others_{info.fingerprint[:8]}"
            st.session_state[key] = [name for name in other_weights if name in names]
            st.multiselect(
                "Poolers, heads, position embeddings and unrecognised weights",
                list(other_weights),
                key=key,
                on_change=lambda: draft.replace(info, other_weights, st.session_state[key]),
                help="These weights are listed by path and compressed only if you choose them.",
            )


def _choose_row(info: ModelInfo, key: str, title: str, specs: Sequence[ModuleSpec], names: set[str]) -> None:
    """Show the grid row of one kind. Its checkbox selects or clears all layers and is ticked if any layer is selected."""
    by_layer = {spec.layer if spec.layer is not None else "all": spec for spec in specs}
    tick, pills = f"kind_{key}", f"layers_{key}"
    st.session_state[pills] = [layer for layer, spec in by_layer.items() if spec.name in names]
    st.session_state[tick] = bool(st.session_state[pills])
    row = [spec.name for spec in specs]

    def choose_all_or_none() -> None:
        draft.replace(info, row, row if st.session_state[tick] else ())

    def choose_layers() -> None:
        draft.replace(info, row, [by_layer[layer].name for layer in st.session_state[pills]])

    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"row_{key}"):
        st.checkbox(plain(title), key=tick, on_change=choose_all_or_none, width=150)
        st.pills(
            plain(f"{title}: layers"),
            list(by_layer),
            selection_mode="multi",
            key=pills,
            on_change=choose_layers,
            label_visibility="collapsed",
        )


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
    _choose_calibration()


def _choose_calibration() -> None:
    """Let the user choose the text for methods that are calibrated on text, if there are any."""
    choices = [method for method in all_methods() if method.style_key in (st.session_state["methods"] or [])]
    if any(_is_calibrated(method) for method in choices):
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
    """Let the user choose the tasks to score the result on, from the bundled tasks that the model supports, and their own."""
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


def _choose_budget(info: ModelInfo) -> None:
    """Let the user choose what the budget is, how it is spent, the storage dtype and the seed."""
    current = st.session_state["target"]
    st.session_state[BUDGET] = parse_target(current).kind if current else "ratio"

    def change() -> None:
        st.session_state["target"] = _first_target(st.session_state[BUDGET], info)

    st.selectbox(
        "The budget is", list(BUDGETS), format_func=BUDGETS.__getitem__, key=BUDGET, on_change=change, help=BUDGET_HELP
    )
    st.toggle("Spend it where it hurts least", key="allocate", persist_state="session", help=ALLOCATE_HELP)
    st.toggle("Same bytes for all methods", key="equal_bytes", persist_state="session", help=EQUAL_HELP)
    _radio("The ratio counts", UNITS, "unit", UNIT_HELP)
    _radio("Store numbers as", DTYPE_CHOICES, "dtype", DTYPE_HELP)
    st.number_input("Seed", 0, 2**31 - 1, key="seed", persist_state="session")


def _radio(label: str, options: Sequence[str], key: str, description: str) -> str:
    return str(
        st.radio(plain(label), options, key=key, horizontal=True, persist_state="session", help=plain(description) or None)
    )
