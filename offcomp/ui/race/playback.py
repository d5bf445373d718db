"""The position in a race, kept in the session: which epoch is shown, whether it plays, and what the controls do."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

import streamlit as st

from offcomp.results.race import Race

TICK_SECONDS = 0.5
DUE = 0.6
"""Share of a tick after which the next frame is due: a script that runs in between, after a click, shows no new frame."""
EPOCH, PLAYING, LAST, SHOWN = "race_position", "race_playing", "race_ticked", "race_shown"
MOVES, START = "race_moves", "race_slider_start"
"""Session state keys: how often the position was set by anything but the slider, and the epoch that was set last."""
REVEALED = "race_revealed"
"""Session state key: the races whose end this session has seen."""


def begin(key: str) -> None:
    """Play the race of these runs from its first epoch."""
    st.session_state.update({SHOWN: key, PLAYING: True})
    _set(0)


def advance(race: Race) -> int:
    """The epoch to show, after moving on by one frame if it is time; 0 if there are no frames yet.

    A race that is opened by a link is shown at its end if it has ended, and plays from its first epoch otherwise.
    """
    state = st.session_state
    epochs = [frame.epoch for frame in race.shown]
    if state.get(SHOWN) != race.key:
        begin(race.key)
        if race.ended and epochs:
            _set(epochs[-1])
            pause()
    if not epochs:
        return 0
    place = _place(epochs, state[EPOCH])
    due = monotonic() - state[LAST] >= DUE * TICK_SECONDS
    if state[PLAYING] and state[EPOCH] and due and place < len(epochs) - 1:
        place += 1
    elif state[PLAYING] and race.ended and place == len(epochs) - 1:
        pause()
    _set(epochs[place])
    if place == len(epochs) - 1 and race.ended:
        state[REVEALED] = {*state.get(REVEALED, ()), race.key}
    return epochs[place]


def _set(epoch: int) -> None:
    """Move to an epoch. The slider then starts afresh: the browser may still send the value that it had before."""
    state = st.session_state
    if state.get(EPOCH) != epoch:
        state.update({EPOCH: epoch, START: epoch, MOVES: state.get(MOVES, 0) + 1, LAST: monotonic()})


def slider_key() -> str:
    """The key of the slider, which starts at the epoch START."""
    state = st.session_state
    key = f"race_slider_{state[MOVES]}"
    if key not in state and state[EPOCH] != state[START]:  # another page was open in the meantime
        state.update({START: state[EPOCH], MOVES: state[MOVES] + 1})
        key = f"race_slider_{state[MOVES]}"
    return key


def slide(key: str) -> None:
    """Pause, and move to the epoch of the slider with this key, unless a later one has taken its place."""
    if key == f"race_slider_{st.session_state[MOVES]}":
        st.session_state[EPOCH] = st.session_state[key]
        pause()


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
    if state[PLAYING] and epochs and state[EPOCH] >= epochs[-1]:
        _set(epochs[0])


def move(epochs: Sequence[int], steps: int) -> None:
    """Pause, and move by a number of frames."""
    if epochs:
        place = _place(epochs, st.session_state[EPOCH]) + steps
        _set(epochs[min(max(place, 0), len(epochs) - 1)])
    pause()


def pause() -> None:
    """Stop at the epoch that is shown."""
    st.session_state[PLAYING] = False
