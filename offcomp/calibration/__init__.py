"""From text to what methods may know of a weight matrix: moments of its inputs, and gradients of the model's likelihood."""

from offcomp.calibration.hints import GroupHints
from offcomp.calibration.passes import Calibration, calibrate

__all__ = ["Calibration", "GroupHints", "calibrate"]
