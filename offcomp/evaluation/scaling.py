"""Standardise features for a probe without dividing by near-zero standard deviations.

The last LayerNorm of a trained model may have gains close to zero: of MiniLM-L6's 384 dimensions, three have a standard
deviation of at most 2e-9, compared with a median of 0.25 (before normalisation). Dividing by such small numbers would
allow a negligible change of 1e-9 to alter a probe's prediction. Standard deviations are therefore raised to at least FLOOR
times their median; values below DEAD times the largest are excluded from the median.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOOR = 0.1
DEAD = 1e-4
PROBE_VERSION = 2
"""Increment this whenever probes are fitted or applied differently, so that incompatible scores are never compared."""


def center_and_scale(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (features,) for standardising a matrix (examples, features).

    Standard deviations that are too small are raised to a minimum; see the module docstring.
    """
    values = features.astype(np.float64)
    center, spread = values.mean(0), values.std(0)
    alive = spread[spread > DEAD * spread.max()]
    return center, np.maximum(spread, FLOOR * float(np.median(alive))) if len(alive) else np.ones_like(spread)
