"""The Examples page: outcomes of individual predictions, which of them changed, and two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from offcomp.results.charts.examples import (
    CELLS,
    LISTED,
    found_in,
    has_classes,
    joint_answer,
    joint_table,
    joint_words,
    outcome_answer,
    outcome_figure,
    outcome_table,
    score_of,
    shift_answer,
    shift_figure,
    shift_table,
    shift_words,
    unlisted_text,
)
from offcomp.results.continuations import continues_prompts
from offcomp.results.csv_text import csv_text
from offcomp.results.paired import same_test
from offcomp.results.runs import result_of, short_names, with_provenance
from offcomp.results.scores import Score, metric_of, on_task, sentence_start, task_title
from offcomp.runs.store import Run
from offcomp.ui import draft
from offcomp.ui.compare.results import show_chart
from offcomp.ui.escape import plain
from offcomp.ui.examples.continuations import show_continuations
from offcomp.ui.frame import palette

RUN, TASK, OUTCOME = "examples_run", "examples_task", "examples_outcome"
SEARCH, BESIDE = "examples_search", "examples_beside"
CHANGED = "changed"
TABLE_PIXELS = 420


def show_examples(runs: Sequence[Run]) -> None:
    """Draw the page below the choice of runs."""
    scored = [run for run in runs if result_of(run)["scores"]]
    if not scored:
        st.info(
            "None of these runs was scored on a task, so there are no predictions to show. Choose other runs above, or run a "
            "plan that includes a task."
        )
        if st.button("Compress something", type="primary", key="examples_compress", icon=":material/compress:"):
            st.switch_page("pages/compress.py")
        return
    names = short_names(runs)
    answer = st.empty()
    run, task, second = _choose(scored, names)
    if len(scored) < len(runs):
        st.caption(f"{len(runs) - len(scored)} of {len(runs)} runs are not listed: they were not scored on a task.")
    score = score_of(run, task)
    answer.markdown(plain((outcome_answer if has_classes(score) else shift_answer)(run, task)))
    if continues_prompts(score):
        show_continuations(run, second, task, names)
    listed = shift_table(run, task)
    if has_classes(score):
        left, right = st.columns([5, 6], gap="large")
        with left:
            listed = _outcomes(score, listed)
        with right:
            _shift(run, score, listed)
    else:
        _shift(run, score, listed)
    _table(run, task, score, listed)
    _beside(run, second, task, names)


def _choose(runs: Sequence[Run], names: dict[str, str]) -> tuple[Run, str, Run | None]:
    """The run to show, one of its tasks, and a second run to compare it with, if another was scored on the same examples."""
    by_id = {run.id: run for run in runs}
    with st.container(horizontal=True, gap="medium"):
        run = by_id[_ask_run("Run", "run", RUN, by_id, names)]
        titles = {task: task_title(task, score) for task, score in result_of(run)["scores"].items()}
        draft.view("task", TASK, list(titles))
        task = st.segmented_control(
            "Task", list(titles), key=TASK, format_func=lambda name: plain(titles[name]), required=True, persist_state="session"
        )
        rivals = {other.id: other for other in runs if other.id != run.id and same_test(run, other, str(task))}
        second = _ask_run("Compare with", "beside", BESIDE, rivals, names) if len(rivals) > 1 else next(iter(rivals), None)
    return run, str(task), rivals[second] if second else None


def _ask_run(label: str, name: str, key: str, runs: dict[str, Run], names: dict[str, str]) -> str:
    """Ask for one of these runs; the choice is part of the link."""
    draft.view(name, key, list(runs))
    return str(
        st.selectbox(plain(label), list(runs), key=key, format_func=names.__getitem__, persist_state="session", width=300)
    )


def _outcomes(score: Score, listed: pd.DataFrame) -> pd.DataFrame:
    """Show the outcomes of all answers; returns the listed examples with the chosen outcome."""
    table, place = outcome_table(score), st.container()
    draft.view("outcome", OUTCOME, [CHANGED, *CELLS])
    outcome = st.segmented_control(
        "Outcome",
        [CHANGED, *CELLS],
        key=OUTCOME,
        required=True,
        label_visibility="collapsed",
        format_func=lambda name: plain(f"{name} ({_count(table, _cells(name)):,})"),
        persist_state="session",
        wrap=True,
    )
    chosen = _cells(str(outcome))
    alt = "How many answers were right or wrong before and after; the table below has the numbers."
    show_chart(place, outcome_figure(table, chosen, palette()), table, key="examples_outcomes", alt=alt)
    if said := unlisted_text(table, score, chosen):
        st.caption(plain(said))
    return listed[listed["change"].isin(chosen)]


def _cells(outcome: str) -> tuple[str, ...]:
    return LISTED if outcome == CHANGED else (outcome,)


def _count(table: pd.DataFrame, cells: Sequence[str]) -> int:
    return int(table.loc[table["change"].isin(cells), "count"].sum())


def _shift(run: Run, score: Score, listed: pd.DataFrame) -> None:
    """Plot the value after compression against the value before, for each listed example."""
    if listed.empty:
        st.caption("No example is listed here, so there is nothing to draw.")
        return
    alt = f"The {shift_words(score)} of each listed example after against before; the table below has the numbers."
    figure = shift_figure(listed, run, score, palette())
    st.plotly_chart(figure, theme=None, key="examples_shift", alt=alt, config={"displaylogo": False})
    better = "lower" if metric_of(score).direction == "lower" else "higher"
    if has_classes(score):
        st.caption(
            "Above the dotted line, the compressed model gives the true label a higher probability; below it, a lower one."
        )
    elif better == "lower":
        st.caption("Above the dotted line, the compressed model has a higher loss on the text; below it, a lower one.")
    else:
        st.caption("Above the dotted line, the compressed model gives a higher score; below it, a lower one.")


def _table(run: Run, task: str, score: Score, listed: pd.DataFrame) -> None:
    """The listed examples, searchable."""
    st.subheader("Which sentences are these?" if has_classes(score) else "Which examples changed most?")
    if listed.empty:
        return
    words = st.text_input(
        "Search the texts", key=SEARCH, placeholder="A word or part of one", max_chars=100, persist_state="session"
    )
    found = found_in(listed, words)
    st.dataframe(
        found,
        hide_index=True,
        key="examples_table",
        height=TABLE_PIXELS if len(found) > 10 else "auto",
        column_order=_columns(found, ("text", "truth", "predicted", "before", "after", "difference", "change")),
        column_config=_formats(score),
    )
    st.caption(plain(f"{len(found)} of {len(listed)} listed examples shown; {shift_words(score)}."))
    st.download_button(
        "These examples, CSV",
        partial(_as_csv, found, run),
        f"offcomp-examples-{task.replace('/', '-')}.csv",
        "text/csv",
        key="examples_csv",
        on_click="ignore",
    )


def _as_csv(table: pd.DataFrame, run: Run) -> str:
    return csv_text(with_provenance(table, [run]))


def _columns(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The columns that are not empty."""
    return [name for name in names if name in table and (table[name].notna() & (table[name] != "")).any()]


def _formats(score: Score, first: str = "", second: str = "") -> dict[str, Any]:
    number, text, what = st.column_config.NumberColumn, st.column_config.TextColumn, sentence_start(shift_words(score))
    truth = text("True label") if has_classes(score) else number("Truth", format="%.2f", help="The score given by annotators.")
    return {
        "text": text("Text", width="large"),
        "truth": truth,
        "predicted": text("Predicted", help="The class that the compressed model predicts."),
        "before": number("Original", format="%.3f", help=f"{what}, by the original model."),
        "after": number("Compressed", format="%.3f", help=f"{what}, by the compressed model."),
        "difference": number("Change", format="%+.3f"),
        "change": text("Flip"),
        "original": number("Original", format="%.3f", help=f"{what}, by the original model."),
        "first": text(first, help=f"{what}, if this run lists the example."),
        "second": text(second, help=f"{what}, if this run lists the example."),
    }


def _beside(run: Run, second: Run | None, task: str, names: dict[str, str]) -> None:
    """Show the same examples as scored by two runs."""
    st.subheader("Do two runs fail on the same examples?")
    if second is None:
        what = on_task(task, score_of(run, task))
        st.caption(
            plain(f"Choose a second run above that was scored for {what} on the same examples to see both side by side.")
        )
        return
    pair = names[run.id], names[second.id]
    st.markdown(plain(joint_answer(run, second, pair, task)))
    table = joint_table(run, second, task)
    st.dataframe(
        joint_words(table),
        hide_index=True,
        key="examples_joint_table",
        height=TABLE_PIXELS if len(table) > 10 else "auto",
        column_order=_columns(table, ("text", "truth", "original", "first", "second")),
        column_config=_formats(score_of(run, task), *pair),
    )
    st.caption(f"{len(table)} examples listed by at least one of the two runs, largest difference first.")
