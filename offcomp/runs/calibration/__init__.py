"""Calibration statistics of weight matrices from text: input moments, and gradients of the model's likelihood."""

from offcomp.runs.calibration.hints import GroupHints
from offcomp.runs.calibration.passes import Calibration

__all__ = ["Calibration", "GroupHints"]
