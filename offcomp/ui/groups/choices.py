"""Controls of the Groups page, and its messages while there is no answer: too few modules, misfits, work in progress."""

from __future__ import annotations

from functools import partial

import streamlit as st

from offcomp.errors import InputError
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.families import KIND_TITLES
from offcomp.planning.grouping import STACK_HELP, STACKS, group_shape
from offcomp.planning.merge_survey import BEST, estimated_seconds
from offcomp.ui import draft
from offcomp.ui.escape import plain
from offcomp.ui.jobs import end_survey, request_survey, wait_for

KINDS, RATIO, STACKING = "groups_kinds", "groups_ratio", "groups_stacking"
DEFAULT_KIND, DEFAULT_RATIO = "attention_output", 2.0
RATIOS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0)
PATIENT_SECONDS = 60.0
REQUESTED, LAST = "groups_asked", "groups_last"
STACKING_HELP = {"best": "For each pair and each merge, the stacking with the lowest error."} | {
    stack: STACK_HELP[stack] for stack in STACKS
}


def choose(info: ModelInfo) -> tuple[tuple[ModuleSpec, ...], float, str]:
    """The modules of the chosen kinds, the compression ratio, and the stacking shown."""
    kinds = list(dict.fromkeys(spec.kind for spec in info.modules if spec.default))
    _view_kinds(info, kinds)
    draft.view("at", RATIO, (DEFAULT_RATIO, *RATIOS), "{:g}".format)
    draft.view("stacked", STACKING, (BEST, *STACKS))
    left, middle, right = st.columns([6, 2, 4], gap="medium")
    left.pills(
        "Kinds to compare",
        kinds,
        selection_mode="multi",
        format_func=lambda kind: plain(KIND_TITLES.get(kind, kind)),
        key=KINDS,
        persist_state="session",
        wrap=True,
        help="All layers of one or more kinds that might be stored as one matrix.",
    )
    middle.selectbox(
        "Ratio",
        RATIOS,
        format_func=lambda ratio: f"{ratio:g}x",
        key=RATIO,
        persist_state="session",
        help="Compression ratio, original size divided by stored size, of each module alone. A joint matrix stores no more.",
    )
    right.segmented_control(
        "Stacking",
        (BEST, *STACKS),
        key=STACKING,
        persist_state="session",
        required=True,
        help="  \n".join(f"**{plain(name)}**: {plain(text)}" for name, text in STACKING_HELP.items()),
    )
    state = st.session_state
    return tuple(spec for spec in info.modules if spec.kind in state[KINDS]), float(state[RATIO]), str(state[STACKING])


def _first_kinds(info: ModelInfo, kinds: list[str]) -> list[str]:
    """A kind that has several modules: attention output, else the first such kind."""
    several = [kind for kind in kinds if sum(spec.kind == kind for spec in info.modules) > 1]
    return [DEFAULT_KIND] if DEFAULT_KIND in several else several[:1] or kinds[:1]


def _view_kinds(info: ModelInfo, kinds: list[str]) -> None:
    """Like `draft.view`, for several kinds: initialised from the link; kinds the model lacks are reported and ignored."""
    state = st.session_state
    if KINDS not in state:
        state[KINDS] = [kind for kind in st.query_params.get("kinds", "").split(",") if kind]
        if missing := [kind for kind in state[KINDS] if kind not in kinds]:
            requested = ", ".join(missing)[:100]
            st.warning(plain(f"The link asks for {requested}; this model has {', '.join(kinds)}."), icon=":material/link_off:")
    state[KINDS] = [kind for kind in state[KINDS] if kind in kinds] or _first_kinds(info, kinds)
    draft.note("kinds", ",".join(state[KINDS]), DEFAULT_KIND)


def explain_too_few(info: ModelInfo, specs: tuple[ModuleSpec, ...]) -> None:
    """Say why there is nothing to compare, and what to do."""
    if not specs:
        st.info(
            f"{plain(info.model)} has no weights of a known kind to compare. On Compress you can choose its weights one by one."
        )
        return
    kind = KIND_TITLES.get(specs[0].kind, specs[0].kind)
    reason = "has one layer" if info.num_layers == 1 else f"has one matrix of the kind {kind}"
    st.info(
        plain(
            f"{info.model} {reason}, so {specs[0].name} has nothing to share with. Choose more kinds: stacked by "
            "residual, matrices of all kinds can share a basis of the residual stream."
        )
    )
    others = list(dict.fromkeys(spec.kind for spec in info.modules if spec.default and spec.kind != specs[0].kind))
    if others:
        added = DEFAULT_KIND if DEFAULT_KIND in others else others[0]
        st.button(plain(f"Add {KIND_TITLES.get(added, added)}"), type="primary", key="groups_add", on_click=_add, args=(added,))


def _add(kind: str) -> None:
    st.session_state[KINDS] = [*st.session_state[KINDS], kind]


def explain_misfit(specs: tuple[ModuleSpec, ...], stack: str) -> None:
    """Say why no two modules can be stacked, taking the first two as the example, and what to do."""
    try:
        for other in specs[1:]:
            group_shape((specs[0], other), stack)
    except InputError as error:
        st.info(plain(str(error)))
    else:
        st.info("No two of these modules can be stacked into one matrix; choose other kinds.")


def wait(info: ModelInfo, specs: tuple[ModuleSpec, ...], ratio: float) -> None:
    """Have the survey made, after confirmation if it takes long, and poll until it is ready."""
    names = tuple(spec.name for spec in specs)
    seconds, count = estimated_seconds(specs), len(specs) * (len(specs) - 1) // 2
    duration = f"{max(5, 5 * round(seconds / 5))} s" if seconds < 2 * PATIENT_SECONDS else f"{round(seconds / 60)} minutes"
    requested = st.session_state.setdefault(REQUESTED, set())
    if seconds > PATIENT_SECONDS and (names, ratio) not in requested:
        st.info(
            f"{count:,} pairs of {len(specs)} modules take about {duration} to compare; the answer is then cached. "
            "Fewer kinds are faster."
        )
        if not st.button(f"Compare {count:,} pairs", type="primary", key="groups_start"):
            return
        requested.add((names, ratio))
    last = st.session_state.get(LAST)
    st.session_state[LAST] = (info, specs, ratio)
    if last not in (None, st.session_state[LAST]):
        end_survey(*last)
    activity = f"Comparing {count:,} pairs of {len(specs)} modules once, in about {duration}. The answer appears automatically."
    wait_for(partial(request_survey, info, specs, ratio), partial(st.info, activity, icon=":material/hourglass:"))
