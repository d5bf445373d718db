"""F1, Matthews and Pearson correlations in addition to a family's own metric, compared with scikit-learn and scipy."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics
from numpy.typing import NDArray

from offcomp.cli.evaluate import scores_text
from offcomp.cli.text import score_line
from offcomp.errors import PlanError, TaskError
from offcomp.evaluation import open_task
from offcomp.evaluation.secondary_metrics import class_metrics, pearson, score_metrics
from offcomp.models.sources import bundled_info
from offcomp.planning.data.scores import Comparison
from offcomp.planning.data.tasks import ALSO, FAMILIES, TASKS, Task, find_task
from offcomp.planning.plan import Plan, validate
from offcomp.results.scores import others_text
from tests.tiny_models import Tiny

Vector = NDArray[np.float64]
OF_SKLEARN: dict[str, Callable[..., float]] = {
    "f1": lambda truth, said: sklearn.metrics.f1_score(truth, said, zero_division=0),
    "matthews": sklearn.metrics.matthews_corrcoef,
}


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def answers(n: int, classes: int = 2, seed: int = 0) -> tuple[NDArray[np.int64], Vector, Vector]:
    """Return true classes, and the probabilities of two classifiers; the first is right more often."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(classes, n, p=np.linspace(1, 2, classes) / np.linspace(1, 2, classes).sum())
    spreads = [generator.random((n, classes)) + weight * np.eye(classes)[truth] for weight in (0.6, 0.3)]
    first, second = (spread / spread.sum(1, keepdims=True) for spread in spreads)
    return truth, first, second


@pytest.mark.parametrize(("metric", "classes"), [("f1", 2), ("matthews", 2), ("matthews", 5)])
@pytest.mark.parametrize("n", [12, 400])
def test_classes_are_scored_as_by_scikit_learn(metric: str, classes: int, n: int) -> None:
    truth, first, second = answers(n, classes)
    found = class_metrics([metric], truth, first, second)[metric]
    expected = [OF_SKLEARN[metric](truth, given.argmax(1)) for given in (first, second)]
    assert [getattr(found, which).value for which in ("original", "compressed")] == pytest.approx(expected)
    assert found.paired.difference == pytest.approx(expected[1] - expected[0])
    majority = np.full(n, np.bincount(truth).argmax())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about constant answers
        assert found.baseline.to_dict() == {
            "name": "majority class",
            "value": pytest.approx(OF_SKLEARN[metric](truth, majority)),
        }


@pytest.mark.parametrize("n", [12, 400])
def test_scores_are_correlated_as_by_scipy(n: int) -> None:
    generator = np.random.default_rng(1)
    truth = generator.random(n)
    first, second = (truth + generator.normal(0, spread, n) for spread in (0.2, 0.6))
    found = score_metrics(["pearson"], truth, first, second)["pearson"]
    expected = [scipy.stats.pearsonr(truth, given).statistic for given in (first, second)]
    assert [getattr(found, which).value for which in ("original", "compressed")] == pytest.approx(expected)
    assert found.baseline is None


def test_a_draw_gives_the_correlation_of_the_examples_drawn() -> None:
    truth, values = np.random.default_rng(0).random((2, 30))
    places = np.random.default_rng(1).integers(0, 30, 30)
    counts = np.bincount(places, minlength=30)[None].astype(np.float32)
    expected = scipy.stats.pearsonr(truth[places], values[places]).statistic
    assert pearson(truth, 1e4 + values, counts)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", ["f1", "pearson"])
def test_interval_and_standard_error_are_those_of_scipys_bootstrap(metric: str) -> None:
    n = 300
    if metric == "pearson":
        truth = np.random.default_rng(1).random(n)
        first, second = (truth + np.random.default_rng(seed).normal(0, 0.4, n) for seed in (2, 3))
        found = score_metrics([metric], truth, first, second)[metric]

        def statistic(places: NDArray[np.int64], given: Vector = first) -> float:
            return float(scipy.stats.pearsonr(truth[places], given[places]).statistic)
    else:
        truth, first, second = answers(n)
        found = class_metrics([metric], truth, first, second)[metric]

        def statistic(places: NDArray[np.int64], given: Vector = first) -> float:
            return OF_SKLEARN[metric](truth[places], given[places].argmax(1))

    def difference(places: NDArray[np.int64]) -> float:
        return statistic(places, second) - statistic(places)

    options = {"n_resamples": 400, "vectorized": False, "method": "percentile", "rng": np.random.default_rng(0)}
    one = scipy.stats.bootstrap((np.arange(n),), statistic, **options)
    two = scipy.stats.bootstrap((np.arange(n),), difference, **options)
    assert found.original.standard_error == pytest.approx(one.standard_error, rel=0.12)
    spread = two.confidence_interval.high - two.confidence_interval.low
    assert found.paired.interval == pytest.approx(list(two.confidence_interval), abs=0.12 * spread)


ALIKE = np.tile([0.9, 0.1], (20, 1))


@pytest.mark.parametrize(
    "found",
    [
        class_metrics(["f1", "matthews"], np.array([0] * 20), ALIKE, ALIKE),
        class_metrics(["f1", "matthews"], np.array([0, 1] * 10), ALIKE, ALIKE),
        score_metrics(["pearson"], np.arange(20.0), np.zeros(20), np.arange(20.0)),
        score_metrics(["pearson"], np.array([1.0]), np.array([1.0]), np.array([2.0])),
    ],
)
def test_what_is_undefined_is_nothing_and_json(found: dict[str, Comparison]) -> None:
    documents = {name: score.to_dict() for name, score in found.items()}
    assert json.loads(json.dumps(documents, allow_nan=False)) == documents
    assert {metric.original.value for metric in found.values()} == {0.0}


def test_the_tasks_of_glue_list_the_metrics_of_glue() -> None:
    listed = {task.name: (task.kind.metric, *task.also) for task in TASKS if task.also}
    assert listed == {
        "mrpc": ("accuracy", "f1"),
        "qqp": ("accuracy", "f1"),
        "cola": ("accuracy", "matthews"),
        "stsb": ("spearman", "pearson"),
    }
    assert all(set(task.also) <= set(ALSO[task.kind.metric]) for task in TASKS if task.also)
    assert set(ALSO) <= {family.metric for family in FAMILIES.values()}


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of texts whose words a tiny model knows, with classes that depend on these words."""
    generator = np.random.default_rng(4)
    words = generator.integers(5, 60, (200, 7))
    table = {
        "text": [" ".join(f"w{word}" for word in row) for row in words],
        "label": np.where((words == 7).any(1) | (words[:, 0] > 40), "yes", "no"),
        "three": np.array(["a", "b", "c"])[words[:, 0] % 3],
    }
    path = tmp_path_factory.mktemp("data") / "mine.csv"
    pd.DataFrame(table).to_csv(path, index=False)
    return path


def test_a_task_lists_its_other_metrics_beside_its_own(tiny: Tiny, mine: Path) -> None:
    task = Task(name="mine", family="probe", data=str(mine), columns={"label": "label"}, also=("f1", "matthews"))
    opened = open_task(task, tiny("bert_base"))
    alone, compared = opened.original(), opened.compare()
    assert alone.metric == compared.metric == "accuracy"
    for name in ("f1", "matthews"):
        assert alone.also[name].value == compared.also[name].original.value > 0
        assert alone.also[name].standard_error > 0
        assert compared.also[name].paired.interval == (0.0, 0.0)
    assert "also" not in open_task(task.replace(also=()), tiny("bert_base")).original().to_dict()
    shown = scores_text({"mine": alone})
    assert [line.split()[1] for line in shown.splitlines()[2:5]] == ["accuracy", "f1", "matthews"]
    assert f"{alone.also['f1'].value:.4g}" in shown
    f1, matthews = others_text(compared)
    assert f1.startswith("F1 0.") and " -> 0." in f1 and matthews.startswith("Matthews correlation")
    assert f1 in score_line(compared)


def test_f1_of_more_than_two_classes_is_refused_before_anything_is_computed(tiny: Tiny, mine: Path) -> None:
    task = Task(name="mine", family="probe", data=str(mine), columns={"label": "three"}, also=("f1",))
    with pytest.raises(TaskError, match="f1, which needs two classes, but its data has 3"):
        open_task(task, tiny("bert_base"))


@pytest.mark.parametrize(
    ("family", "also", "said"),
    [("probe", ["pearson"], "can list f1 and matthews"), ("masked-lm", ["f1"], "can list none"), ("probe", "f1", "a list")],
)
def test_a_metric_that_does_not_fit_is_a_fault_of_the_plan(mine: Path, family: str, also: Any, said: str) -> None:
    info = replace(bundled_info("minilm-l6"), architecture="BertForMaskedLM")  # type: ignore[type-var]
    document = {"name": "mine", "family": family, "data": str(mine), "also": also}
    with pytest.raises(PlanError, match=said):
        validate(Plan.from_dict({"model": "minilm-l6", "tasks": [document]}), info)


def test_the_metrics_of_a_described_task_survive_json(mine: Path) -> None:
    plan = Plan(model="minilm-l6", groups=(), tasks=(Task(name="mine", family="probe", data=str(mine), also=("f1",)),))
    assert Plan.from_json(plan.to_json()) == plan
    assert find_task("mrpc").to_dict()["also"] == ["f1"]
