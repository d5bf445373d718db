"""The draft: which modules of which model to compress, together, how, to what size. One place, in the session and in the URL.

Widgets on any page read and write these keys of the session. The URL names everything that is not as it is at first, so a link
opens the same draft in another browser:

    model=minilm-l6  modules=query.0-5,key.2  together=kind  methods=svd,codebook  ratio=4  module=query.3

A link is followed where it differs from what was last written, so a link within the app works as one from outside. What it asks
for and cannot be had is said on the page, and left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import streamlit as st

from offcomp.errors import OffcompError
from offcomp.grouping import GROUPINGS, STACKS
from offcomp.methods import METHODS, make_method, method_of_role, options_of, own_options
from offcomp.models.catalogue import MODELS, ModelInfo, ModuleSpec
from offcomp.numerics.accounting import STORAGE_DTYPES, UNITS
from offcomp.tasks import TASKS

RATIOS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 100.0)
DEFAULT_KINDS = ("query", "key")
OWN = "own"
"""The grouping that is a list of groups, from the page Groups."""
NONE = "none"
MOST_LAYERS = 1000
RUNS = "runs"
"""Of the URL: the runs that are compared, which `selection` reads and writes. They go along to every page."""
WRITTEN = "draft_written"
PROBLEMS = "draft_problems"

OwnGroup = tuple[tuple[str, ...], str]
"""Names of the modules, and their stacking."""


@dataclass(frozen=True)
class Field:
    """One part of the draft: its name in the URL, its key in the session, what it is at first, and how it is written.

    `read` raises ValueError where the text means nothing here.
    """

    parameter: str
    key: str
    default: Any
    read: Callable[[str], Any]
    write: Callable[[Any], str] = str


def _one_of(choices: Iterable[str]) -> Callable[[str], str]:
    allowed = tuple(choices)

    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"there are {', '.join(allowed)}")
        return text

    return read


def _some_of(choices: Iterable[str]) -> Callable[[str], list[str]]:
    one = _one_of(choices)
    return lambda text: [one(name) for name in text.split(",")] if text != NONE else []


def _ratio(text: str) -> float:
    value = float(text)
    if value not in RATIOS:
        raise ValueError(f"there are {', '.join(f'{ratio:g}' for ratio in RATIOS)}")
    return value


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(f"it lies between {low} and {high}")
        return value

    return read


def _listed(names: Sequence[str]) -> str:
    return ",".join(names) if names else NONE


def short(names: Iterable[str]) -> str:
    """Names of modules in short: runs of layers as `query.0-5`."""
    parts: list[str] = []
    for stem, members in groupby((_stem_and_layer(name) for name in names), key=lambda pair: pair[0]):
        run: list[int] = []
        for _, layer in members:
            if layer is None:
                parts.append(stem)
            elif run and layer == run[-1] + 1:
                run.append(layer)
                parts[-1] = f"{stem}.{run[0]}-{layer}"
            else:
                run = [layer]
                parts.append(f"{stem}.{layer}")
    return ",".join(parts) or NONE


def _stem_and_layer(name: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"(.+)\.(\d+)", name)
    return (found[1], int(found[2])) if found else (name, None)


def full(text: str) -> tuple[str, ...]:
    """The names that `short` wrote. Raises ValueError for a run of layers that is none."""
    names: list[str] = []
    for part in [] if text == NONE else text.split(","):
        found = re.fullmatch(r"(.+)\.(\d+)-(\d+)", part)
        if not found:
            names.append(part)
            continue
        first, last = int(found[2]), int(found[3])
        if not first <= last < first + MOST_LAYERS:
            raise ValueError(f"{part} is no run of layers")
        names += [f"{found[1]}.{layer}" for layer in range(first, last + 1)]
    return tuple(dict.fromkeys(names))


def _read_groups(text: str) -> tuple[OwnGroup, ...]:
    groups = []
    for part in text.split(";"):
        names, _, stack = part.rpartition("~")
        groups.append((full(names), _one_of(STACKS)(stack)))
    return tuple(groups)


def _write_groups(groups: Sequence[OwnGroup]) -> str:
    return ";".join(f"{short(names)}~{stack}" for names, stack in groups)


FIELDS = (
    Field("model", "model", MODELS[0].name, str),
    Field("modules", "draft_modules", None, full, short),
    Field("groups", "draft_groups", (), _read_groups, _write_groups),
    Field("together", "grouping", "kind", _one_of((*GROUPINGS, OWN))),
    Field("stack", "stack", "best", _one_of(("best", *STACKS))),
    Field("block", "block", 2, _whole(1, 48)),
    Field("methods", "methods", ["svd", "autoencoder"], _some_of(method.role for method in METHODS), _listed),
    Field("ratio", "ratio", 3.0, _ratio, "{:g}".format),
    Field("unit", "unit", UNITS[0], _one_of(UNITS)),
    Field("dtype", "dtype", STORAGE_DTYPES[0], _one_of(STORAGE_DTYPES)),
    Field("seed", "seed", 0, _whole(0, 2**31 - 1)),
    Field("tasks", "tasks", ["sentiment"], _some_of(task.name for task in TASKS), _listed),
    Field("module", "inspected", None, str),
)
OPTIONS = "options"
"""Of the URL: a JSON object of the options that are not as at first, by the role of their method."""


def restore() -> None:
    """Follow the link that opened the page, where it asks for something new; then see that every field has a value."""
    state, asked = st.session_state, st.query_params.to_dict()
    written: dict[str, str] = state.get(WRITTEN, {})
    if RUNS in written and RUNS not in asked:  # a step to another page leaves the URL bare
        st.query_params[RUNS] = written[RUNS]
    fresh = {name: text for name, text in asked.items() if written.get(name) != text}
    if "model" in fresh and fresh["model"] != state.get("model"):
        forget_modules()
    for field in FIELDS:
        if field.parameter in fresh:
            try:
                state[field.key] = field.read(fresh[field.parameter])
            except ValueError as error:
                _complain(f"{field.parameter} {fresh[field.parameter]!r}", str(error))
        state.setdefault(field.key, copy(field.default))
    if state["grouping"] == OWN and not state["draft_groups"]:
        _complain("groups of its own", "it names none")
        state["grouping"] = "kind"
    if OPTIONS in fresh:
        _read_options(fresh[OPTIONS])


def share() -> None:
    """Write the draft into the URL. Other parameters, such as the runs of a comparison, are left as they are."""
    state = st.session_state
    values = [(field, state.get(field.key)) for field in FIELDS]
    texts = {field.parameter: field.write(value) for field, value in values if value not in (None, field.default)}
    if state.get("grouping") != OWN:
        texts.pop("groups", None)
    if options := _changed_options():
        texts[OPTIONS] = json.dumps(options, separators=(",", ":"))
    ours = {field.parameter for field in FIELDS} | {OPTIONS}
    present = st.query_params.to_dict()
    wanted = texts | {name: text for name, text in present.items() if name not in ours}
    state[WRITTEN] = wanted
    if wanted != present:
        st.query_params.from_dict(wanted)


def view(name: str, key: str, choices: Sequence[str]) -> None:
    """Before a widget with this key: at first it is as the link says, and from then on the link says how it is.

    The first of the choices is the usual one, which the link does not name; a choice that is no longer there gives way to it.
    """
    state, asked = st.session_state, st.query_params.get(name)
    if state.get(key) not in choices:
        state[key] = asked if asked in choices else choices[0]
        if asked is not None and asked not in choices:
            _complain(f"{name} {asked!r}", f"there are {', '.join(choices)}")
    if state[key] == choices[0]:
        st.query_params.pop(name, None)
    else:
        st.query_params[name] = state[key]


def show_problems() -> None:
    """What a link asked for and could not be had."""
    for problem in st.session_state.pop(PROBLEMS, []):
        st.warning(problem, icon=":material/link_off:")


def _complain(what: str, why: str) -> None:
    problems: list[str] = st.session_state.setdefault(PROBLEMS, [])
    problems.append(f"The link asks for {what[:100]}, which is not available here: {why}. It is left out.")


def summary() -> str:
    """The draft in a line, as every page shows it."""
    state = st.session_state
    wanted = state["draft_modules"]
    what = "query and key" if wanted is None else f"{len(wanted)} weight matri{'x' if len(wanted) == 1 else 'ces'}"
    methods = [method_of_role(role).title for role in state["methods"] or []]
    by = f", {len(methods)} methods" if len(methods) > 2 else f", {' and '.join(methods)}" if methods else ""
    return f"{model()}: {what} at {state['ratio']:g}x{by}"


def compared() -> str:
    """The runs that are compared, in words; empty where none is named yet."""
    names = [name for name in st.query_params.get(RUNS, "").split(",") if name]
    return "all runs" if names == ["all"] else f"{len(names)} run{'s' * (len(names) != 1)}" if names else ""


def model() -> str:
    """Name, folder or hub id of the model."""
    return str(st.session_state["model"] or MODELS[0].name)


def modules(info: ModelInfo) -> tuple[ModuleSpec, ...]:
    """The chosen modules, in the order of the model."""
    wanted = st.session_state["draft_modules"]
    if wanted is None:
        return tuple(spec for spec in info.modules if spec.default and spec.kind in DEFAULT_KINDS)
    known = {spec.name for spec in info.modules}
    if unknown := [name for name in wanted if name not in known]:
        _complain(f"the modules {short(unknown)}", f"{info.model} has none of these names")
        st.session_state["draft_modules"] = tuple(name for name in wanted if name in known)
    return tuple(spec for spec in info.modules if spec.name in wanted)


def choose(info: ModelInfo, names: Iterable[str]) -> None:
    """Take exactly these modules."""
    taken = set(names)
    st.session_state["draft_modules"] = tuple(spec.name for spec in info.modules if spec.name in taken)


def replace(info: ModelInfo, old: Iterable[str], new: Iterable[str]) -> None:
    """Of these old ones take only the new ones; all other modules stay as they are."""
    choose(info, ({spec.name for spec in modules(info)} - set(old)) | set(new))


def use_groups(info: ModelInfo, groups: Iterable[OwnGroup]) -> None:
    """Compress these groups, each in its stacking; nothing else is in the plan."""
    kept = tuple((tuple(names), stack) for names, stack in groups)
    choose(info, [name for names, _ in kept for name in names])
    st.session_state["draft_groups"], st.session_state["grouping"] = kept, OWN


def groups() -> tuple[OwnGroup, ...]:
    """The groups of one's own, whether the grouping is OWN or not."""
    return tuple(st.session_state["draft_groups"])


def inspected(info: ModelInfo) -> str:
    """The module that is looked at: the one asked for, else the first chosen, else the first of the model."""
    name = st.session_state["inspected"]
    if name in {spec.name for spec in info.modules}:
        return str(name)
    if name is not None:
        _complain(f"the module {name!r}", f"{info.model} has none of this name")
        st.session_state["inspected"] = None
    return (modules(info) or info.modules)[0].name


def inspect(name: str) -> None:
    """Look at this module."""
    st.session_state["inspected"] = name


def forget_modules() -> None:
    """After a change of the model: its modules go by other names."""
    st.session_state.update({"draft_modules": None, "draft_groups": (), "inspected": None})
    if st.session_state.get("grouping") == OWN:
        st.session_state["grouping"] = "kind"


def option_key(role: str, name: str) -> str:
    """The session's key of a method's option."""
    return f"option_{role}_{name}"


def _changed_options() -> dict[str, dict[str, Any]]:
    """Options that are not as at first, of the chosen methods."""
    changed: dict[str, dict[str, Any]] = {}
    for role in st.session_state.get("methods") or []:
        for option in options_of(method_of_role(role)):
            value = st.session_state.get(option_key(role, option.name), option.default)
            if value != option.default and option.name not in own_options(method_of_role(role)):
                changed.setdefault(role, {})[option.name] = value
    return changed


def _read_options(text: str) -> None:
    try:
        asked = json.loads(text)
        for role, values in asked.items():
            method = method_of_role(role)
            make_method(method.name, own_options(method) | values)  # checks names, types and ranges
            for name, value in values.items():
                st.session_state[option_key(role, name)] = value
    except (OffcompError, ValueError, TypeError, AttributeError) as error:
        _complain(f"the options {text!r}", str(error).rstrip("."))
