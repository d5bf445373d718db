"""How a long computation reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[float], None]
"""Called with the completed fraction, 0..1; may raise to stop the computation."""


def ignore_progress(_fraction: float) -> None:
    """A report for callers that do not track progress."""
