"""The Groups page: all pairs, the merge tree with its cut, their tables, and the button that copies groups to the draft."""

from __future__ import annotations

import hashlib
import shlex
from functools import partial

import pandas as pd
import streamlit as st

from offcomp.errors import InputError
from offcomp.files import home_folder
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.planning.grouping import best_stack
from offcomp.planning.merge_survey import Survey, best_cut, find_survey
from offcomp.results import groups as results
from offcomp.results.charts.groups import pair_figure, tree_figure
from offcomp.results.groups import group_words, groups_at, merge_table, module_words, pair_table
from offcomp.ui import draft
from offcomp.ui.charts import csv_button, draw, show_table
from offcomp.ui.escape import plain
from offcomp.ui.frame import palette, reporting_errors
from offcomp.ui.groups.choices import explain_misfit, explain_too_few, wait

MOST_MODULES = 64
LISTED = 5
THREE_DECIMALS = dict.fromkeys(
    ("gain", "error", "group_gain", "separate_error", "joint_error"), st.column_config.NumberColumn(format="%.3f")
)


def show(info: ModelInfo, specs: tuple[ModuleSpec, ...], ratio: float, stack: str) -> None:
    """Show the answer, both charts and their tables, or why there are none."""
    if len(specs) < 2:
        explain_too_few(info, specs)
        return
    if len(specs) > MOST_MODULES:
        count = len(specs) * (len(specs) - 1) // 2
        raise InputError(f"{len(specs)} modules make {count:,} pairs; choose fewer kinds, {MOST_MODULES} modules at most")
    stored = find_survey(info, specs, ratio, home_folder())
    if stored is None:
        wait(info, specs, ratio)
        return
    survey, origin = stored
    st.markdown(plain(results.survey_answer(survey, stack)))
    if stack not in survey.merges:
        explain_misfit(specs, stack)
        return
    pairs, tree = st.columns(2, gap="large")
    with pairs:
        _show_pairs(survey, stack, origin)
    with tree:
        st.fragment(_show_tree)(info, survey, stack, origin)
    _show_provenance(info, survey, origin)


def _show_pairs(survey: Survey, stack: str, origin: str) -> None:
    table = pair_table(survey, stack)
    alt = (
        "Heat map, module by module: by how much the relative error falls when the two are compressed as one matrix of the "
        "same stored size; the table below has the numbers."
    )
    draw(pair_figure(table, palette()), "groups_pairs", alt)
    gaining, comparable = int((table["gain"] > 0).sum()), int(table["gain"].notna().sum())
    misfits = len(table) - comparable
    empty = f" {misfits} pairs do not fit into one matrix; their cells are empty." if misfits else ""
    st.caption(plain(f"{gaining or 'None'} of {comparable} pairs gain.{empty}"))
    _table(table, survey, "pairs", origin)


@reporting_errors()
def _show_tree(info: ModelInfo, survey: Survey, stack: str, origin: str) -> None:
    """Show the tree with its cut, the groups at the cut, and the button that uses them."""
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
        f"Tree of {len(merges)} merges of {len(survey.modules)} modules by their gain, cut after {merge_count}; "
        "the table below has the numbers."
    )
    with chart:
        draw(tree_figure(survey, stack, merge_count, palette()), "groups_tree", alt)
    st.markdown(plain(results.cut_answer(survey, stack, merge_count)))
    _show_groups(info, survey, stack, merge_count)
    _table(merge_table(survey, stack), survey, "merges", origin)


def _show_groups(info: ModelInfo, survey: Survey, stack: str, merge_count: int) -> None:
    """List the groups at the cut, each with gain, stacking and reason, and offer to use them in the draft."""
    groups, alone = groups_at(survey, stack, merge_count)
    if st.button("Use these groups", type="primary", key="groups_use", icon=":material/compress:"):
        joint = [(group.modules, group.stack) for group in groups]
        draft.use_groups(info, [*joint, *(((name,), best_stack([info.module(name)])) for name in alone)], survey.ratio)
        st.switch_page("pages/compress.py")
    lines = [f"- **{plain(module_words(group.modules))}**: {plain(group_words(group))}" for group in groups[:LISTED]]
    if more := groups[LISTED:]:
        lines.append(f"- and {len(more)} more: {plain('; '.join(module_words(group.modules) for group in more))}")
    if alone:
        lines.append(f"- Alone: {plain(module_words(alone))}")
    st.markdown("\n".join(lines))


def _table(table: pd.DataFrame, survey: Survey, purpose: str, origin: str) -> None:
    """A chart's table, with a download that says where every row comes from."""
    with st.expander("The same as a table"):
        show_table(table, f"groups_{purpose}_table", formats=THREE_DECIMALS)
        file_name = f"offcomp-{survey.model.replace('/', '-')}-{purpose}.csv"
        csv_button(
            f"{purpose.capitalize()}, CSV",
            file_name,
            f"groups_csv_{purpose}",
            partial(results.exported, table, survey, origin),
        )


def _show_provenance(info: ModelInfo, survey: Survey, origin: str) -> None:
    st.caption(
        plain(
            f"{results.provenance(survey, origin)}. Errors are exact, for SVD; joint storage needs at most as many parameters "
            "as separate storage. Other methods may rank groups differently."
        )
    )
    kinds = ",".join(dict.fromkeys(info.module(name).kind for name in survey.modules))
    with st.expander("Command line"):
        st.code(
            f"offcomp suggest {shlex.quote(info.model)} --kinds {kinds} --ratio {survey.ratio:g} --survey --json",
            language="bash",
        )
