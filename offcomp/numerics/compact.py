"""Singular values in less than a byte each. NumPy only.

What is kept of a spectrum σ_1 >= σ_2 >= ... is its largest value and the steps by which ln σ falls, rounded so that roundings
do not add up:

    q_j = round(ln(σ_1 / σ_j) / STEP),    stored: q_j - q_(j-1)

Each value comes back within a factor of e^(STEP/2), which is .05 %, and so does the error at every rank, being the root of a
sum of squares. Values below 1e-7 of the largest come back as 0. The differences are small whole numbers, which a zip file
shortens further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEP = 1e-3
SMALLEST = 1e-7
LAST = int(-np.log(SMALLEST) / STEP)


def encode(spectra: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays to save, from spectra that each fall."""
    levels = [_levels(np.asarray(spectrum, dtype=np.float64)) for spectrum in spectra]
    falls = [np.diff(each, prepend=0) for each in levels]
    together = (np.concatenate(falls) if falls else np.zeros(0)).astype("<u2")
    low_and_high = together.view(np.uint8).reshape(-1, 2)
    return {
        "largest": np.array([spectrum[0] if len(spectrum) else 0 for spectrum in spectra], dtype=np.float32),
        "counts": np.array([len(spectrum) for spectrum in spectra], dtype=np.int32),
        "low": np.ascontiguousarray(low_and_high[:, 0]),
        "high": np.ascontiguousarray(low_and_high[:, 1]),
    }


def _levels(spectrum: NDArray[np.float64]) -> NDArray[np.int64]:
    largest = spectrum[0] if len(spectrum) else 0.0
    if largest == 0:
        return np.zeros(len(spectrum), dtype=np.int64)
    shares = np.maximum(spectrum / largest, SMALLEST / 10)
    return np.minimum(np.rint(-np.log(shares) / STEP), LAST).astype(np.int64)


def decode(arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    """The spectra of `encode`, each value within a factor of e^(STEP/2)."""
    falls = arrays["low"].astype(np.int64) + 256 * arrays["high"].astype(np.int64)
    stops = np.cumsum(arrays["counts"])
    spectra = []
    for largest, count, stop in zip(arrays["largest"], arrays["counts"], stops, strict=True):
        levels = np.cumsum(falls[stop - count : stop])
        values = np.where(levels < LAST, largest * np.exp(-STEP * levels), 0.0)
        spectra.append(values.astype(np.float32))
    return spectra
