"""Calibration statistics of weight matrices, computed from text: input moments and gradients of the log-likelihood."""

from offcomp.runs.calibration.hints import GroupHints
from offcomp.runs.calibration.passes import Calibration

__all__ = ["Calibration", "GroupHints"]
