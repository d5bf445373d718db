"""Divide examples into splits and subsample the splits, reproducibly for a given seed."""

from __future__ import annotations

import numpy as np
import pandas as pd

TEST_SHARE, VALIDATION_SHARE = 0.25, 0.15


def split_in_three(examples: pd.DataFrame, random: np.random.Generator) -> tuple[pd.DataFrame, ...]:
    """Split examples into test, validation and training sets, stratified by class."""
    positions = positions_in_class(examples, random)
    parts = np.digitize(positions, [TEST_SHARE, TEST_SHARE + VALIDATION_SHARE])
    return tuple(examples[parts == part] for part in range(3))


def positions_in_class(examples: pd.DataFrame, random: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Relative position of each example, from 0 to 1, in a random ordering of its class (or of all examples if unlabelled)."""
    order = random.permutation(len(examples))
    labels = examples["label"] if "label" in examples else pd.Series("", index=examples.index)
    classes = pd.factorize(labels.iloc[order], sort=True)[0]
    sizes = np.bincount(classes)
    rank = pd.Series(classes).groupby(classes).cumcount().to_numpy()
    positions = np.empty(len(examples))
    positions[order] = (rank + random.random(len(sizes))[classes]) / sizes[classes]
    return positions


def sampled(examples: pd.DataFrame, most: int, random: np.random.Generator) -> pd.DataFrame:
    """A random sample of at most `most` examples, in their original order."""
    if len(examples) <= most:
        return examples
    return examples.iloc[np.sort(random.choice(len(examples), most, replace=False))]
