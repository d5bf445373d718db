"""The list of runs, with progress, reasons for failures, and buttons to cancel, repeat or delete runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from offcomp.planning.data.row_counts import reading_text
from offcomp.results.runs import method_title, result_of
from offcomp.results.scores import brief_difference, metric_of, on_task, sentence_start, value_of
from offcomp.runs.result import overall_error
from offcomp.runs.store import OF_A_SAMPLE, BadFolder, Run, RunStore
from offcomp.ui import draft
from offcomp.ui.compare.selection import MAX_COMPARED
from offcomp.ui.escape import code, plain
from offcomp.ui.frame import reporting_errors
from offcomp.ui.jobs import model_info
from offcomp.ui.lab.run import act, progress_of

POLL_SECONDS = 0.5
RUNS_A_PAGE = 20
BAD_NAMED = 3
STATUS_ICONS = {
    "queued": ":material/hourglass_empty:",
    "running": ":material/progress_activity:",
    "done": ":material/check_circle:",
    "failed": ":material/error:",
    "cancelled": ":material/cancel:",
    "interrupted": ":material/power_off:",
}


def describe_run(run: Run) -> str:
    """Describe a run in a few words: methods, groups and ratio."""
    if not run.plan.groups:
        return "baseline"
    names = [group.name for group in run.plan.groups]
    groups = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    ratios = sorted({group.ratio for group in run.plan.groups})
    return f"{method_title(run)}: {groups} at {', '.join(f'{ratio:g}x' for ratio in ratios)}"


def list_runs() -> None:
    """List all runs, newest first, polling while any of them are active."""
    store = RunStore()
    runs, damaged = store.listing()
    if damaged:
        st.warning(plain(left_out_text(damaged)), icon=":material/folder_off:")
    busy = any(not run.ended for run in runs)
    if not runs:
        st.info("No runs yet. Choose some weights and start a run; with SVD, this takes a few seconds.")
        st.page_link("pages/compress.py", label="Compress something", icon=":material/compress:")
        return
    done = sum(run.status == "done" for run in runs)
    left, right = st.columns([3, 1], vertical_alignment="center")
    folder = str(store.folder).replace(str(Path.home()), "~", 1)
    counted = f"{len(runs):,} runs" if len(runs) > 1 else "1 run"
    under_way = sum(not run.ended for run in runs)
    left.markdown(f"{plain(counted)}: {done:,} done, {under_way:,} under way. Stored in {code(folder)}.")
    if done:
        right.page_link(
            "pages/compare.py",
            label="Compare the finished runs" if done <= MAX_COMPARED else f"Compare the newest {MAX_COMPARED}",
            icon=":material/compare_arrows:",
            query_params={draft.RUNS: draft.EVERY_RUN},
        )
    st.fragment(_cards, run_every=POLL_SECONDS if busy else None)(busy)


def left_out_text(damaged: Sequence[BadFolder]) -> str:
    """State on one line which folders are not listed and why."""
    start = "1 folder cannot be read and is" if len(damaged) == 1 else f"{len(damaged)} folders cannot be read and are"
    named = "; ".join(f"{each.name[:40]} ({each.reason[:120]})" for each in damaged[:BAD_NAMED])
    return f"{start} left out: {named}{f' and {len(damaged) - BAD_NAMED} more' if len(damaged) > BAD_NAMED else ''}."


def _cards(was_busy: bool) -> None:
    runs = RunStore().all()
    if was_busy and all(run.ended for run in runs):
        st.rerun()
    cards, pages = st.container(), -(-len(runs) // RUNS_A_PAGE)
    page = st.pagination(pages, key="runs_page", persist_state="session") if pages > 1 else 1
    shown = runs[(page - 1) * RUNS_A_PAGE : page * RUNS_A_PAGE]
    for run in shown:
        with cards.container(border=True, key=f"run_{run.id}"):
            _card(run)
    if pages > 1:
        first = (page - 1) * RUNS_A_PAGE
        st.caption(f"Runs {first + 1:,} to {first + len(shown):,} of {len(runs):,}, newest first.")


def _card(run: Run) -> None:
    left, right = st.columns([3, 1], vertical_alignment="center")
    with left:
        st.markdown(f"{STATUS_ICONS[run.status]} **{plain(run.status_text)}** · {plain(describe_run(run))}")
        submitted = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.submitted))
        st.caption(plain(f"run {run.id} · {run.plan.model} · seed {run.plan.seed} · {submitted}{_duration_text(run)}"))
        if run.status in ("queued", "running"):
            fraction, text = progress_of(run)
            st.progress(fraction, text=plain(text))
        elif run.status == "done":
            st.markdown(plain(outcome_text(run)))
            if run.of_a_sample:
                st.caption(f"Its model is {OF_A_SAMPLE}.")
            for reading in dict.fromkeys(filter(None, map(reading_text, result_of(run).scores.values()))):
                st.caption(plain(f"{sentence_start(reading)}."))
        elif run.error and run.status != "cancelled":
            st.error(plain(run.error), icon=":material/error:")
    with right.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center"):
        _actions(run)


def outcome_text(run: Run) -> str:
    """Summarise a run's error and scores on one line."""
    result = result_of(run)
    parts = [f"relative error {overall_error(result.groups):.3f}"] if result.groups else []
    for task, score in result.scores.items():
        parts.append(f"{on_task(task, score)} {metric_of(score).number(value_of(score))} ({brief_difference(score)})")
    return sentence_start("; ".join(parts))


def _duration_text(run: Run) -> str:
    return f" · {run.result.timings['total']:.0f} s" if run.result and run.status == "done" else ""


def _actions(run: Run) -> None:
    if run.ended:
        if run.status == "done":
            query, icon = {draft.RUNS: run.id}, ":material/compare_arrows:"
            st.page_link("pages/compare.py", label="Compare", icon=icon, query_params=query, width="content")
        else:
            st.button("Run again", key=f"again_{run.id}", on_click=_run_again, args=(run,))
        st.button(
            "Delete",
            key=f"delete_{run.id}",
            on_click=act,
            args=(RunStore().delete, run.id),
            type="tertiary",
            icon=":material/delete:",
        )
    elif (run.folder / "cancel").exists():
        st.caption("stopping")
    else:
        st.button("Cancel", key=f"cancel_{run.id}", on_click=act, args=(RunStore().cancel, run.id))


@reporting_errors()
def _run_again(run: Run) -> None:
    RunStore().submit(run.plan, model_info(run.plan.model), again=run.status == "done")
