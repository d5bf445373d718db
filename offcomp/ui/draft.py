"""The draft plan (model, modules, grouping, methods, tasks and budget), kept in the session state and in the URL.

Widgets on all pages read and write the draft under the same session state keys. The URL contains every value that differs from
its default, so a link opens the same draft in another browser:

    model=minilm-l6  modules=query.0-5,key.2  together=kind  methods=svd,codebook  ratio=4  module=query.3

Only values that differ from the last URL written are applied, so links within the app work like external links. A value that
the app itself wrote moments ago is not applied either: after fast clicks, the browser may still send an older URL. Unavailable
values are reported on the page and ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from time import monotonic
from typing import Any

import streamlit as st

from offcomp.errors import OffcompError
from offcomp.methods import make_method, method_of_style_key, options_of, own_options
from offcomp.models.bundled_models import MODELS
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.plain_text import quoted, without_unseen
from offcomp.planning.data.task_check import task_fault
from offcomp.planning.data.tasks import WITHOUT_TEXT, find_task, usual_tasks
from offcomp.planning.drafts import first_draft
from offcomp.ui.escape import plain
from offcomp.ui.link import FIELDS, OWN, OwnGroup, fault_of, read_options, short

RUNS, EVERY_RUN = "runs", "all"
"""URL parameter for the compared runs, and its value for the newest runs. `selection` reads it; all pages keep it."""
WRITTEN, RECENT = "draft_written", "draft_recent"
PAGE = "draft_page"
"""Session state key: the page that was drawn last."""
ECHO_SECONDS = 3.0
"""For how long the app recognises a value in the URL as one that it wrote itself."""
PROBLEMS = "draft_problems"

OPTIONS = "options"
"""URL parameter: a JSON object of non-default options, keyed by style key."""
MAX_REASON_LENGTH = 300
MAX_NAMED = 8
"""Maximum number of alternatives listed when a link asks for an unavailable value."""


def restore(page: str) -> None:
    """Apply the new values in the link that opened the page, then set all missing fields to their defaults."""
    state, linked = st.session_state, _linked_values()
    written: dict[str, str] = state.get(WRITTEN, {})
    if RUNS in written and RUNS not in linked:  # navigating to a different page clears the URL
        st.query_params[RUNS] = written[RUNS]
    echoes = {item for _, texts in _recent() for item in texts.items()}
    fresh = {name: text for name, text in linked.items() if written.get(name) != text and (name, text) not in echoes}
    if "model" in fresh and fresh["model"] != state.get("model"):
        forget_modules()
    for field in FIELDS:
        if field.parameter in fresh:
            try:
                state[field.key] = field.read(fresh[field.parameter])
            except ValueError as error:
                _complain(f"{field.parameter}={quoted(fresh[field.parameter])}", str(error))
        state.setdefault(field.key, copy(field.default))
        if state.get(PAGE) != page:  # a widget of this page would start afresh after `st.switch_page`, despite its key
            state[field.key] = state[field.key]
    state[PAGE] = page
    if state["grouping"] == OWN and not state["draft_groups"]:
        _complain("custom groups", "the link lists none")
        state["grouping"] = "kind"
    if OPTIONS in fresh:
        _read_options(fresh[OPTIONS])


def _linked_values() -> dict[str, str]:
    """Return the link's parameters; report unreadable parameters and remove them from the URL."""
    linked = st.query_params.to_dict()
    faults = {name: fault for name, text in linked.items() if (fault := fault_of(name) or fault_of(text))}
    for name, fault in faults.items():
        _complain(quoted(name), fault)
    if faults:
        linked = {name: text for name, text in linked.items() if name not in faults}
        st.query_params.from_dict(linked)
    return linked


def share() -> None:
    """Write the draft to the URL, leaving other parameters, such as the compared runs, unchanged."""
    state = st.session_state
    values = [(field, state.get(field.key)) for field in FIELDS]
    texts = {field.parameter: field.write(value) for field, value in values if value not in (None, field.default)}
    if state.get("grouping") != OWN:
        texts.pop("groups", None)
    if options := _changed_options():
        texts[OPTIONS] = json.dumps(options, separators=(",", ":"))
    own_parameters = {field.parameter for field in FIELDS} | {OPTIONS}
    present = st.query_params.to_dict()
    wanted = texts | {name: text for name, text in present.items() if name not in own_parameters}
    if wanted != state.get(WRITTEN):
        state[RECENT] = [*_recent(), (monotonic(), wanted)]
    state[WRITTEN] = wanted
    if wanted != present:
        st.query_params.from_dict(wanted)


def _recent() -> list[tuple[float, dict[str, str]]]:
    """The URL parameters that the app wrote in the last few seconds, with the time of writing."""
    earliest = monotonic() - ECHO_SECONDS
    return [(written, texts) for written, texts in st.session_state.get(RECENT, ()) if written >= earliest]


def view(name: str, key: str, choices: Sequence[Any], write: Callable[[Any], str] = str) -> None:
    """Take the widget's initial value from the link and keep the link up to date; call this before creating the widget.

    The first choice is the default, which the link omits; unavailable choices fall back to the default. `write` converts a
    choice to its text in the link.
    """
    state, linked = st.session_state, st.query_params.get(name)
    if state.get(key) not in choices:
        by_text = {write(choice): choice for choice in choices}
        if key not in state and linked is not None and linked not in by_text:
            more = f" and {len(by_text) - MAX_NAMED} more" if len(by_text) > MAX_NAMED else ""
            _complain(f"{name}={quoted(linked)}", f"the choices are {', '.join([*by_text][:MAX_NAMED])}{more}")
        state[key] = by_text[linked] if linked in by_text else choices[0]
    note(name, write(state[key]), write(choices[0]))


def note(name: str, text: str, default: str) -> None:
    """Write a value to the link, or remove the parameter if the value is the default."""
    if text == default:
        st.query_params.pop(name, None)
    else:
        st.query_params[name] = text


def show_problems() -> None:
    """Show warnings about unavailable values in the link."""
    for problem in st.session_state.pop(PROBLEMS, []):
        st.warning(plain(problem), icon=":material/link_off:")


def _complain(requested: str, fault: str) -> None:
    problems: list[str] = st.session_state.setdefault(PROBLEMS, [])
    value, reason = without_unseen(requested)[:100], without_unseen(fault)[:MAX_REASON_LENGTH].rstrip(".")
    problems.append(f"The link asks for {value}. This part of the link is ignored: {reason}.")


def fitting_tasks(info: ModelInfo) -> tuple[str, ...]:
    """Return the names of the bundled tasks that a model supports."""
    supported = usual_tasks(info.architecture, info.reads_text)
    return tuple(name for name in supported if task_fault(find_task(name), info) is None)


def tasks(info: ModelInfo) -> tuple[str, ...]:
    """The chosen tasks that the model supports or, before any have been chosen, those of the model's first draft."""
    chosen, fitting = st.session_state["tasks"], fitting_tasks(info)
    if chosen is None:
        chosen = first_draft(info).tasks
    return tuple(task for task in fitting if task in chosen)


def choose_tasks(names: Sequence[str]) -> None:
    """Score on exactly these tasks."""
    st.session_state["tasks"] = tuple(names)


def model() -> str:
    """Return the name, folder or hub id of the model."""
    return str(st.session_state["model"] or MODELS[0].name)


def modules(info: ModelInfo) -> tuple[ModuleSpec, ...]:
    """Return the chosen modules, in model order."""
    known = {spec.name for spec in info.modules}
    wanted = st.session_state["draft_modules"]
    if unknown := [name for name in wanted or () if name not in known]:
        _complain(f"the modules {short(unknown)}", f"{info.model} has no modules with these names")
        wanted = tuple(name for name in wanted if name in known) or None
        st.session_state["draft_modules"] = wanted
    if wanted is None:
        default = tuple(spec for spec in info.modules if spec.default and spec.kind in first_draft(info).kinds)
        return info.modules if not default and info.architecture in WITHOUT_TEXT else default
    return tuple(spec for spec in info.modules if spec.name in wanted)


def choose(info: ModelInfo, names: Iterable[str]) -> None:
    """Select exactly these modules."""
    chosen = set(names)
    st.session_state["draft_modules"] = tuple(spec.name for spec in info.modules if spec.name in chosen)


def replace(info: ModelInfo, old: Iterable[str], new: Iterable[str]) -> None:
    """Deselect the `old` modules and select the `new` ones; all other modules keep their state."""
    choose(info, ({spec.name for spec in modules(info)} - set(old)) | set(new))


def use_groups(info: ModelInfo, groups: Iterable[OwnGroup], ratio: float) -> None:
    """Set the draft to exactly these groups, with their stacking and the ratio used to find them."""
    kept = tuple((tuple(names), stack) for names, stack in groups)
    choose(info, [name for names, _ in kept for name in names])
    st.session_state.update({"draft_groups": kept, "grouping": OWN, "ratio": ratio, "target": ""})


def groups() -> tuple[OwnGroup, ...]:
    """Return the custom groups, even if the current grouping is not OWN."""
    return tuple(st.session_state["draft_groups"])


def inspected(info: ModelInfo) -> str:
    """Return the module to inspect: the requested one, else the first chosen module, else the first in the model."""
    name = st.session_state["inspected"]
    if name in {spec.name for spec in info.modules}:
        return str(name)
    if name is not None:
        _complain(f"the module {name!r}", f"{info.model} has no module with this name")
        st.session_state["inspected"] = None
    return (modules(info) or info.modules)[0].name


def inspect(name: str) -> None:
    """Select this module for inspection."""
    st.session_state["inspected"] = name


def forget_modules() -> None:
    """Reset all module selections, because the new model has different module names."""
    st.session_state.update({"draft_modules": None, "draft_groups": (), "inspected": None})
    if st.session_state.get("grouping") == OWN:
        st.session_state["grouping"] = "kind"


def option_key(style_key: str, name: str) -> str:
    """Return the session state key of a method's option."""
    return f"option_{style_key}_{name}"


def _changed_options() -> dict[str, dict[str, Any]]:
    """Return the options of the chosen methods that differ from their defaults."""
    changed: dict[str, dict[str, Any]] = {}
    for style_key in st.session_state.get("methods") or []:
        for option in options_of(method_of_style_key(style_key)):
            value = st.session_state.get(option_key(style_key, option.name), option.default)
            if value != option.default and option.name not in own_options(method_of_style_key(style_key)):
                changed.setdefault(style_key, {})[option.name] = value
    return changed


def _read_options(text: str) -> None:
    try:
        linked = read_options(text)
        for style_key, values in linked.items():
            method = method_of_style_key(style_key)
            make_method(method.name, own_options(method) | values)  # checks names, types and ranges
    except (OffcompError, ValueError) as error:
        _complain(f"the options {quoted(text)}", str(error))
        return
    for style_key, values in linked.items():
        st.session_state.update({option_key(style_key, name): value for name, value in values.items()})
