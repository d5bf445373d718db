"""Tasks of lm-evaluation-harness: our scores are the library's own, and faults are one sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offcomp.errors import TaskError
from offcomp.evaluation import open_task
from offcomp.evaluation.harness import harness_data
from offcomp.evaluation.harness_comparison import compare_items
from offcomp.files import read_json
from offcomp.models.loading import load
from offcomp.planning.data.harness_files import harness_files
from offcomp.planning.data.scores import Score
from offcomp.planning.data.task_fields import task_faults
from offcomp.planning.data.tasks import Task, find_task, harness_task
from offcomp.runs.inputs import task_digests
from tests.cli.test_main import Command
from tests.harness_tasks import LIMIT, lm_eval_tasks, model_folder

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("accelerate")

TASKS = ("offcomp_choice", "offcomp_whole", "offcomp_answer")


def by_the_library(model: Path, tasks: Path, output: Path, **options: Any) -> Mapping[str, Mapping[str, Any]]:
    """What lm-evaluation-harness itself says of a folder, which it also writes to a folder as `lm_eval --log_samples` does."""
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tracker = EvaluationTracker(output_path=str(output))
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model)},
        tasks=list(TASKS),
        device="cpu",
        task_manager=manager,
        bootstrap_iters=0,
        evaluation_tracker=tracker,
        **options,
    )
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for task in TASKS:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return {task: found["results"][task] for task in TASKS}


def check_equal(score: Mapping[str, Any], which: str, theirs: Mapping[str, Any]) -> None:
    """Check that all figures of a score in run.json are those of the library, to the last digit."""
    given = {key.removesuffix(",none"): value for key, value in theirs.items() if key.endswith(",none") and "stderr" not in key}
    metrics = {score["metric"]: score} | score.get("also", {})
    ours = {name.removeprefix("lm-eval ").split(" ")[0]: entry[which]["value"] for name, entry in metrics.items()}
    assert ours == given


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lm_eval_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder("gpt2", tmp_path_factory.mktemp("models") / "gpt2")


def test_a_run_has_the_scores_of_the_library_for_the_original_and_the_dense_export(
    offcomp: Command, tmp_path: Path, model: Path, tasks: Path
) -> None:
    named = [part for task in TASKS for part in ("--task", f"lm-eval:{task}")]
    plan, export = str(tmp_path / "plan.json"), tmp_path / "export"
    options = ("--ratio", "1.5", "--include-path", str(tasks), "--num-fewshot", "1")
    assert offcomp("plan", str(model), *options, *named, "--out", plan)[0] == 0
    assert {task["family"] for task in json.loads(Path(plan).read_text())["tasks"]} == {"lm-eval"}
    status, out, err = offcomp("run", plan, "--json")
    assert status == 0, err
    run = json.loads(out)["id"]
    assert offcomp("export", run, str(export), "--dense")[0] == 0
    scores = (read_json(tmp_path / "home" / "runs" / run / "run.json") or {})["scores"]
    for which, folder in (("original", model), ("compressed", export)):
        theirs = by_the_library(folder, tasks, tmp_path / which, num_fewshot=1)
        for task in TASKS:
            check_equal(scores[f"lm-eval-{task}"], which, theirs[task])
    choice = scores["lm-eval-offcomp_choice"]
    assert (choice["metric"], choice["version"], choice["settings"]["num_fewshot"]) == ("lm-eval acc", "2.5", 1)
    assert choice["original"]["n"] == LIMIT and choice["paired"]["interval"] is not None
    flips = choice["flips"]
    assert len(flips["right_to_wrong"]) == choice["paired"]["right_to_wrong"] > 0
    assert all(flip["label"] != flip["predicted"] for flip in flips["right_to_wrong"])
    whole, answer = scores["lm-eval-offcomp_whole"], scores["lm-eval-offcomp_answer"]
    assert whole["direction"] == "lower" and whole["metric"] == "lm-eval word_perplexity (lower is better)"
    low, high = whole["paired"]["interval"]
    assert low < whole["paired"]["difference"] < high
    longest = answer["also"]["lm-eval length"]
    assert longest["paired"]["interval"] is not None and longest["original"]["n"] == LIMIT
    assert "| original: " in Score.from_json(answer).changes[0].text if answer.get("changes") else True
    status, out, _ = offcomp("compare", "--lm-eval", str(tmp_path / "original"), str(tmp_path / "compressed"), "--json")
    rows = {(row["task"], row["metric"]): row for row in json.loads(out)["rows"]}
    assert status == 0 and len(rows) == 2 + 3 + 2
    for task, name, score in (("offcomp_choice", "acc", choice), ("offcomp_whole", "word_perplexity", whole)):
        row = rows[task, name]
        for ours, theirs in (("first", "original"), ("second", "compressed")):
            assert row[ours]["value"] == pytest.approx(score[theirs]["value"], rel=1e-12)
        assert row["paired"]["interval"] == pytest.approx(score["paired"]["interval"], rel=1e-12)
        assert row["paired"].get("p") == score["paired"].get("p")
    status, out, _ = offcomp("show", run)
    assert status == 0 and "word_perplexity" in out


def test_an_encoder_decoder_does_them_too(tmp_path: Path, tasks: Path) -> None:
    loaded = load(str(model_folder("t5", tmp_path / "t5")))
    score = open_task(harness_task("lm-eval:offcomp_choice", include_path=str(tasks), limit=4), loaded).original()
    assert score.n == 4 and 0 <= score.value <= 1
    whole = open_task(harness_task("lm-eval:offcomp_whole", include_path=str(tasks), limit=4), loaded).original()
    assert whole.value > 1 and whole.metric == "lm-eval word_perplexity (lower is better)"


def test_the_identity_changes_with_each_thing_that_the_score_depends_on(tmp_path: Path, model: Path) -> None:
    folder = lm_eval_tasks(tmp_path / "tasks")
    task = harness_task("lm-eval:offcomp_whole", include_path=str(folder))
    named = harness_files(task)
    assert set(named.files) == {"offcomp_whole.yaml", "offcomp_choice.yaml", "own.py", "documents.jsonl"}
    for pattern in ("{folder}/*.jsonl", "{folder}"):  # patterns and folders are followed as well
        (folder / "more.yaml").write_text(
            "task: more\ndataset_path: json\ndataset_kwargs: {data_files: '" + pattern.format(folder=folder) + "'}\n"
        )
        assert "documents.jsonl" in harness_files(harness_task("lm-eval:more", include_path=str(folder))).files
    (folder / "more.yaml").unlink()
    digests, loaded = [task_digests(task)], load(str(model))
    keys = {open_task(task, loaded).original().digest}
    for name in ("offcomp_whole.yaml", "offcomp_choice.yaml", "own.py", "documents.jsonl"):
        file = folder / name
        content = file.read_bytes()
        file.write_bytes(content.split(b"\n", 1)[1] if name == "documents.jsonl" else content + b"\n# changed\n")
        digests.append(task_digests(task))
    assert all(one != other for i, one in enumerate(digests) for other in digests[:i])
    keys.add(open_task(task, loaded).original().digest)
    shorter = task.replace(options={**task.options, "limit": 7})
    keys.add(open_task(shorter, loaded).original().digest)
    assert len(keys) == 3
    assert open_task(shorter, loaded).original().n == 7


def test_a_name_in_a_plan_is_enough() -> None:
    task = find_task("lm-eval:arc_easy")
    assert (task.name, task.family, task.data) == ("lm-eval-arc_easy", "lm-eval", "lm-eval:arc_easy")
    assert task.settings == {"include_path": "", "num_fewshot": None, "limit": None}
    found = harness_files(task)
    assert found.hub == "allenai/ai2_arc/ARC-Easy" and found.version == lm_eval.__version__
    with pytest.raises(TaskError, match=r"must be lm-eval:NAME"):
        find_task("lm-eval:")


def test_faults_are_one_sentence(tasks: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(str(model))
    for task, expected in (
        (harness_task("lm-eval:offcomp_chioce", include_path=str(tasks)), "neither in"),
        (harness_task("lm-eval:arc_easy"), "not on this machine"),
        (harness_task("lm-eval:mmlu"), "is a group of"),
    ):
        with pytest.raises(TaskError, match=expected) as error:
            open_task(task, loaded)
        assert "\n" not in str(error.value)
    wrong = Task(name="a", family="lm-eval", data="other.csv", options={"limit": 0, "num_fewshot": -1})
    faults = task_faults([wrong], "GPT2LMHeadModel")
    assert len(faults) == 2 and all("whole number" in fault for fault in faults)
    assert "must be lm-eval:NAME" in task_faults([wrong.replace(options={})], "GPT2LMHeadModel")[0]
    assert "needs the family 'lm-eval'" in task_faults([Task(name="a", family="probe", data="lm-eval:a")], "BertModel")[0]
    assert "needs a model with" in task_faults(["lm-eval:arc_easy"], "BertModel")[0]
    monkeypatch.setattr("offcomp.planning.data.harness_files.find_spec", lambda _: None)
    (fault,) = task_faults(["lm-eval:arc_easy"], "GPT2LMHeadModel")
    assert fault == "task 'lm-eval:arc_easy' needs the library lm-eval; install it with: pip install 'offcomp[lm-eval]'."


def test_flags_need_a_task_that_has_them(offcomp: Command, model: Path, tasks: Path) -> None:
    for flags, expected in (
        (("--limit", "3"), "--limit applies only to tasks of lm-eval"),
        (("--task", "mteb:STSBenchmark", "--num-fewshot", "3"), "--num-fewshot applies only to tasks of lm-eval"),
        (("--task", "causal-prose", "--include-path", str(tasks)), "--include-path applies only to tasks of lm-eval or mteb"),
    ):
        status, out, err = offcomp("evaluate", str(model), *flags)
        assert (status, out) == (2, "") and expected in err


def test_the_original_compared_with_itself_is_unchanged(tasks: Path, model: Path) -> None:
    task = open_task(harness_task("lm-eval:offcomp_choice", include_path=str(tasks)), load(str(model)))
    task.prepare()
    score = task.compare()
    assert score.unchanged and score.paired.interval == (0, 0) and score.paired.agreement == 1
    assert score.flips is not None and not score.flips.right_to_wrong
    for parameter in task._loaded.model.parameters():
        parameter.fill_(float("nan"))
    with pytest.raises(TaskError, match="not finite"):
        task.compare()


def test_a_task_leaves_the_global_generators_alone(tasks: Path, model: Path) -> None:
    np.random.seed(5)
    expected = np.random.get_state()[1].tolist()
    open_task(harness_task("lm-eval:offcomp_choice", include_path=str(tasks), limit=3), load(str(model))).original()
    assert np.random.get_state()[1].tolist() == expected


@pytest.mark.parametrize(
    ("aggregation", "items", "score"),
    [
        ("mean", [0.5, 1.0, 0.0, 0.25] * 5, 0.4375),
        ("perplexity", [-1.0, -3.0] * 9, np.exp(2.0)),
        ("weighted_perplexity", [(-6.0, 2), (-3.0, 1)] * 6, np.exp(3.0)),
        ("bits_per_byte", [(-6.0, 2), (-3.0, 1)] * 6, 3 / np.log(2)),
    ],
)
def test_resampling_knows_the_aggregations_of_the_library(aggregation: str, items: list[Any], score: float) -> None:
    from lm_eval.api.registry import get_aggregation

    assert get_aggregation(aggregation)(items) == pytest.approx(score)
    worse = [(a - 1, b) for a, b in items] if isinstance(items[0], tuple) else [each - 1 for each in items]
    fast = compare_items(items, worse, aggregation)
    slow = compare_items(items, worse, "unknown", aggregate=get_aggregation(aggregation))
    assert fast is not None and slow is not None
    assert fast.original.value == pytest.approx(score)
    assert fast.paired.interval == pytest.approx(slow.paired.interval, rel=1e-4)  # the same resamples


def test_values_that_are_no_numbers_have_no_interval() -> None:
    assert compare_items([("a", "b")], [("a", "c")], "bleu") is None
    assert compare_items([1.0, float("nan")], [1.0, 0.0], "mean") is None
    assert compare_items(["x", "y"], ["x", "z"], "own", aggregate=float) is None


def test_the_digest_of_a_task_does_not_contain_addresses_in_memory() -> None:
    task, texts = find_task("lm-eval:any"), ["a text"]
    first, second = (
        harness_data(task, None, texts, content=[f"<function own at 0x7f{digit}a0>"], tested_on="test", release="1")
        for digit in "12"
    )
    assert first.digest == second.digest
