"""No probe divides by a standard deviation that is almost zero."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from numpy.typing import NDArray

from offcomp.evaluation import open_task, probe, regression
from offcomp.evaluation.base import TaskData
from offcomp.evaluation.scaling import FLOOR, center_and_scale
from offcomp.models.loading import load
from offcomp.planning.data.tasks import Task
from tests import tiny_models

SIZES = {"train": 160, "validation": 60, "test": 120}
WIDTH = 12


def features(count: int, shift: float, seed: int) -> NDArray[np.float32]:
    """Return embeddings (count, WIDTH) whose last three dimensions are dead: one is constant, two are almost constant."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(count, WIDTH)) * np.linspace(0.1, 0.4, WIDTH)
    found[:, -3] = 0.7
    found[:, -2] = 0.2 + 1e-9 * random.normal(size=count)
    found[:, -1] = -3.0 + 2e-9 * random.normal(size=count)
    found[:, -3:] += shift
    return found.astype(np.float64)  # type: ignore[return-value]  # float32 cannot represent a spread of 1e-9 near 3


class Embedder:
    """Returns features in the same way as `SplitEmbedder`; `shift` is added to the dead dimensions."""

    def __init__(self, seed: int, count: int):
        self.seed, self.count, self.shift = seed, count, 0.0

    def features(self, report: object) -> NDArray[np.float32]:
        return features(self.count, self.shift, self.seed)


def data_of(target: str) -> TaskData:
    kind = ClassLabel(names=["a", "b"]) if target == "label" else Value("float64")
    parts = {}
    for seed, (name, count) in enumerate(SIZES.items()):
        signal = features(count, 0.0, seed)[:, :4].sum(1)
        values = (signal > 0).astype(int).tolist() if target == "label" else signal.tolist()
        rows = {"text": [f"{name} {i}" for i in range(count)], target: values}
        parts[name] = Dataset.from_dict(rows, features=Features({"text": Value("string"), target: kind}))
    task = Task(name="planted", family="probe" if target == "label" else "regression", data="planted.csv")
    return TaskData(task, DatasetDict(parts), "0" * 12)


def evaluator(kind: type, target: str) -> tuple[probe.Probe | regression.Regression, dict[str, Embedder]]:
    made = object.__new__(kind)
    embedders = {name: Embedder(seed, count) for seed, (name, count) in enumerate(SIZES.items())}
    made._data, made._embedders = data_of(target), embedders
    return made, embedders


@pytest.mark.parametrize("shift", [1e-9, 1e-7, 1e-5])
def test_a_dead_dimension_changes_no_probes_score_by_more_than_one_example(shift: float):
    made, embedders = evaluator(probe.Probe, "label")
    reference = made.reference()
    embedders["test"].shift = shift
    found = made.compare(reference, made.predict(reference))
    assert found.original.value > 0.85
    changed = found.paired.right_to_wrong + found.paired.wrong_to_right
    assert changed <= 1


@pytest.mark.parametrize("shift", [1e-9, 1e-7, 1e-5])
def test_a_dead_dimension_does_not_move_a_regression(shift: float):
    made, embedders = evaluator(regression.Regression, "score")
    reference = made.reference()
    embedders["test"].shift = shift
    predicted = made.predict(reference)["values"]
    np.testing.assert_allclose(predicted, reference["values"], atol=1e-2 * float(np.ptp(reference["values"])))
    assert abs(made.compare(reference, {"values": predicted}).paired.difference) < 1e-3


def test_the_scale_is_never_below_the_floor_and_else_the_spread():
    values = features(500, 0.0, 5)
    center, scale = center_and_scale(values)
    alive = values[:, :-3].std(0)
    np.testing.assert_allclose(scale[:-3], alive)
    np.testing.assert_allclose(scale[-3:], FLOOR * np.median(alive))
    np.testing.assert_allclose(center, values.mean(0))


def test_most_dimensions_may_be_dead():
    values = np.full((50, 9), 2.0)
    values[:, 0] = np.linspace(0, 1, 50)
    values[:, 1:] += 1e-9 * np.random.default_rng(0).normal(size=(50, 8))
    _, scale = center_and_scale(values)
    np.testing.assert_allclose(scale[1:], FLOOR * values[:, 0].std())


def test_features_that_never_vary_are_divided_by_one():
    np.testing.assert_array_equal(center_and_scale(np.full((5, 3), 2.0))[1], 1.0)


@pytest.mark.parametrize("shift", [1e-9, 1e-7])
def test_dead_dimensions_of_a_model_change_no_more_than_one_example(tmp_path: Path, shift: float):
    """Three gains of the last normalisation layer of a BERT are 0 or 1e-9, so these features are almost equal to its biases."""
    model = tiny_models.bert_base()
    norm = model.encoder.layer[-1].output.LayerNorm
    with torch.no_grad():
        norm.weight[[3, 11, 20]] = torch.tensor([0.0, 1e-9, 1e-9])
    folder = tiny_models.save(model, tmp_path / "model")
    draw = random.Random(4)
    texts = [" ".join(f"w{draw.randint(2, 60)}" for _ in range(draw.randint(3, 9))) for _ in range(400)]
    labels = ["high" if sum(int(word[1:]) for word in text.split()) / len(text.split()) > 31 else "low" for text in texts]
    lines = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "own.csv").write_text("\n".join(["text,label", *lines]))
    opened = open_task(Task(name="own", family="probe", data=str(tmp_path / "own.csv")), loaded := load(str(folder)))
    opened.prepare()
    changed = loaded.model.encoder.layer[-1].output.LayerNorm
    with torch.no_grad():
        changed.weight[[3, 11, 20]] += shift
    found = opened.compare()
    assert found.original.value > 0.6
    assert found.paired.right_to_wrong + found.paired.wrong_to_right <= 1
