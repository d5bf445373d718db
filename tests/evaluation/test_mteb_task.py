"""Tasks of MTEB: our scores are the library's own, and faults are one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from offcomp.errors import TaskError
from offcomp.evaluation import open_task
from offcomp.files import read_json
from offcomp.models.loading import load
from offcomp.planning.data.tasks import harness_task
from offcomp.runs.inputs import task_digests
from tests.cli.test_main import Command
from tests.harness_tasks import model_folder, mteb_tables

mteb = pytest.importorskip("mteb")

TASKS = ("STSBenchmark", "Banking77Classification")


def by_the_library(model: Path, tables: Path) -> dict[str, float]:
    """What MTEB itself says of a folder: the ten lines that a user would write."""
    from sentence_transformers import SentenceTransformer

    embedder = SentenceTransformer(str(model), device="cpu")
    scores = {}
    for name in TASKS:
        task = mteb.get_task(name)
        task.metadata = task.metadata.model_copy(update={"dataset": {"path": str(tables / name), "revision": "local"}})
        (result,) = mteb.evaluate(embedder, task, cache=None, co2_tracker=False, show_progress_bar=False).task_results
        scores[name] = result.get_score()
    return scores


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mteb_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder("bert_base", tmp_path_factory.mktemp("models") / "bert")


def test_a_run_has_the_scores_of_the_library_for_the_original_and_the_dense_export(
    offcomp: Command, tmp_path: Path, model: Path, tables: Path
) -> None:
    named = [part for task in TASKS for part in ("--task", f"mteb:{task}")]
    plan, export = str(tmp_path / "plan.json"), tmp_path / "export"
    assert offcomp("plan", str(model), "--ratio", "1.5", *named, "--include-path", str(tables), "--out", plan)[0] == 0
    status, out, err = offcomp("run", plan, "--json")
    assert status == 0, err
    run = json.loads(out)["id"]
    assert offcomp("export", run, str(export), "--dense")[0] == 0
    scores = (read_json(tmp_path / "home" / "runs" / run / "run.json") or {})["scores"]
    for which, folder in (("original", model), ("compressed", export)):
        ours = {task: scores[f"mteb-{task}"][which]["value"] for task in TASKS}
        assert ours == by_the_library(folder, tables)
    similarity, classes = (scores[f"mteb-{task}"] for task in TASKS)
    assert similarity["metric"] == "mteb cosine_spearman" and classes["metric"] == "mteb accuracy"
    for score in (similarity, classes):
        low, high = score["paired"]["interval"]
        assert low <= score["paired"]["difference"] <= high and score["original"]["n"] == 60
        assert score["changes"] and not score["unchanged"]
    rows = [json.loads(line) for line in (tables / "STSBenchmark" / "test.jsonl").read_text().splitlines()]
    by_text = {f"{row['sentence1']} | {row['sentence2']}": row["score"] for row in rows}
    assert all(change["truth"] == by_text[change["text"]] for change in similarity["changes"])


def test_the_identity_is_that_of_the_tables(tmp_path: Path) -> None:
    folder = mteb_tables(tmp_path / "tables")
    task = harness_task("mteb:STSBenchmark", include_path=str(folder))
    before = task_digests(task)
    assert set(before) == {"mteb", "test.jsonl"} and before["mteb"] == mteb.__version__
    (folder / "STSBenchmark" / "test.jsonl").write_text("{}")
    assert task_digests(task)["test.jsonl"] != before["test.jsonl"]
    assert set(task_digests(harness_task("mteb:STSBenchmark"))) == {"mteb"}


def test_a_score_without_results_per_example_has_no_interval(model: Path, tables: Path) -> None:
    loaded = load(str(model))
    task = open_task(harness_task("mteb:STSBenchmark", include_path=str(tables)), loaded)
    task._evaluator._table = None  # as if there were several subsets
    score = task.compare()
    assert score.paired.interval is None and score.original.standard_error is None
    assert score.note == ("mteb:STSBenchmark: the score has no interval, since the library reports no results per example.",)
    assert np.isfinite(score.original.value) and score.original.n == 60


def test_faults_are_one_sentence(model: Path, tables: Path) -> None:
    loaded = load(str(model))
    for task, expected in (
        (harness_task("mteb:STSBenchmrk"), "mteb cannot read task 'mteb:STSBenchmrk': .*STSBenchmark"),
        (harness_task("mteb:STS12", include_path=str(tables)), "needs the folder"),
        (harness_task("mteb:STS12"), "not on this machine"),
    ):
        with pytest.raises(TaskError, match=expected) as error:
            open_task(task, loaded)
        assert "\n" not in str(error.value)
