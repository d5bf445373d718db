"""The choices that make a plan: model, modules, grouping, methods. Widgets keep their state across pages; see `Choices`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from offcomp.grouping import GROUPINGS, STACK_HELP, STACKS
from offcomp.methods import METHODS, method_of_role, options_of, own_options
from offcomp.models.catalogue import MODELS, ModelInfo, ModuleSpec
from offcomp.numerics.accounting import STORAGE_DTYPES, UNITS
from offcomp.plan import Plan, make_groups
from offcomp.tasks import find_task, usual_tasks
from offcomp.theme import KIND_TITLES

RATIOS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 100.0)
DEFAULT_KINDS = ("query", "key")
DEFAULT_METHODS = ("svd", "autoencoder")


@dataclass(frozen=True)
class Choices:
    """What the person chose, from which one plan a method is made. Methods and their options go by role."""

    info: ModelInfo
    specs: tuple[ModuleSpec, ...]
    grouping: str
    stack: str
    block: int
    methods: tuple[str, ...]
    options: dict[str, dict[str, Any]]
    unit: str
    dtype: str
    seed: int
    tasks: tuple[str, ...] = ("sentiment",)

    def plan(self, role: str, ratio: float) -> Plan:
        """The plan of one method at one ratio. Raises InputError."""
        method = method_of_role(role)
        groups = make_groups(
            self.specs,
            self.grouping,
            stack=self.stack,
            block=self.block,
            method=method.name,
            options=own_options(method) | self.options.get(role, {}),
            ratio=ratio,
            unit=self.unit,
            dtype=self.dtype,
        )
        return Plan(self.info.model, groups, self.tasks, self.seed)


def choose_model() -> str:
    """A catalogue model, or whatever folder or hub id is typed."""
    st.session_state.setdefault("model", MODELS[0].name)
    titles = {entry.name: entry.title for entry in MODELS}
    known = list(dict.fromkeys([*titles, st.session_state["model"]]))
    chosen = st.selectbox(
        "Model",
        known,
        format_func=lambda name: titles.get(name, name),
        key="model",
        accept_new_options=True,
        persist_state="session",
        help="A model of the catalogue, or type the path of a folder with config.json and safetensors, or a hub id.",
    )
    return str(chosen or MODELS[0].name)


def _rows(info: ModelInfo) -> dict[tuple[str, str], list[ModuleSpec]]:
    """The grid's rows: the modules of each part and kind that are compressed by default."""
    rows: dict[tuple[str, str], list[ModuleSpec]] = {}
    for spec in info.modules:
        if spec.default:
            rows.setdefault((spec.part, spec.kind), []).append(spec)
    parts, kinds = ("", "encoder", "decoder", "cross"), list(KIND_TITLES)
    return dict(sorted(rows.items(), key=lambda row: (parts.index(row[0][0]), kinds.index(row[0][1]))))


def choose_modules(info: ModelInfo) -> tuple[ModuleSpec, ...]:
    """Layer x kind grid: a tick for a whole kind, a pill for each layer; other weights folded away below."""
    chosen: list[ModuleSpec] = []
    for (part, kind), specs in _rows(info).items():
        title = f"{part} {KIND_TITLES[kind]}".strip()
        chosen += _choose_row(f"{info.fingerprint[:8]}_{part}_{kind}", title, specs, kind in DEFAULT_KINDS)
    others = {spec.name: spec for spec in info.modules if not spec.default and min(spec.shape) > 1}
    if others:
        with st.expander("Other weights", expanded=not _rows(info)):
            names = st.multiselect(
                "Poolers, heads, positions and unknown weights",
                list(others),
                key=f"others_{info.fingerprint[:8]}",
                persist_state="session",
                help="Listed by their path in the model. They are not compressed unless you choose them.",
            )
        chosen += [others[name] for name in names]
    return tuple(chosen)


def _choose_row(key: str, title: str, specs: Sequence[ModuleSpec], selected: bool) -> list[ModuleSpec]:
    """One kind of the grid. The tick takes or drops all layers; it is on while any layer is."""
    by_layer = {spec.layer if spec.layer is not None else "all": spec for spec in specs}
    tick, pills = f"kind_{key}", f"layers_{key}"
    st.session_state.setdefault(pills, list(by_layer) if selected else [])
    st.session_state[tick] = bool(st.session_state[pills])

    def take_or_drop() -> None:
        st.session_state[pills] = list(by_layer) if st.session_state[tick] else []

    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"row_{key}"):
        st.checkbox(title, key=tick, on_change=take_or_drop, width=150)
        layers = st.pills(
            f"{title}: layers",
            list(by_layer),
            selection_mode="multi",
            key=pills,
            label_visibility="collapsed",
            persist_state="session",
        )
    return [by_layer[layer] for layer in by_layer if layer in (layers or [])]


def choose_grouping() -> tuple[str, str, int]:
    """(grouping, stack, layers a block)."""
    left, right = st.columns([3, 2])
    st.session_state.setdefault("grouping", "kind")
    st.session_state.setdefault("stack", "best")
    grouping = left.selectbox(
        "Compress together",
        list(GROUPINGS),
        format_func=lambda name: GROUPINGS[name][0],
        key="grouping",
        persist_state="session",
        help="Modules of one group are compressed as one matrix and share a basis, or a decoder.",
    )
    stack = right.selectbox(
        "Stacking",
        ["best", *STACKS],
        key="stack",
        persist_state="session",
        help="  \n".join(f"**{name}**: {text}" for name, text in STACK_HELP.items()),
    )
    block = 2
    if grouping == "blocks":
        block = st.number_input("Layers a block", 1, 48, 2, key="block", persist_state="session")
    return grouping, stack, int(block)


def choose_methods() -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """The methods to compare, and their options from the fields of each method."""
    st.session_state.setdefault("methods", list(DEFAULT_METHODS))
    chosen = st.pills(
        "Methods side by side",
        [method.role for method in METHODS],
        selection_mode="multi",
        format_func=lambda role: method_of_role(role).title,
        key="methods",
        persist_state="session",
        wrap=True,
    )
    selected = [method for method in METHODS if method.role in (chosen or [])]
    options = {}
    for method in selected:
        shown = [option for option in options_of(method) if option.name not in own_options(method)]
        if shown:
            with st.expander(f"{method.title} options"):
                st.caption(method.paper)
                options[method.role] = {
                    option.name: _option_widget(method.role, option.name, option.default, option.metadata) for option in shown
                }
    return tuple(method.role for method in selected), options


def _option_widget(role: str, name: str, default: Any, metadata: Any) -> Any:
    """The widget for one option, drawn from the type of its default, its choices or range, and its help."""
    key, label = f"option_{role}_{name}", name.replace("_", " ")
    help_text = metadata.get("help")
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


def choose_tasks(info: ModelInfo) -> tuple[str, ...]:
    """The bundled tasks, of those that this model can do, by which the result is scored."""
    fitting = usual_tasks(info.architecture)
    st.session_state["tasks"] = [task for task in st.session_state.get("tasks", Plan.tasks) if task in fitting]
    chosen = st.multiselect(
        "Tasks",
        fitting,
        format_func=lambda name: find_task(name).title,
        key="tasks",
        persist_state="session",
        placeholder="No task: errors and sizes alone",
        help="What the model is asked before and after, on the same examples. Each adds some seconds to a run. "
        "Tasks of a data hub, and files of your own, go into a plan by hand or on the command line: see `offcomp tasks`.",
    )
    return tuple(task for task in fitting if task in chosen)


def choose_storage() -> tuple[str, str, int]:
    """(unit, storage dtype, seed), folded away."""
    with st.expander("Budget and storage"):
        unit = st.radio(
            "The ratio counts",
            UNITS,
            key="unit",
            horizontal=True,
            persist_state="session",
            help="Parameters are the paper's measure; bytes are what the disk sees.",
        )
        dtype = st.radio("Store numbers as", STORAGE_DTYPES, key="dtype", horizontal=True, persist_state="session")
        seed = st.number_input("Seed", 0, 2**31 - 1, 0, key="seed", persist_state="session")
    return str(unit), str(dtype), int(seed)
