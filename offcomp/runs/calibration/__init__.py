"""Calibration statistics of weight matrices, computed from text: input moments and gradients of the log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence

from offcomp.models.loading import LoadedModel
from offcomp.planning.cost import FLOAT32_BYTES, SMALL_SHARE, free_memory
from offcomp.planning.plan import Plan, members
from offcomp.runs.calibration.hints import GroupHints
from offcomp.runs.calibration.passes import Calibration

__all__ = ["Calibration", "GroupHints", "calibration_of"]


def calibration_of(
    plan: Plan, loaded: LoadedModel, texts: Sequence[str] | None = None, *, stays_loaded: bool = True
) -> Calibration | None:
    """The calibration of a model on `texts` or, by default, on the plan's text; None if the plan needs no text.

    If the model does not stay loaded between passes, statistics may take up only half as much memory as the largest group.
    """
    if not plan.needs_text:
        return None
    settings = plan.calibration
    drawn = settings.read(plan.seed) if texts is None else None
    groups = [members(group, loaded.info) for group in plan.groups]
    ahead = [spec for group in plan.calibrated_groups for spec in members(group, loaded.info)]
    most = max(sum(8 * spec.cols**2 for spec in ahead), int(SMALL_SHARE * (free_memory() or 0)))
    least = FLOAT32_BYTES * max(sum(spec.num_parameters for spec in group) for group in groups) // 2
    return Calibration(
        loaded,
        drawn.texts if drawn else texts or (),
        max_tokens=settings.max_tokens,
        special_tokens=settings.special_tokens,
        weighting=settings.weighting,
        seed=plan.seed,
        rows=drawn.rows if drawn else None,
        cache_bytes=most if stays_loaded else least,
        ahead=ahead if stays_loaded else (),
    )
