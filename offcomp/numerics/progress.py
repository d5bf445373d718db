"""Progress reporting for long computations."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[float], None]
"""Callback that receives the completed fraction, from 0 to 1; it may raise an exception to stop the computation."""


def ignore_progress(_fraction: float) -> None:
    """No-op progress callback for callers that do not track progress."""
