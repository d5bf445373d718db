"""Task scores of finished runs on a page: a chart a task, and the single predictions that changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from offcomp.paired import change_table, flip_count_table, flip_table
from offcomp.results import result_of
from offcomp.runs import Run
from offcomp.score_charts import score_figure, score_table
from offcomp.scores import metric_of, on_task, task_title, visible_difference
from offcomp.ui.frame import palette
from offcomp.ui.results import show_chart

P_HELP = "McNemar's exact test: how likely so uneven a split is if both directions were equally likely."


def _first_score(runs: Sequence[Run], task: str) -> dict[str, Any]:
    """The score of a task in the first run that has it."""
    return next(scores[task] for run in runs if task in (scores := result_of(run)["scores"]))


def score_panels(runs: Sequence[Run]) -> list[Callable[[], None]]:
    """What draws the chart and table of each task; where there is none, what says so."""
    table = score_table(runs)
    parts = [part for _, part in table.groupby(["task", "metric"], sort=False)]
    return [partial(_score_panel, runs, part) for part in parts] or [_no_score]


def _score_panel(runs: Sequence[Run], table: pd.DataFrame) -> None:
    task = str(table["task"].iloc[0])
    score = _first_score(runs, task)
    alt = f"The {on_task(task, score)} of the original and of each run, with 95 % intervals; the table below has the numbers."
    place = st.container()
    if sentence := visible_difference(score):
        st.caption(sentence)
    show_chart(place, score_figure(table, palette()), table, key=f"compare_score_{task}", alt=alt)


def _no_score() -> None:
    st.caption("No task was scored in these runs: name one in the plan to see what the model still can do.")


def show_flip_counts(runs: Sequence[Run]) -> None:
    """How many predictions changed sides, both ways: equal accuracies can hide many."""
    counts = flip_count_table(runs)
    st.subheader("How many predictions flipped?")
    if counts.empty:
        st.caption("No task with classes was scored, so no prediction could change sides.")
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
    st.caption("Equal accuracies can hide many flips. The sentences are listed below.")


def show_flips(runs: Sequence[Run]) -> None:
    """Which single predictions changed sides, the largest change first."""
    flips = flip_table(runs)
    if flips.empty:
        return
    st.subheader("Which predictions flipped?")
    optional = {"task": flips["task"].nunique() > 1, "predicted": bool((flips["predicted"] != "").any())}
    columns = ("task", "text", "label", "predicted", "before", "after", "difference", "name", "change")
    probability = "Probability of the true label"
    number = st.column_config.NumberColumn
    st.dataframe(
        flips,
        hide_index=True,
        key="compare_flips",
        column_order=[column for column in columns if optional.get(column, True)],
        column_config={
            "task": "Task",
            "predicted": st.column_config.TextColumn("Now said", help="The class that the compressed model gives."),
            "text": st.column_config.TextColumn("Text", width="large"),
            "label": "True label",
            "before": number("Original", format="%.3f", help=f"{probability} given by the original model."),
            "after": number("Compressed", format="%.3f", help=f"{probability} given by the compressed model."),
            "difference": number("Change", format="%+.3f"),
            "name": "Run",
            "change": "Flip",
        },
    )


def show_changes(runs: Sequence[Run]) -> None:
    """Which examples of tasks without classes changed most, a table a task."""
    changes = change_table(runs)
    if changes.empty:
        return
    st.subheader("What changed most?")
    for name, part in changes.groupby("task", sort=False):
        task = str(name)
        score = _first_score(runs, task)
        loss = metric_of(score).direction == "lower"
        what = "Loss in nats a word, lower is better" if loss else "Score that the model gives"
        st.caption(f"{task_title(task, score)}. {what}.")
        number = st.column_config.NumberColumn
        st.dataframe(
            part,
            hide_index=True,
            key=f"compare_changes_{task}",
            column_order=("text", *(() if part["truth"].isna().all() else ("truth",)), "before", "after", "difference", "name"),
            column_config={
                "text": st.column_config.TextColumn("Text", width="large"),
                "truth": number("Truth", format="%.2f", help="The score that people gave."),
                "before": number("Original", format="%.3f"),
                "after": number("Compressed", format="%.3f"),
                "difference": number("Change", format="%+.3f"),
                "name": "Run",
            },
        )
