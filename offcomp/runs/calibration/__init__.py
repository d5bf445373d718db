"""Calibration statistics of weight matrices, computed from text: input moments and gradients of the log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence

from offcomp.models.loading import LoadedModel
from offcomp.planning.cost import SMALL_SHARE, free_memory
from offcomp.planning.plan import Plan, members
from offcomp.runs.calibration.hints import GroupHints
from offcomp.runs.calibration.passes import Calibration

__all__ = ["Calibration", "GroupHints", "calibration_of"]


def calibration_of(plan: Plan, loaded: LoadedModel, texts: Sequence[str] | None = None) -> Calibration | None:
    """The calibration of a model in memory on the plan's text, or on these texts; None if it needs no text."""
    if not plan.needs_text:
        return None
    settings = plan.calibration
    ahead = [spec for group in plan.calibrated_groups for spec in members(group, loaded.info)]
    return Calibration(
        loaded,
        settings.read(plan.seed).texts if texts is None else texts,
        max_tokens=settings.max_tokens,
        special_tokens=settings.special_tokens,
        weighting=settings.weighting,
        seed=plan.seed,
        cache_bytes=max(sum(8 * spec.cols**2 for spec in ahead), int(SMALL_SHARE * (free_memory() or 0))),
        ahead=ahead,
    )
