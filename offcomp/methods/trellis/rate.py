"""Find the step at which a code has a given length."""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import TypeVar

Found = TypeVar("Found")

TOLERANCE = 0.0005
"""Share of the length that may remain unused."""
STEEPEST, FLATTEST = 1.6, 0.1
"""Bits per entry that doubling the step can save; about 1 at high rates, less at low ones."""
COARSEST = 64.0
"""Factor between the first step and the largest one that is tried."""


def fill(
    attempt: Callable[[float], tuple[float, Found]], step: float, limit: float, num_entries: int, attempts: int
) -> tuple[float, Found] | None:
    """Find a step whose code fills `limit` bytes; `attempt` returns the length in bytes and the code at a step.

    Uses the secant method in the logarithm of the step, for at most `attempts` codes. Returns the longest code that fits, with
    its step. If none fits, the step is doubled until one does; if none does up to COARSEST times the first step, returns None.
    """
    best: tuple[float, float, Found] | None = None
    before: tuple[float, float] | None = None
    slope, start = 1.0, step
    for _ in range(attempts):
        length, found = attempt(step)
        if length <= limit and (best is None or length > best[0]):
            best = length, step, found
        if best and best[0] >= (1 - TOLERANCE) * limit:
            break
        rate = 8 * length / num_entries
        if before and before[0] != step:
            slope = min(max((before[1] - rate) / log2(step / before[0]), FLATTEST), STEEPEST)
        before = step, rate
        excess = rate - 8 * (1 - TOLERANCE / 3) * limit / num_entries
        step *= 2 ** min(max(excess / slope, -2.0), 2.0)
    while best is None and step < COARSEST * start:
        step *= 2
        length, found = attempt(step)
        if length <= limit:
            best = length, step, found
    return best[1:] if best else None
