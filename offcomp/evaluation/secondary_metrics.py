"""Secondary metrics, as reported by GLUE: F1 and Matthews correlation for classes, Pearson correlation for scores.

Like the main metric of a task family, each secondary metric has a standard error, a paired interval and a baseline. Standard
errors and intervals come from a paired bootstrap, which computes metrics from the number of times that each example occurs in a
resample. If all counts are 1, the metrics match scikit-learn (`f1_score`, `matthews_corrcoef`) and scipy (`pearsonr`), except
that undefined values are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offcomp.errors import TaskError
from offcomp.evaluation.base import Arrays, TaskData
from offcomp.evaluation.comparison import scored
from offcomp.planning.data.scores import Baseline, Comparison, OriginalValue

if TYPE_CHECKING:
    Vector = NDArray[np.float64]
    Classes = NDArray[np.integer[Any]]
    Counts = NDArray[np.floating[Any]]
    Tables = NDArray[np.float64]


def check_metrics(data: TaskData) -> None:
    """Check that the task's secondary metrics can be computed on these examples. Raises TaskError."""
    if "f1" in data.task.also and (count := len(data.class_names)) != 2:
        raise TaskError(f"task {data.task.name!r} lists f1, which needs two classes, but its data has {count}; remove f1")


def secondary_metrics(data: TaskData, reference: Arrays, predictions: Arrays) -> dict[str, Comparison]:
    """Map each secondary metric of the task to its original, compressed, paired and baseline results."""
    names, truth = data.task.also, data.answers()
    if data.task.kind.target == "label":
        return class_metrics(names, truth, reference["probabilities"], predictions["probabilities"])
    return score_metrics(names, truth, reference["values"], predictions["values"])


def class_metrics(names: Sequence[str], truth: Classes, original: Vector, compressed: Vector) -> dict[str, Comparison]:
    """The metrics in `names` for two classifiers, computed from their probabilities (examples, classes)."""
    classes = original.shape[1]
    majority = np.full(len(truth), np.bincount(truth).argmax())

    def values(metric: Callable[[Tables], Vector], predictions: Sequence[Classes], counts: Counts) -> Counts:
        return np.stack([metric(_tables(truth, predicted, counts, classes)) for predicted in predictions])

    def compared(metric: Callable[[Tables], Vector]) -> Comparison:
        baseline = float(values(metric, [majority], np.ones((1, len(truth)))).item())
        scores = scored(partial(values, metric, [original.argmax(1), compressed.argmax(1)]), len(truth), len(truth))
        return scores.model_copy(update={"baseline": Baseline(name="majority class", value=baseline)})

    return {name: compared(OF_CLASSES[name]) for name in names}


def score_metrics(names: Sequence[str], truth: Vector, original: Vector, compressed: Vector) -> dict[str, Comparison]:
    """The metrics in `names` for two sets of predicted scores (examples,)."""

    def statistic(counts: Counts) -> Counts:
        return np.stack([pearson(truth, values, counts) for values in (original, compressed)])

    return {name: scored(statistic, len(truth), len(truth)).model_copy(update={"baseline": None}) for name in names}


def original_scores(results: Mapping[str, Comparison]) -> dict[str, OriginalValue]:
    """Extract the results of the original model alone."""
    return {name: OriginalValue(**dict(result.original), baseline=result.baseline) for name, result in results.items()}


def f1(tables: Tables) -> Vector:
    """F1 of the second class (draws,), 2 TP / (2 TP + FP + FN), from two-class confusion tables (draws, truth, predicted)."""
    hits, missed, false = tables[:, 1, 1], tables[:, 1, 0], tables[:, 0, 1]
    return _ratio(2 * hits, 2 * hits + missed + false)


def matthews(tables: Tables) -> Vector:
    """Matthews correlation (draws,) for any number of classes (Gorodkin 2004), from tables (draws, truth, predicted)."""
    total, right = tables.sum((1, 2)), np.trace(tables, axis1=1, axis2=2)
    true, predicted = tables.sum(2), tables.sum(1)  # (draws, classes)
    spreads = (total**2 - (true**2).sum(1)) * (total**2 - (predicted**2).sum(1))
    return _ratio(right * total - (true * predicted).sum(1), np.sqrt(np.maximum(spreads, 0)))


def pearson(truth: Vector, values: Vector, counts: Counts) -> Vector:
    """Pearson correlation (draws,), counting example i `counts[:, i]` times."""
    weights = counts.astype(np.float64)
    total = weights.sum(1)
    left, right = truth - truth.mean(), values - values.mean()  # for numerical precision; shifts do not change a correlation
    mean_left, mean_right = weights @ left / total, weights @ right / total
    product = weights @ (left * right) / total - mean_left * mean_right
    spreads = (weights @ left**2 / total - mean_left**2) * (weights @ right**2 / total - mean_right**2)
    constant = (np.ptp(left) == 0) | (np.ptp(right) == 0)
    return np.zeros(len(weights)) if constant else np.clip(_ratio(product, np.sqrt(np.maximum(spreads, 0))), -1, 1)


OF_CLASSES: Mapping[str, Callable[[Tables], Vector]] = {"f1": f1, "matthews": matthews}


def _tables(truth: Classes, predicted: Classes, counts: Counts, classes: int) -> Tables:
    """Confusion tables (draws, true classes, predicted classes)."""
    cells = np.zeros((len(truth), classes * classes), np.float32)
    cells[np.arange(len(truth)), truth * classes + predicted] = 1
    return (counts.astype(np.float32) @ cells).astype(np.float64).reshape(-1, classes, classes)


def _ratio(above: Vector, below: Vector) -> Vector:
    """Divide `above` by `below`, returning 0 where the quotient is undefined."""
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
