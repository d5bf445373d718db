"""The Run button of the Lab, which starts runs without leaving the page, and the progress of these runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from offcomp.results.runs import method_title
from offcomp.results.what_if import Answer
from offcomp.runs.store import Run, RunStore
from offcomp.ui.escape import plain
from offcomp.ui.frame import reporting_errors
from offcomp.ui.lab.answers import Lab, not_measured
from offcomp.ui.lab.choices import NAMED_METHODS, listing

POLL_SECONDS = 0.5
SHORTCUT = "Mod+Enter"
STARTED = "lab_started"
"""Session state key: ids of the runs that this session has started in the Lab."""


def run_button(lab: Lab) -> bool:
    """Show the button that runs every method that can reach the size and has not been run. Returns whether it was clicked."""
    wanted = to_run(lab)
    if wanted:
        titles = [answer.title for answer in wanted]
        label = f"Run {listing(titles)}" if len(titles) <= NAMED_METHODS else f"Run {len(titles)} methods"
    else:
        label = _nothing_to_run(lab)
    icon = ":material/play_arrow:" if wanted else ":material/check:" if _all_done(lab) else None
    clicked = st.button(
        plain(label), type="primary", disabled=not wanted, key="run", icon=icon, shortcut=SHORTCUT if wanted else None
    )
    if clicked:
        store = RunStore()
        started = [store.submit(answer.plan, lab.choices.info).id for answer in wanted]
        st.session_state[STARTED] = {*st.session_state.get(STARTED, ()), *started}
    return clicked


def to_run(lab: Lab) -> list[Answer]:
    """The answers whose runs are neither finished nor in progress, and whose methods can reach the size."""
    return [answer for answer in lab.answers if answer.reachable and not (answer.run and (answer.done or not answer.run.ended))]


def _all_done(lab: Lab) -> bool:
    return bool(lab.answers) and all(answer.done for answer in lab.answers)


def _nothing_to_run(lab: Lab) -> str:
    if not lab.choices.specs:
        return "Choose weights"
    if not lab.answers:
        return "Choose a method"
    if any(answer.run and not answer.run.ended for answer in lab.answers):
        return "Running"
    if any(answer.fault and not_measured(answer.plan, lab.choices) for answer in lab.answers):
        return "Measure first"
    return "Already run" if any(answer.done for answer in lab.answers) else "Out of reach"


def show_progress(lab: Lab) -> None:
    """Show the draft's active runs, polling until they end, and the reasons why runs that this session started have failed."""
    active = [answer.run.id for answer in lab.answers if answer.run and not answer.run.ended]
    if active:
        st.fragment(_poll, run_every=POLL_SECONDS)(active)
    started = st.session_state.get(STARTED, ())
    for answer in lab.answers:
        run = answer.run
        if run and run.ended and run.status != "done" and run.id in started:
            st.error(plain(f"{answer.title}: {run.error or run.status}"), icon=":material/error:")


@reporting_errors()
def _poll(names: Sequence[str]) -> None:
    """Show the progress of these runs; once one of them has ended, show its result."""
    runs = {run.id: run for run in RunStore().all()}
    if any(name not in runs or runs[name].ended for name in names):
        st.rerun()
    for column, name in zip(st.columns(len(names), gap="medium"), names, strict=True):
        with column:
            _show_run(runs[name])


def _show_run(run: Run) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        fraction, text = progress_of(run)
        st.progress(fraction, text=plain(f"{method_title(run)}: {text}"))
        if (run.folder / "cancel").exists():
            st.caption("stopping")
        else:
            st.button("Cancel", key=f"lab_cancel_{run.id}", on_click=act, args=(RunStore().cancel, run.id))


def progress_of(run: Run) -> tuple[float, str]:
    """Return the completed fraction of an active run, and its current stage with the time left."""
    progress = run.progress
    if progress is None or progress.stage == "queued":
        return 0.0, "waiting for the previous run"
    remaining = progress.remaining_seconds
    left = "" if remaining is None else f", about {max(1, round(remaining))} s left"
    note = f" ({progress.note})" if progress.note else ""
    return progress.fraction, f"{progress.stage}{left}{note}"


@reporting_errors()
def act(action: Callable[[str], None], run_id: str) -> None:
    """In a callback, carry out an action on a run. If the action fails, show why."""
    action(run_id)
