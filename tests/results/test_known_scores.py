"""Scores known before a run: measured scores are those of an earlier run, and estimates state what they are based on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from benchmarks.score_estimates import FILE, compared, rounded, summary
from offcomp.models.catalogue import ModelInfo
from offcomp.models.sources import bundled_info
from offcomp.planning.data.tasks import Task
from offcomp.planning.plan import Group, Plan, make_groups
from offcomp.planning.sizes import resolved
from offcomp.results.bundled import bundled_runs
from offcomp.results.estimate_check import EstimateCheck, accuracy_of_estimates
from offcomp.results.known_errors import Measured, measured_of
from offcomp.results.known_scores import KnownScore, errors_of, fitted_scores, known_scores, score_on
from offcomp.results.runs import result_of
from tests.made_runs import made_group, made_run, made_value_score, with_result

MODEL = "offcomp-gpt"


@pytest.fixture(scope="module")
def info() -> ModelInfo:
    found = bundled_info(MODEL)
    assert found
    return found


@pytest.fixture(scope="module")
def measured(info: ModelInfo) -> list[Measured]:
    return measured_of([], info.fingerprint)


def plan(info: ModelInfo, ratio: float = 3.0, kinds: tuple[str, ...] = ("query", "value"), **settings: Any) -> Plan:
    specs = [spec for spec in info.modules if spec.kind in kinds]
    return resolved(Plan(model=MODEL, groups=make_groups(specs, "module", ratio=ratio, **settings)), info)


def known(plan: Plan, info: ModelInfo, error: float, measured: list[Measured], task: str = "causal-prose") -> KnownScore:
    return known_scores(plan, info, error, measured, [task])[task]


# ----------------------------------------------------------------------------------------------------------------- measured


def test_a_plan_of_the_sweep_has_its_measured_scores(info: ModelInfo, measured: list[Measured]) -> None:
    row = next(m for m in measured if len(m.run.plan.groups) == 24 and m.settings and m.settings[0] == "pruning")
    scores = known_scores(row.run.plan, info, None, measured, ["causal-prose", "sentiment"])
    assert list(scores) == ["causal-prose", "sentiment"]
    for task, found in scores.items():
        score = result_of(row.run).scores[task]
        assert score.paired.interval
        assert (found.origin, found.run, found.value) == ("bundled", row.run, score.compressed.value)
        assert found.low - found.original == pytest.approx(score.paired.interval[0])
        assert found.high - found.original == pytest.approx(score.paired.interval[1])
        assert found.within_noise == (score.paired.interval[0] <= 0 <= score.paired.interval[1])
        assert found.basis.startswith("Measured. ")
    assert scores["causal-prose"].loss == scores["causal-prose"].value - scores["causal-prose"].original
    assert scores["sentiment"].loss == scores["sentiment"].original - scores["sentiment"].value


def test_the_same_groups_at_swapped_ratios_are_another_plan(info: ModelInfo) -> None:
    groups = [made_group("key", 0.3, ratio=2.0), made_group("value", 0.4, ratio=4.0)]
    run = made_run("a", groups, others={"similarity": made_value_score("spearman", 0.8, 0.7, version="1")})
    measurement = Measured(run, 0.35)
    assert known_scores(run.plan, info, None, [measurement], ["similarity"])
    swapped = run.plan.replace(groups=tuple(g.replace(ratio=6.0 - g.ratio) for g in run.plan.groups))
    assert known_scores(swapped, info, None, [measurement], ["similarity"]) == {}


def test_ones_own_score_comes_before_the_bundled_one(info: ModelInfo, tmp_path: Path) -> None:
    bundled = bundled_runs()[0]
    own = replace(bundled, folder=tmp_path)
    minilm = bundled_info("minilm-l6")
    assert minilm
    for runs, source in (([], "bundled"), ([own], "yours")):
        found = known_scores(bundled.plan, minilm, None, measured_of(runs, minilm.fingerprint), ["sentiment"])
        assert found["sentiment"].origin == source


def test_scores_of_other_versions_and_other_data_of_a_task_do_not_count(tmp_path: Path) -> None:
    run = made_run("a", [made_group("key", 0.3)], others={"similarity": made_value_score("spearman", 0.8, 0.7, version="1")})
    bundled = Task(name="similarity", family="similarity", data="bundled:similarity", title="Similarity", version="1")
    assert score_on(Measured(run, 0.3), bundled)
    assert score_on(Measured(run, 0.3), bundled.replace(version="2")) is None
    data = tmp_path / "pairs.csv"
    data.write_text("sentence1,sentence2,score\na,b,1\n")
    own = Task(name="similarity", family="similarity", data=str(data))
    assert score_on(Measured(run, 0.3), own) is None
    assert score_on(Measured(with_own_task(run, own), 0.3), own), "same file, same task"
    data.write_text("sentence1,sentence2,score\na,b,2\n")
    assert score_on(Measured(with_own_task(run, own, current=False), 0.3), own) is None


def with_own_task(run: Any, task: Task, *, current: bool = True) -> Any:
    from offcomp.runs.inputs import task_digests

    digests = task_digests(task) if current else {"pairs.csv": "0" * 64}
    plan = run.plan.replace(tasks=(task,))
    return replace(with_result(run, inputs={"tasks": {task.name: [task.version, digests]}}), plan=plan)


# ---------------------------------------------------------------------------------------------------------------- estimated


def test_an_estimate_lies_in_its_band_and_says_what_it_rests_on(info: ModelInfo, measured: list[Measured]) -> None:
    found = known(plan(info), info, 0.6, measured)
    assert (found.origin, found.run, found.metric, found.direction) == ("estimated", None, "perplexity", "lower")
    assert found.original == pytest.approx(229.525, abs=0.01)
    assert found.original <= found.low <= found.value <= found.high or found.within_noise
    assert "measurements of this model on this task" in found.basis and "with the same method and options" in found.basis
    assert str(found).startswith("perplexity on next words in prose: 230 -> about ")
    assert json.dumps(found.to_dict())


def test_more_error_costs_more_and_no_error_nothing(info: ModelInfo, measured: list[Measured]) -> None:
    values = [known(plan(info), info, error, measured).value for error in (0.0, 0.2, 0.4, 0.6, 0.75)]
    assert values == sorted(values) and values[0] == pytest.approx(229.525, abs=0.01)


def test_errors_per_group_matter_where_the_model_is_sensitive(info: ModelInfo, measured: list[Measured]) -> None:
    chosen = plan(info, kinds=("query", "ffn_in"))
    first, second = ({g.name: 0.7 if g.name.startswith(kind) else 0.1 for g in chosen.groups} for kind in ("query", "ffn_in"))
    losses = [known_scores(chosen, info, errors, measured, ["causal-prose"])["causal-prose"].loss for errors in (first, second)]
    assert losses[1] > 3 * losses[0]


def test_without_an_error_or_with_one_out_of_range_there_is_no_estimate(info: ModelInfo, measured: list[Measured]) -> None:
    assert known_scores(plan(info), info, None, measured, ["causal-prose"]) == {}
    assert known_scores(plan(info), info, 1.5, measured, ["causal-prose"]) == {}


def test_tasks_and_models_that_were_hardly_measured_have_no_estimate(info: ModelInfo, measured: list[Measured]) -> None:
    assert known_scores(plan(info), info, 0.5, measured, ["masked-prose"]) == {}
    assert known_scores(plan(info), info, 0.5, measured[:5], ["causal-prose"]) == {}
    assert known_scores(plan(info), info, 0.5, [], ["causal-prose"]) == {}


def test_calibrated_methods_are_not_estimated_from_others(info: ModelInfo, measured: list[Measured]) -> None:
    whitened = plan(info, options={"preset": "whitened"})
    assert whitened.calibrated_groups
    assert known_scores(whitened, info, 0.5, measured, ["causal-prose"]) == {}


def test_own_runs_change_the_estimate(info: ModelInfo, measured: list[Measured]) -> None:
    specs = [spec for spec in info.modules if spec.kind == "query"]
    row = next(m for m in measured if len(m.run.plan.groups) == 4 and m.groups == measured_groups(info, specs))
    worse = replace(
        with_result(
            made_run(
                "own", [made_group("query", 0.6)], others={"causal-prose": made_value_score("perplexity", 229.525, 400.0)}
            ),
            model={"fingerprint": info.fingerprint},
        ),
        plan=row.run.plan,
    )
    own = [Measured(replace(worse, id=f"own{n}", result=with_groups(worse, row)), row.relative_error) for n in range(5)]
    chosen = plan(info, kinds=("query",))
    before, after = (known(chosen, info, row.relative_error, each) for each in (measured, [*own, *measured]))
    assert after.value > before.value + 5
    assert "5 of them yours" in after.basis and "yours" not in before.basis


def measured_groups(info: ModelInfo, specs: Any) -> Any:
    from offcomp.results.known_errors import groups_of

    return groups_of(Plan(model=MODEL, groups=make_groups(specs, "module")))


def with_groups(run: Any, row: Measured) -> Any:
    return result_of(run).model_copy(update={"groups": result_of(row.run).groups})


def test_errors_are_found_by_modules_whatever_the_groups_are_called() -> None:
    run = made_run("a", [made_group("key", 0.3), made_group("value", 0.4)])
    renamed = Plan(
        model="tiny",
        groups=(Group(name="one", modules=("value.0",)), Group(name="two", modules=("key.0",))),
    )
    assert errors_of(renamed, Measured(run, 0.35)) == {"one": 0.4, "two": 0.3}


def test_after_the_first_estimate_the_next_take_milliseconds(info: ModelInfo, measured: list[Measured]) -> None:
    tasks = ["causal-prose", "similarity", "topics"]
    known_scores(plan(info), info, 0.5, measured, tasks)
    fastest = []
    for ratio in (1.7, 2.3, 3.1, 4.7):
        chosen, started = plan(info, ratio), perf_counter()
        assert len(known_scores(chosen, info, 0.1 * ratio, measured, tasks)) == 3
        fastest.append(perf_counter() - started)
    assert min(fastest) < 0.05
    assert fitted_scores(plan(info), info, measured, find("topics")) is fitted_scores(
        plan(info), info, measured, find("topics")
    )


def find(name: str) -> Task:
    from offcomp.planning.data.tasks import find_task

    return find_task(name)


# ---------------------------------------------------------------------------------------------------------------- the check


def test_the_bundled_check_is_that_of_the_bundled_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFCOMP_HOME", str(tmp_path))
    document = json.loads(FILE.read_text(encoding="utf-8"))
    assert rounded(summary(compared(document["rows"]))) == document["summary"]
    check = accuracy_of_estimates()
    assert check and check.plans >= 20 and check.within / check.plans > 0.8
    assert str(check).startswith(f"In a check on {check.plans} other plans, ")


def test_the_check_is_one_sentence_with_units() -> None:
    check = EstimateCheck(20, 18, {"a": ("sentiment", "accuracy", 0.012), "b": ("similarity", "spearman", 0.0301)})
    assert str(check) == (
        "In a check on 20 other plans, 90 % of the measured scores lay within the 90 % band; mean error 1.2 points on "
        "sentiment (a), 0.030 on similarity (b)."
    )


def test_known_scores_do_not_load_torch() -> None:
    code = "import sys, offcomp.results.proposals, offcomp.results.estimate_check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
