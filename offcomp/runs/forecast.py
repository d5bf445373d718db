"""Remaining time of a run: predicted from estimated durations of its stages, and corrected by their actual durations.

    remaining = remaining seconds of the current stage + pace * estimated seconds of the stages ahead
    pace      = (PRIOR_SECONDS + actual seconds) / (PRIOR_SECONDS + estimated seconds) of the finished stages

If a stage reports its progress, its duration is extrapolated from that. Until a quarter of the stage is done, the extrapolation
is averaged with the estimate. The displayed time counts down with the clock. It is raised only if the prediction is clearly
longer, and a note then says so. Does not import torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PRIOR_SECONDS = 5.0
TRUSTED_FRACTION = 0.25
"""Once this fraction of a stage is done, its duration is extrapolated from its progress alone."""
OVERDUE = 0.2
"""Remaining time assumed for a stage that has overrun its prediction, as a fraction of its elapsed time."""
TOLERANCE, TOLERANCE_SECONDS = 0.1, 1.0
"""The displayed time is raised only if the prediction exceeds it by both this fraction and this many seconds."""
SLOWER = "slower than estimated"


@dataclass(frozen=True)
class Outlook:
    """The state of a run: fraction completed, seconds remaining and elapsed, and a note or None."""

    fraction: float
    remaining: float
    elapsed: float
    note: str | None


class Forecast:
    """The forecast for one run, which starts when this object is created. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._began = clock()
        self._ahead: dict[str, float] = {}
        self._estimated = self._actual = 0.0  # of the finished stages
        self._cost = 0.0  # estimated seconds of the current stage
        self._entered = self._began
        self._fraction, self._fraction_at = 0.0, self._began
        self._shown: tuple[float, float] | None = None  # remaining seconds, and when they were shown
        self._done = 0.0
        self._note: str | None = None

    def expect(self, costs: Mapping[str, float]) -> None:
        """Set the estimated seconds of every stage ahead, by name."""
        self._ahead = dict(costs)

    def enter(self, stage: str) -> None:
        """Begin a stage."""
        self._cost = self._ahead.pop(stage, 0.0)
        self._entered = self._fraction_at = self._clock()
        self._fraction = 0.0

    def advance(self, fraction: float) -> None:
        """Record that this fraction of the current stage is done, 0 to 1."""
        if fraction > self._fraction:
            self._fraction, self._fraction_at = min(fraction, 1.0), self._clock()

    def leave(self) -> float:
        """End the current stage. Returns its duration in seconds."""
        seconds = self._clock() - self._entered
        self._estimated += self._cost
        self._actual += seconds
        self._cost = 0.0
        self._entered = self._fraction_at = self._clock()
        return seconds

    def outlook(self) -> Outlook:
        """The state at this moment."""
        now = self._clock()
        remaining = self._counted_down(now, self._predicted(now))
        elapsed = now - self._began
        self._done = max(self._done, elapsed / (elapsed + remaining) if remaining else 1.0)
        return Outlook(self._done, remaining, elapsed, self._note)

    def _predicted(self, now: float) -> float:
        """Remaining seconds of the current stage and of those ahead."""
        pace = (PRIOR_SECONDS + self._actual) / (PRIOR_SECONDS + self._estimated)
        return self._rest_of_stage(now, pace * self._cost) + pace * sum(self._ahead.values())

    def _rest_of_stage(self, now: float, expected: float) -> float:
        if self._fraction == 1.0:
            return 0.0
        spent = now - self._entered
        rest = expected - spent
        if self._fraction > 0:
            until_report = self._fraction_at - self._entered
            extrapolated = until_report * (1 - self._fraction) / self._fraction - (now - self._fraction_at)
            trust = min(1.0, self._fraction / TRUSTED_FRACTION)
            rest = trust * extrapolated + (1 - trust) * max(rest, 0.0)
        return rest if rest > 0 else OVERDUE * spent

    def _counted_down(self, now: float, predicted: float) -> float:
        """The remaining seconds to display: the prediction, unless it is only slightly longer than the countdown so far."""
        shown = predicted
        if self._shown:
            counted = max(self._shown[0] - (now - self._shown[1]), 0.0)
            if predicted > counted + max(TOLERANCE_SECONDS, TOLERANCE * counted):
                self._note = SLOWER
            elif predicted > counted:
                shown = counted
        self._shown = shown, now
        return shown
