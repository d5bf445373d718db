"""Task scores of finished runs on a page: one chart per task, and how many predictions flipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from offcomp.results.charts.scores import score_figure, score_table, scores_of
from offcomp.results.paired import flip_count_table
from offcomp.results.scores import on_task, visible_difference
from offcomp.runs.store import Run
from offcomp.ui.charts import show_chart
from offcomp.ui.escape import plain
from offcomp.ui.frame import palette

P_HELP = "McNemar's exact test: how likely a split at least this uneven would be if both directions were equally likely."


def score_panels(runs: Sequence[Run]) -> list[Callable[[], None]]:
    """Functions that draw the chart and table of each task, or one that says that there is no score."""
    table = score_table(runs)
    parts = [part for _, part in table.groupby(["task", "metric"], sort=False)]
    return [partial(_score_panel, runs, part) for part in parts] or [_no_score]


def _score_panel(runs: Sequence[Run], table: pd.DataFrame) -> None:
    task, metric = str(table["task"].iloc[0]), str(table["metric"].iloc[0])
    scores = scores_of(runs, table)
    what = on_task(task, scores[0])
    alt = f"The {what} of the original and of each run, with 95 % intervals; the table below has the numbers."
    place = st.container()
    if sentence := visible_difference(scores):
        st.caption(plain(sentence))
    show_chart(place, score_figure(table, palette()), table, key=f"compare_score_{task}_{metric}", alt=alt)


def _no_score() -> None:
    st.caption("No task was scored in these runs: add one to the plan to see what the model can still do.")


def show_flip_counts(runs: Sequence[Run]) -> None:
    """Count the predictions that flipped in each direction: equal accuracies can hide many flips."""
    counts = flip_count_table(runs)
    st.subheader("How many predictions flipped?")
    if counts.empty:
        st.caption("No classification task was scored, so there are no flips to count.")
        return
    many_tasks = counts["task"].nunique() > 1
    st.dataframe(
        counts,
        column_order=[column for column in counts.columns if column != "run" and (column != "task" or many_tasks)],
        hide_index=True,
        key="compare_flip_counts",
        column_config={
            "name": "Run",
            "task": "Task",
            "right_to_wrong": "Right to wrong",
            "wrong_to_right": "Wrong to right",
            "p": st.column_config.NumberColumn("p", format="%.2g", help=P_HELP),
        },
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Equal accuracies can hide many flips.", width="stretch")
        st.page_link("pages/examples.py", label="See the sentences", icon=":material/rule:", width="content")
