"""Features brought to one scale for a probe, without dividing by a spread that is all but zero.

The last LayerNorm of a trained model may have dead gains: of MiniLM-L6's 384 dimensions three have a spread of at most 2e-9, at
a median of .25 (before normalisation). Divided by it, a change of 1e-9, which is nothing to any model, would move a probe's
answer. So no spread counts as less than FLOOR of the median spread; what is below DEAD of the largest spread is left out of
that median.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOOR = 0.1
DEAD = 1e-4
PROBE_VERSION = 2
"""Raised whenever a probe would be fitted or applied in another way, so that scores of two kinds are not compared."""


def center_and_scale(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and floored spread of each column (features,) of (examples, features); scaled is (features - mean) / spread."""
    values = features.astype(np.float64)
    center, spread = values.mean(0), values.std(0)
    alive = spread[spread > DEAD * spread.max()]
    return center, np.maximum(spread, FLOOR * float(np.median(alive))) if len(alive) else np.ones_like(spread)
