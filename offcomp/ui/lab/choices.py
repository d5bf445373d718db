"""The choices that make up the draft's plans, read from the session; `panel` has the widgets that change them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from offcomp.methods import all_methods, method_of_style_key, options_of, own_options
from offcomp.methods.base import Method
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.families import KIND_TITLES
from offcomp.planning.data.calibration_text import CalibrationText
from offcomp.planning.data.tasks import Task, find_task
from offcomp.planning.grouping import GROUPINGS, name_groups
from offcomp.planning.plan import NOTHING, Group, Plan, make_groups
from offcomp.results.model import rounded_to
from offcomp.results.scores import sentence_start, within_sentence
from offcomp.results.targets import SCORE
from offcomp.ui import draft
from offcomp.ui.link import OWN, OwnGroup
from offcomp.ui.uploads import CALIBRATION

OWN_TASKS = "own_tasks"
"""Session state key: the identity of the model and of the uploaded table, and the task made from them."""
NAMED_KINDS = 4
NAMED_METHODS = 3


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
    ratio: float = 3.0
    target: str = ""
    allocate: bool = False
    weighting: str = SCORE
    equal_bytes: bool = False
    correct: str = NOTHING
    calibration: CalibrationText = field(default_factory=CalibrationText)

    @property
    def rounded_to(self) -> str:
        """See `results.model.rounded_to`."""
        return rounded_to(self.dtype, self.specs)

    @property
    def modules_title(self) -> str:
        """The chosen modules in a few words: "query and key (12 matrices)"."""
        if not self.specs:
            return "no weights"
        if len(self.specs) == 1:
            return self.specs[0].name
        kinds = list(dict.fromkeys(KIND_TITLES.get(spec.kind, spec.kind) for spec in self.specs))
        named = listing(kinds) if len(kinds) <= NAMED_KINDS else f"{len(kinds)} kinds"
        return f"{named} ({len(self.specs)} matrices)"

    @property
    def summary(self) -> str:
        """The draft in one sentence."""
        own = f"{len(self.own)} custom group{'s' * (len(self.own) != 1)}"
        together = own if self.grouping == OWN else within_sentence(GROUPINGS[self.grouping][0])
        tasks = [task.title or task.name for task in map(_as_task, self.tasks)]
        scored = f"scored on {listing([within_sentence(task) for task in tasks])}" if tasks else "not scored"
        return sentence_start(f"{self.modules_title}; {together}; {scored}.")

    def plan(self, style_key: str) -> Plan:
        """Return the plan of one method. Raises InputError if the modules cannot be grouped this way."""
        method = method_of_style_key(style_key)
        settings: dict[str, Any] = {
            "method": method.name,
            "options": own_options(method) | self.options.get(style_key, {}),
            "ratio": self.ratio,
            "unit": self.unit,
            "dtype": self.dtype,
        }
        if self.grouping == OWN:
            groups = self._own_groups(settings)
        else:
            groups = make_groups(self.specs, self.grouping, stack=self.stack, block=self.block, **settings)
        return Plan(
            model=self.info.model,
            groups=groups,
            tasks=self.tasks,
            seed=self.seed,
            calibration=self.calibration,
            correct=self.correct,
        )

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


def _as_task(task: str | Task) -> Task:
    return find_task(task) if isinstance(task, str) else task


def listing(words: Sequence[str]) -> str:
    """Join words: "SVD", "SVD and Autoencoder", "SVD, Tucker and Kronecker"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def read_choices(info: ModelInfo) -> Choices:
    """Return the draft's choices for a model, whether or not their widgets are on the page."""
    state = st.session_state
    selected = [method for method in all_methods() if method.style_key in (state["methods"] or [])]
    options = {
        method.style_key: {
            option.name: state.get(draft.option_key(method.style_key, option.name), option.default)
            for option in shown_options(method)
        }
        for method in selected
    }
    return Choices(
        info=info,
        specs=draft.modules(info),
        grouping=state["grouping"],
        stack=state["stack"],
        block=int(state["block"]),
        methods=tuple(method.style_key for method in selected),
        options=options,
        unit=state["unit"],
        dtype=state["dtype"],
        seed=int(state["seed"]),
        tasks=(*draft.tasks(info), *own_tasks_of(info)),
        own=draft.groups(),
        ratio=float(state["ratio"]),
        target=state["target"],
        allocate=state["allocate"],
        weighting=state["weighting"],
        equal_bytes=state["equal_bytes"],
        correct=state["correct"],
        calibration=state.get(CALIBRATION, CalibrationText()),
    )


def shown_options(method: type[Method]) -> list[Any]:
    """Return the options of a method that the user may set: all but a preset with only one allowed value."""
    return [option for option in options_of(method) if option.name not in own_options(method)]


def own_tasks_of(info: ModelInfo) -> tuple[Task, ...]:
    """Return the task made from the uploaded table for this model, if there is one."""
    identity, tasks = st.session_state.get(OWN_TASKS, ("", ()))
    return tuple(tasks) if identity == table_identity(info) else ()


def table_identity(info: ModelInfo) -> str:
    """Identify the model and the uploaded table, so that a task made for another model or table is not used."""
    return f"{info.fingerprint} {st.session_state.get('upload_table', '')}"
