"""Widgets for the choices that make up a plan, such as modules, grouping and methods. They keep their state across pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from offcomp.methods import all_methods, method_of_style_key, options_of, own_options, plugin_faults
from offcomp.models.bundled_models import MODELS
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.families import KIND_TITLES
from offcomp.numerics.accounting import DTYPE_CHOICES, UNITS
from offcomp.planning.data.task_check import task_fault
from offcomp.planning.data.tasks import Task, find_task, usual_tasks
from offcomp.planning.grouping import GROUPINGS, STACK_HELP, STACKS, name_groups
from offcomp.planning.plan import Group, Plan, make_groups
from offcomp.results.model import PARTS, rounded_to
from offcomp.ui import draft
from offcomp.ui.escape import plain
from offcomp.ui.link import OWN, RATIOS, OwnGroup
from offcomp.ui.uploads import bring_examples

UNIT_HELP = "Compression papers usually count parameters; bytes determine the size on disk."
DTYPE_HELP = "stored: keep the dtype of the checkpoint, so all savings come from the method."


@dataclass(frozen=True)
class Choices:
    """The user's choices, which define one plan per method. Methods and their options are identified by style key."""

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
    tasks: tuple[str | Task, ...]
    own: tuple[OwnGroup, ...]

    @property
    def rounded_to(self) -> str:
        """See `results.model.rounded_to`."""
        return rounded_to(self.dtype, self.specs)

    def plan(self, style_key: str, ratio: float) -> Plan:
        """Return the plan of one method at one ratio. Raises InputError if the modules cannot be grouped this way."""
        method = method_of_style_key(style_key)
        settings: dict[str, Any] = {
            "method": method.name,
            "options": own_options(method) | self.options.get(style_key, {}),
            "ratio": ratio,
            "unit": self.unit,
            "dtype": self.dtype,
        }
        if self.grouping == OWN:
            groups = self._own_groups(settings)
        else:
            groups = make_groups(self.specs, self.grouping, stack=self.stack, block=self.block, **settings)
        return Plan(model=self.info.model, groups=groups, tasks=self.tasks, seed=self.seed)

    def _own_groups(self, settings: dict[str, Any]) -> tuple[Group, ...]:
        """Return the custom groups, restricted to chosen modules; each remaining chosen module forms its own group."""
        chosen = {spec.name: spec for spec in self.specs}
        parts = [([chosen.pop(name) for name in names if name in chosen], stack) for names, stack in self.own]
        parts = [(specs, stack) for specs, stack in parts if specs] + [([spec], "rows") for spec in chosen.values()]
        names = name_groups([specs for specs, _ in parts])
        return tuple(
            Group(name=name, modules=tuple(spec.name for spec in specs), stack=stack, **settings)
            for name, (specs, stack) in zip(names, parts, strict=True)
        )


def choose(info: ModelInfo) -> Choices:
    """Let the user choose everything except the model and the ratio."""
    specs = _choose_modules(info)
    grouping, stack, block = _choose_grouping()
    methods, options = _choose_methods()
    tasks: tuple[str | Task, ...] = (*_choose_tasks(info), *bring_examples(info))
    unit, dtype, seed = _choose_storage()
    return Choices(info, specs, grouping, stack, block, methods, options, unit, dtype, seed, tasks, draft.groups())


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
        help="Choose a catalogue model, or type a hub id or the path to a folder with config.json and safetensors files.",
    )
    return str(chosen or MODELS[0].name)


def choose_ratio(of: str) -> float:
    """Let the user choose the draft's compression ratio; `of` completes the help text."""
    ratio = st.select_slider(
        "Compression ratio",
        RATIOS,
        key="ratio",
        format_func=lambda value: f"{value:g}x",
        persist_state="session",
        help=plain(f"Original size divided by stored size, for {of}."),
    )
    return float(ratio)


def _rows(info: ModelInfo) -> dict[tuple[str, str], list[ModuleSpec]]:
    """Return the rows of the grid: the modules compressed by default, grouped by part and kind."""
    rows: dict[tuple[str, str], list[ModuleSpec]] = {}
    for spec in info.modules:
        if spec.default:
            rows.setdefault((spec.part, spec.kind), []).append(spec)
    kinds = list(KIND_TITLES)
    return dict(sorted(rows.items(), key=lambda row: (PARTS.index(row[0][0]), kinds.index(row[0][1]))))


def _choose_modules(info: ModelInfo) -> tuple[ModuleSpec, ...]:
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
    return draft.modules(info)


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


def _choose_grouping() -> tuple[str, str, int]:
    """Let the user choose the grouping, the stacking and the number of layers per block."""
    left, right = st.columns([3, 2])
    own = [OWN] if draft.groups() else []
    grouping = left.selectbox(
        "Compress together",
        [*own, *GROUPINGS],
        format_func=lambda name: GROUPINGS[name][0] if name in GROUPINGS else f"Custom groups ({len(draft.groups())})",
        key="grouping",
        persist_state="session",
        help="Modules in the same group are compressed as one matrix and share a basis or a decoder.",
    )
    stack = right.selectbox(
        "Stacking",
        ["best", *STACKS],
        key="stack",
        persist_state="session",
        disabled=grouping == OWN,
        help="  \n".join(f"**{plain(name)}**: {plain(text)}" for name, text in STACK_HELP.items()),
    )
    block = 2
    if grouping == "blocks":
        block = st.number_input("Layers per block", 1, 48, key="block", persist_state="session")
    return grouping, stack, int(block)


def _choose_methods() -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """Let the user choose the methods to compare and set the options of each."""
    chosen = st.pills(
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
    selected = [method for method in all_methods() if method.style_key in (chosen or [])]
    options = {}
    for method in selected:
        shown = [option for option in options_of(method) if option.name not in own_options(method)]
        if shown:
            with st.expander(plain(f"{method.title} options")):
                st.caption(plain(method.paper))
                options[method.style_key] = {
                    option.name: _option_widget(method.style_key, option.name, option.default, option.metadata)
                    for option in shown
                }
    return tuple(method.style_key for method in selected), options


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


def _choose_tasks(info: ModelInfo) -> tuple[str, ...]:
    """Let the user choose the tasks to score the result on, from the bundled tasks that the model supports."""
    supported = usual_tasks(info.architecture, info.reads_text)
    fitting = tuple(name for name in supported if task_fault(find_task(name), info) is None)
    st.session_state["tasks"] = [task for task in st.session_state["tasks"] if task in fitting]
    chosen = st.multiselect(
        "Tasks",
        fitting,
        format_func=lambda name: find_task(name).title,
        key="tasks",
        persist_state="session",
        placeholder="No task: errors and sizes only",
        help="The model is scored on the same examples before and after compression. Each task adds a few seconds to a run. "
        "To use a task from the Hugging Face Hub, edit the plan or use the command line; see `offcomp tasks`.",
    )
    return tuple(task for task in fitting if task in chosen)


def _choose_storage() -> tuple[str, str, int]:
    """Let the user choose the unit, the storage dtype and the seed in a collapsed expander."""
    with st.expander("Budget and storage"):
        unit = _radio("The ratio counts", UNITS, "unit", UNIT_HELP)
        dtype = _radio("Store numbers as", DTYPE_CHOICES, "dtype", DTYPE_HELP)
        seed = st.number_input("Seed", 0, 2**31 - 1, key="seed", persist_state="session")
    return unit, dtype, int(seed)


def _radio(label: str, options: Sequence[str], key: str, description: str) -> str:
    return str(
        st.radio(plain(label), options, key=key, horizontal=True, persist_state="session", help=plain(description) or None)
    )
