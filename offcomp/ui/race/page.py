"""The Race page: choose a matrix and a size, start the race, guess who wins, and watch it live or again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st

from offcomp.errors import InputError, StorageError
from offcomp.models.catalogue import ModelInfo
from offcomp.planning.cost import duration
from offcomp.results.charts.race import STYLE, race_gif, race_html, waiting_html
from offcomp.results.race import (
    HEADINGS,
    RATIO,
    RUNNERS,
    Race,
    default_module,
    final_table,
    guess_text,
    race_plans,
    racing_modules,
    read_race,
    standing,
    training_seconds,
    troubles,
    verdict,
    without_frames,
)
from offcomp.runs.store import Run, RunStore, check
from offcomp.ui import draft
from offcomp.ui.charts import download_button
from offcomp.ui.escape import noted_table, plain
from offcomp.ui.frame import palette, reporting_errors, style
from offcomp.ui.jobs import model_info
from offcomp.ui.lab.panel import choose_model
from offcomp.ui.lab.run import act, progress_of
from offcomp.ui.link import RATIOS
from offcomp.ui.race import playback

RACE = "race"
"""URL parameter: the ids of both runs, SVD's first."""
MODULE, SIZE = "race_module", "race_ratio"
GUESS, GUESSES = "race_guess", "race_guesses"
NOTE = "race_note"
INTRODUCTION = (
    "SVD and the paper's autoencoder store the same matrix in the same number of parameters. SVD is computed at once; the "
    "autoencoder learns, epoch by epoch."
)


def show_race() -> None:
    """Draw the page: the choices with the button, then the race in the link, if there is one."""
    key, race = st.query_params.get(RACE), None
    if key is not None:
        try:
            race = read_race(RunStore(), key)
        except (InputError, StorageError) as fault:
            st.warning(plain(f"The race in the link cannot be shown: {fault}."), icon=":material/link_off:")
    if race is None:
        st.markdown(INTRODUCTION)
    elif st.session_state.get(playback.SHOWN) != race.key:
        _choose_as_in(race)
    _choose_and_start()
    colours = palette()
    style(STYLE.format(grid=colours.grid, text=colours.text, muted=colours.muted))
    if race is None:
        _choose_guess(None)
        st.html(waiting_html())
        return
    playback.advance(race)
    ticks = playback.ticking(race)
    st.fragment(_stage, run_every=playback.TICK_SECONDS if ticks else None)(race.key, ticks)


def _choose_as_in(race: Race) -> None:
    """Set the choices to those of a race that a link has opened."""
    (group,) = race.svd.plan.groups
    st.session_state.update({"model": race.svd.plan.model, MODULE: group.modules[0], SIZE: group.ratio})


def _choose_and_start() -> None:
    """Let the user choose the model, the matrix and the size, and start the race."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small", key="race_choices"):
        info = model_info(choose_model())
        modules = racing_modules(info)
        if not modules:
            raise InputError(f"{info.model} has no matrix that can race; choose another model")
        usual = default_module(info)
        draft.view("race_matrix", MODULE, [usual, *(name for name in modules if name != usual)])
        module = st.selectbox("Matrix", modules, key=MODULE, persist_state="session", width=220)
        draft.view("race_ratio", SIZE, [RATIO, *(ratio for ratio in RATIOS if ratio != RATIO)], "{:g}".format)
        ratio = st.selectbox(
            "Compression ratio", RATIOS, key=SIZE, format_func="{:g}x".format, persist_state="session", width=160
        )
        clicked = st.button("Start the race", type="primary", key="run", icon=":material/sports_score:", shortcut="Mod+Enter")
    if clicked:
        _start(info, str(module), float(ratio))
    if note := st.session_state.pop(NOTE, ""):
        st.caption(plain(note))
    elif RACE not in st.query_params:
        seconds = duration(training_seconds(info, str(module), float(ratio)))
        st.caption(
            plain(f"Training takes about {seconds} once the model is loaded; scoring both methods adds a little more time.")
        )


def _start(info: ModelInfo, module: str, ratio: float) -> None:
    """Submit both runs, unless they are done or in progress, and go to their race. Raises PlanError and StorageError."""
    plans, store = race_plans(info, module, ratio), RunStore()
    for plan in plans.values():
        check(plan, info)
    before = {run.id: run.status for run in store.all()}
    runs = [store.submit(plan, info) for plan in plans.values()]
    statuses = {before.get(run.id) for run in runs}
    if statuses == {"done"}:
        st.session_state[NOTE] = "This race has been run before, so you see it again."
    elif statuses & {"queued", "running"}:
        st.session_state[NOTE] = (
            "This race is already under way, started in another tab or earlier; you see it from its first epoch."
        )
    key = ",".join(run.id for run in runs)
    playback.begin(key)
    st.query_params[RACE] = key
    st.rerun()


@reporting_errors()
def _stage(key: str, ticks: bool) -> None:
    """Draw the race. It runs every tick while there is something new to show."""
    race = read_race(RunStore(), key)
    epoch = playback.advance(race)
    if playback.ticking(race) != ticks:
        st.rerun()
    frame = next((frame for frame in race.shown if frame.epoch == epoch), None)
    over = race.decided and playback.revealed(race)
    st.markdown(f"**{plain(verdict(race) if over else standing(race, frame))}**")
    st.html(race_html(race, frame, palette()))
    _controls(race)
    for trouble in troubles(race):
        st.warning(plain(trouble), icon=":material/error:")
    if lost := without_frames(race):
        st.button("Record it again", key="race_again", icon=":material/replay:", on_click=_record_again, args=(lost,))
    _show_progress(race)
    if over:
        _show_end(race)
    else:
        _choose_guess(race)


def _choose_guess(race: Race | None) -> None:
    """Let the visitor guess the winner before the end, and remember the guess for this race."""
    guess = st.segmented_control("Who wins?", list(RUNNERS), format_func=lambda name: plain(RUNNERS[name]), key=GUESS)
    if race and guess:
        st.session_state.setdefault(GUESSES, {})[race.key] = guess


def _controls(race: Race) -> None:
    """The buttons, which also have keys, and the slider of epochs."""
    epochs = [frame.epoch for frame in race.shown]
    every = race.frames.header.every if race.frames else 1
    playing = bool(st.session_state.get(playback.PLAYING))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small", key="race_controls"):
        st.button(
            "Pause" if playing else "Play",
            key="race_play",
            icon=":material/pause:" if playing else ":material/play_arrow:",
            shortcut="P",
            disabled=not epochs,
            on_click=playback.play_or_pause,
            args=(epochs,),
        )
        for label, key, icon, steps in (
            ("Back", "B", ":material/skip_previous:", -1),
            ("Step", "S", ":material/skip_next:", 1),
        ):
            st.button(
                plain(label),
                key=f"race_{key}",
                icon=icon,
                shortcut=key,
                disabled=not epochs,
                on_click=playback.move,
                args=(epochs, steps),
            )
        last = race.epochs // every * every
        if epochs and last > every:
            slider = playback.slider_key()
            start = st.session_state[playback.START]
            st.slider("Epoch", every, last, start, every, key=slider, on_change=playback.slide, args=(slider,), width=420)


def _show_progress(race: Race) -> None:
    """Show the active runs, and a button that cancels them."""
    active = [(name, run) for name, run in zip(RUNNERS.values(), race.runs, strict=True) if not run.ended]
    if not active:
        return
    with st.container(horizontal=True, vertical_alignment="center", key="race_progress"):
        for name, run in active:
            fraction, text = progress_of(run)
            st.progress(fraction, text=plain(f"{name}: {text}"))
        if any((run.folder / "cancel").exists() for _, run in active):
            st.caption("stopping")
        else:
            st.button("Cancel", key="race_cancel", on_click=_cancel, args=([run.id for _, run in active],))


def _cancel(names: list[str]) -> None:
    for name in names:
        act(RunStore().cancel, name)


@reporting_errors()
def _record_again(runs: Sequence[Run]) -> None:
    for run in runs:
        RunStore().submit(run.plan, model_info(run.plan.model), again=True)


def _show_end(race: Race) -> None:
    """Show whether the guess was right, the final figures, and what can be done with them."""
    if guess := st.session_state.get(GUESSES, {}).get(race.key):
        st.markdown(plain(guess_text(race, guess)))
    st.table(noted_table(final_table(race), HEADINGS), hide_index=True, border="horizontal")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if race.shown:
            make = partial(race_gif, race, palette())
            download_button("Share as GIF", "offcomp-race.gif", "image/gif", "race_gif", make, icon=":material/movie:")
        query = {draft.RUNS: ",".join(run.id for run in race.runs)}
        st.page_link("pages/compare.py", label="Compare in detail", icon=":material/compare_arrows:", query_params=query)
    st.caption("The address of this page shows this race again.")
