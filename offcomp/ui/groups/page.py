"""The Groups page: charts of module pairs and of the merge tree with its cut, and a button that copies groups to the draft."""

from __future__ import annotations

import hashlib
import shlex
from functools import partial

import pandas as pd
import streamlit as st

from offcomp.errors import InputError
from offcomp.files import home_folder
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.families import KIND_TITLES
from offcomp.planning.grouping import STACK_HELP, STACKS, best_stack, group_shape
from offcomp.planning.merge_survey import BEST, Survey, best_cut, estimated_seconds, find_survey
from offcomp.results import groups as results
from offcomp.results.charts.groups import pair_figure, tree_figure
from offcomp.results.groups import group_words, groups_at, merge_table, module_words, pair_table
from offcomp.results.other_methods import grouping_answer, grouping_table
from offcomp.ui import draft
from offcomp.ui.charts import csv_button, draw, number_formats, show_table
from offcomp.ui.escape import plain
from offcomp.ui.frame import palette, reporting_errors
from offcomp.ui.jobs import end_survey, request_survey, wait_for
from offcomp.ui.lab.answers import Lab

MAX_MODULES = 64
LISTED = 5
KINDS, RATIO, STACKING = "groups_kinds", "groups_ratio", "groups_stacking"
DEFAULT_KIND, DEFAULT_RATIO = "attention_output", 2.0
RATIOS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0)
PATIENT_SECONDS = 60.0
REQUESTED, LAST = "groups_asked", "groups_last"
STACKING_HELP = STACK_HELP | {BEST: "For each pair and each merge, the stacking with the lowest error."}
THREE_DECIMALS = dict.fromkeys(
    ("gain", "error", "group_gain", "separate_error", "joint_error"), st.column_config.NumberColumn(format="%.3f")
)


def show_groups(lab: Lab) -> None:
    """Draw everything below the plan."""
    info = lab.choices.info
    st.caption("Explore here; your plan changes only if you use the groups below.")
    show(lab, *choose(info))


def choose(info: ModelInfo) -> tuple[tuple[ModuleSpec, ...], float, str]:
    """Let the user choose kinds, ratio and stacking; return the modules of those kinds, the ratio and the stacking."""
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
        help="Kinds of weights whose layers might be stored together as one matrix.",
    )
    middle.selectbox(
        "Ratio",
        RATIOS,
        format_func=lambda ratio: f"{ratio:g}x",
        key=RATIO,
        persist_state="session",
        help="Original size divided by stored size, if modules are stored separately. A joint matrix stores no more than that.",
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
    """Return the default kind: attention output if it has several modules, else the first kind that does."""
    several = [kind for kind in kinds if sum(spec.kind == kind for spec in info.modules) > 1]
    return [DEFAULT_KIND] if DEFAULT_KIND in several else several[:1] or kinds[:1]


def _view_kinds(info: ModelInfo, kinds: list[str]) -> None:
    """Like `draft.view`, but for a list of kinds. Kinds in the link that the model lacks are reported and ignored."""
    state = st.session_state
    if KINDS not in state:
        state[KINDS] = [kind for kind in st.query_params.get("kinds", "").split(",") if kind]
        if missing := [kind for kind in state[KINDS] if kind not in kinds]:
            requested = ", ".join(missing)[:100]
            st.warning(
                plain(f"The link asks for {requested}; this model has only {', '.join(kinds)}."), icon=":material/link_off:"
            )
    state[KINDS] = [kind for kind in state[KINDS] if kind in kinds] or _first_kinds(info, kinds)
    draft.note("kinds", ",".join(state[KINDS]), DEFAULT_KIND)


def show(lab: Lab, specs: tuple[ModuleSpec, ...], ratio: float, stack: str) -> None:
    """Show the answer, both charts and their tables, or explain why there is nothing to show."""
    info = lab.choices.info
    if len(specs) < 2:
        _explain_too_few(info, specs)
        return
    if len(specs) > MAX_MODULES:
        count = len(specs) * (len(specs) - 1) // 2
        raise InputError(f"{len(specs)} modules make {count:,} pairs; choose kinds with at most {MAX_MODULES} modules in all")
    stored = find_survey(info, specs, ratio, home_folder())
    if stored is None:
        _wait(info, specs, ratio)
        return
    survey, origin = stored
    st.markdown(plain(results.survey_answer(survey, stack)))
    if stack not in survey.merges:
        _explain_misfit(specs, stack)
        return
    pairs, tree = st.columns(2, gap="large")
    with pairs:
        _show_pairs(survey, stack, origin)
    with tree:
        st.fragment(_show_tree)(info, survey, stack, origin)
    _show_other_methods(lab, survey)
    _show_provenance(info, survey, origin)


def _explain_too_few(info: ModelInfo, specs: tuple[ModuleSpec, ...]) -> None:
    """Explain why there is nothing to compare and what to do instead."""
    if not specs:
        st.info(f"{plain(info.model)} has no weights of a known kind to compare. Choose individual weights on Compress.")
        return
    kind = KIND_TITLES.get(specs[0].kind, specs[0].kind)
    reason = "has only one layer" if info.num_layers == 1 else f"has only one matrix of kind {kind}"
    st.info(
        plain(
            f"{info.model} {reason}, so there is nothing to compress {specs[0].name} with. Choose more kinds: "
            "with residual stacking, matrices of all kinds can share a basis of the residual stream."
        )
    )
    others = list(dict.fromkeys(spec.kind for spec in info.modules if spec.default and spec.kind != specs[0].kind))
    if others:
        added = DEFAULT_KIND if DEFAULT_KIND in others else others[0]
        st.button(plain(f"Add {KIND_TITLES.get(added, added)}"), key="groups_add", on_click=_add, args=(added,))


def _add(kind: str) -> None:
    st.session_state[KINDS] = [*st.session_state[KINDS], kind]


def _explain_misfit(specs: tuple[ModuleSpec, ...], stack: str) -> None:
    """Explain why no two modules can be stacked, using one pair as an example, and what to do instead."""
    try:
        for other in specs[1:]:
            group_shape((specs[0], other), stack)
    except InputError as error:
        st.info(plain(str(error)))
    else:
        st.info("No two of these modules can be stacked into one matrix; choose other kinds.")


def _wait(info: ModelInfo, specs: tuple[ModuleSpec, ...], ratio: float) -> None:
    """Start the survey and poll until it is ready; if it will take a long time, ask for confirmation first."""
    names = tuple(spec.name for spec in specs)
    seconds, count = estimated_seconds(specs), len(specs) * (len(specs) - 1) // 2
    duration = f"{max(5, 5 * round(seconds / 5))} s" if seconds < 2 * PATIENT_SECONDS else f"{round(seconds / 60)} minutes"
    requested = st.session_state.setdefault(REQUESTED, set())
    if seconds > PATIENT_SECONDS and (names, ratio) not in requested:
        st.info(
            f"Comparing {count:,} pairs of {len(specs)} modules takes about {duration}; the result is then cached. "
            "Choose fewer kinds to save time."
        )
        if not st.button(f"Compare {count:,} pairs", key="groups_start"):
            return
        requested.add((names, ratio))
    last = st.session_state.get(LAST)
    st.session_state[LAST] = (info, specs, ratio)
    if last not in (None, st.session_state[LAST]):
        end_survey(*last)
    activity = (
        f"Comparing {count:,} pairs of {len(specs)} modules; this takes about {duration}. The result will appear automatically."
    )
    wait_for(partial(request_survey, info, specs, ratio), partial(st.info, activity, icon=":material/hourglass:"))


def _show_pairs(survey: Survey, stack: str, origin: str) -> None:
    table = pair_table(survey, stack)
    alt = (
        "Heat map of module pairs: the reduction in relative error from compressing each pair as one matrix at the same "
        "stored size; the table below has the numbers."
    )
    draw(pair_figure(table, palette()), "groups_pairs", alt)
    gaining, comparable = int((table["gain"] > 0).sum()), int(table["gain"].notna().sum())
    misfits = len(table) - comparable
    empty = f" Empty cells: {misfits} of {len(table)} pairs cannot be stacked into one matrix." if misfits else ""
    st.caption(plain(f"{gaining or 'None'} of {comparable} pairs benefit from stacking.{empty}"))
    _table(table, survey, "pairs", origin)


@reporting_errors()
def _show_tree(info: ModelInfo, survey: Survey, stack: str, origin: str) -> None:
    """Show the tree with its cut, the groups at the cut, and a button that uses them in the draft."""
    merges = survey.merges[stack]
    shown = repr((survey.fingerprint, survey.modules, survey.ratio, stack))
    key = f"groups_cut_{hashlib.sha256(shown.encode()).hexdigest()[:8]}"
    st.session_state.setdefault(key, best_cut(survey, stack))
    chart = st.container()
    merge_count = st.slider(
        "Merges before the cut",
        0,
        len(merges),
        key=key,
        persist_state="session",
        help="The tree merges modules in order of gain. The default cut minimises the error over all modules.",
    )
    alt = (
        f"Tree of {len(merges)} merges of {len(survey.modules)} modules in order of gain, cut after the first {merge_count}; "
        "the table below has the numbers."
    )
    with chart:
        draw(tree_figure(survey, stack, merge_count, palette()), "groups_tree", alt)
    st.markdown(plain(results.cut_answer(survey, stack, merge_count)))
    _show_groups(info, survey, stack, merge_count)
    _table(merge_table(survey, stack), survey, "merges", origin)


def _show_groups(info: ModelInfo, survey: Survey, stack: str, merge_count: int) -> None:
    """List the groups at the cut, each with its gain, stacking and reason, and offer to use them in the draft."""
    groups, alone = groups_at(survey, stack, merge_count)
    joint = [(group.modules, group.stack) for group in groups]
    separate = [((name,), best_stack([info.module(name)])) for name in alone]
    use = partial(draft.use_groups, info, [*joint, *separate], survey.ratio)
    if st.button("Use these groups", key="groups_use", icon=":material/compress:", on_click=use):
        st.switch_page("pages/compress.py")
    lines = [f"- **{plain(module_words(group.modules))}**: {plain(group_words(group))}" for group in groups[:LISTED]]
    if more := groups[LISTED:]:
        lines.append(f"- and {len(more)} more: {plain('; '.join(module_words(group.modules) for group in more))}")
    if alone:
        lines.append(f"- Not grouped: {plain(module_words(alone))}")
    st.markdown("\n".join(lines))


def _table(table: pd.DataFrame, survey: Survey, purpose: str, origin: str) -> None:
    """Show a chart's table, with a download that includes the provenance of every row."""
    with st.expander("Show as a table"):
        show_table(table, f"groups_{purpose}_table", formats=THREE_DECIMALS)
        file_name = f"offcomp-{survey.model.replace('/', '-')}-{purpose}.csv"
        make = partial(results.exported, table, survey, origin)
        csv_button(f"{purpose.capitalize()}, CSV", file_name, f"groups_csv_{purpose}", make)


def _show_other_methods(lab: Lab, survey: Survey) -> None:
    """State what runs have measured about grouping these modules with methods other than SVD."""
    table = grouping_table(lab.measured, survey)
    st.subheader("Does this hold for other methods?")
    st.markdown(plain(grouping_answer(table, survey)))
    if not table.empty:
        with st.expander("Show as a table"):
            show_table(table.drop(columns="style_key"), "groups_methods_table", formats=number_formats(table))


def _show_provenance(info: ModelInfo, survey: Survey, origin: str) -> None:
    st.caption(
        plain(
            f"{results.provenance(survey, origin)}. Errors are exact for SVD; joint storage never takes more parameters "
            "than separate storage. Other methods may rank groups differently."
        )
    )
    kinds = ",".join(dict.fromkeys(info.module(name).kind for name in survey.modules))
    with st.expander("Command line"):
        command = f"offcomp suggest {shlex.quote(info.model)} --kinds {kinds} --ratio {survey.ratio:g} --survey --json"
        st.code(command, language="bash")
