"""The position in a race, kept in the session: which epoch is shown, whether it plays, and what the controls do."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import streamlit as st

from offcomp.results.race import Race

TICK_SECONDS = 0.5
EPOCH, PLAYING, LAST, SHOWN = "race_epoch", "race_playing", "race_ticked", "race_shown"
REVEALED = "race_revealed"
"""Session state key: the races whose end this session has seen."""


def begin(key: str) -> None:
    """Play the race of these runs from its first epoch."""
    st.session_state.update({SHOWN: key, PLAYING: True, EPOCH: 0, LAST: monotonic()})


def advance(race: Race) -> int:
    """The epoch to show, after moving on by one frame if it is time; 0 if there are no frames yet.

    A race that is opened by a link is shown at its end if it has ended, and plays from its first epoch otherwise.
    """
    state = st.session_state
    epochs = [frame.epoch for frame in race.shown]
    if state.get(SHOWN) != race.key:
        begin(race.key)
        if race.ended and epochs:
            state.update({EPOCH: epochs[-1], PLAYING: False})
    if not epochs:
        return 0
    place = _place(epochs, state.get(EPOCH) or 0)
    due = monotonic() - state.get(LAST, 0.0) >= 0.6 * TICK_SECONDS
    if not state.get(EPOCH):
        state[LAST] = monotonic()
    elif state[PLAYING] and due and place < len(epochs) - 1:
        place += 1
        state[LAST] = monotonic()
    elif state[PLAYING] and race.ended and place == len(epochs) - 1:
        state[PLAYING] = False
    state[EPOCH] = epochs[place]
    if place == len(epochs) - 1 and race.ended:
        state[REVEALED] = {*state.get(REVEALED, ()), race.key}
    return epochs[place]


def _place(epochs: Sequence[int], epoch: int) -> int:
    """The index of the last frame that is not after an epoch."""
    return max((index for index, each in enumerate(epochs) if each <= epoch), default=0)


def ticking(race: Race) -> bool:
    """Whether the race needs to be drawn again soon, because it plays or because its runs are in progress."""
    return not race.ended or bool(st.session_state.get(PLAYING))


def revealed(race: Race) -> bool:
    """Whether this session has seen the end of the race."""
    return race.key in st.session_state.get(REVEALED, ())


def play_or_pause(epochs: Sequence[int]) -> None:
    """Pause, or play on; from the start if the last epoch is shown."""
    state = st.session_state
    state[PLAYING] = not state.get(PLAYING)
    state[LAST] = monotonic()
    if state[PLAYING] and epochs and state[EPOCH] >= epochs[-1]:
        state[EPOCH] = epochs[0]


def move(epochs: Sequence[int], steps: int) -> None:
    """Pause, and move by a number of frames."""
    if epochs:
        place = _place(epochs, st.session_state[EPOCH]) + steps
        st.session_state[EPOCH] = epochs[min(max(place, 0), len(epochs) - 1)]
    pause()


def pause() -> None:
    """Stop at the epoch that is shown."""
    st.session_state[PLAYING] = False
