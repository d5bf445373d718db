"""Find the step at which a code has a given length."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, log2
from typing import TypeVar

Found = TypeVar("Found")

TOLERANCE = 0.0005
"""Share of the limit that may remain unused."""
STEEPEST, FLATTEST = 8.0, 0.1
"""Most and fewest bits per entry that doubling the step may save: about 1 at high rates; whole rows become 0 at low ones."""
WIDEST = 2.0
"""Largest change of the step from one attempt to the next, in octaves."""
DOUBLINGS = 30


def fill(
    attempt: Callable[[float], tuple[float, Found]],
    step: float,
    limit: float,
    num_entries: int,
    *,
    attempts: int,
    tolerance: float = TOLERANCE,
) -> tuple[float, Found] | None:
    """Find a step whose code fills `limit` bytes; `attempt` returns the code for a step, after its length in bytes.

    Uses the secant method on the logarithm of the step, falling back to bisection if the secant leaves the bracket. Stops after
    `attempts` codes, or once the unused share of the limit is at most `tolerance`. Returns the longest code that fits, with its
    step. If none fits, doubles the step until a code fits, at most DOUBLINGS times; returns None if none ever fits.
    """
    best: tuple[float, float, Found] | None = None
    before: tuple[float, float] | None = None
    slope, place = 1.0, log2(step)
    too_fine, fine_enough = -inf, inf  # logarithms of the largest step that is too fine, and of the smallest that is not
    for _ in range(attempts):
        length, found = attempt(2.0**place)
        if length <= limit:
            fine_enough = min(fine_enough, place)
            if best is None or length > best[0]:
                best = length, place, found
            if length >= (1 - tolerance) * limit:
                break
        else:
            too_fine = max(too_fine, place)
        rate = 8 * length / num_entries
        if before and before[0] != place:
            slope = min(max((before[1] - rate) / (place - before[0]), FLATTEST), STEEPEST)
        before = place, rate
        excess = rate - 8 * (1 - tolerance / 3) * limit / num_entries
        place += min(max(excess / slope, -WIDEST), WIDEST)
        if not too_fine < place < fine_enough:
            place = (too_fine + fine_enough) / 2
    for _ in range(DOUBLINGS):
        if best:
            break
        place = max(place, too_fine) + 1
        length, found = attempt(2.0**place)
        if length <= limit:
            best = length, place, found
    return (2.0 ** best[1], best[2]) if best else None
