"""Progress reporting for long computations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Report = Callable[[float], None]
"""Callback that receives the completed fraction, from 0 to 1; it may raise an exception to stop the computation."""
Watch = Callable[[int, float, Callable[[], "Tensor"]], None]
"""Callback after an epoch: receives its number, counted from 1, its mean loss, and a function that returns the reconstruction
(rows, cols) which would be stored if training ended now."""


def ignore_progress(_fraction: float) -> None:
    """No-op progress callback for callers that do not track progress."""


@dataclass(frozen=True)
class WatchedReport:
    """A `Report` for callers that also watch the training. A method that does not train in epochs uses it as any `Report`."""

    report: Report
    watch: Watch

    def __call__(self, fraction: float) -> None:
        """Report the completed fraction."""
        self.report(fraction)


def watch_of(report: Report) -> Watch | None:
    """The callback to call after each epoch, if the caller watches the training."""
    return report.watch if isinstance(report, WatchedReport) else None
