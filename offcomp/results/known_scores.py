"""Placeholder until merged."""

from __future__ import annotations

from dataclasses import dataclass

from offcomp.runs.store import Run


@dataclass(frozen=True)
class KnownScore:
    task: str
    title: str
    metric: str
    direction: str
    original: float
    value: float
    low: float
    high: float
    origin: str
    run: Run | None
    basis: str
    within_noise: bool


def known_scores(plan, info, error, measured, tasks):
    return {}
