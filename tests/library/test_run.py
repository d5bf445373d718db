"""Plans run from a notebook give the same results as on the command line, and the charts are those of the app."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from offcomp import (
    Group,
    InputError,
    Plan,
    PlanError,
    Run,
    RunError,
    make_groups,
    model_info,
    plot_errors,
    plot_pareto,
    run,
    run_table,
    select_modules,
)
from tests import tiny_models
from tests.made_runs import made_group, made_run, made_score

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.save(tiny_models.bert(), tmp_path_factory.mktemp("models") / "tiny-bert"))


def plan_of(folder: str, home: Path, **size: object) -> Plan:
    groups = make_groups(select_modules(model_info(folder, home), "key"), "kind", **size)  # type: ignore[arg-type]
    return Plan(model=folder, groups=groups, tasks=())


def test_a_run_is_what_the_command_line_runs(folder: str, tmp_path: Path, offcomp: Command) -> None:
    plan = plan_of(folder, tmp_path / "one", ratio=2.0)
    finished = run(plan, home=tmp_path / "one", progress=False)
    assert (finished.status, finished.plan.model) == ("done", folder)
    again = run(plan, home=tmp_path / "one", progress=False)
    assert (again.id, again.submitted) == (finished.id, finished.submitted)
    (tmp_path / "plan.json").write_text(plan.to_json())
    status, out, _ = offcomp("run", str(tmp_path / "plan.json"), "--json")
    group = json.loads(out)["groups"][0]
    table = run_table([finished])
    assert status == 0 and table["relative_error"][0] == group["relative_error"]
    assert (tmp_path / "home" / "runs" / finished.id).is_dir()  # the command line used the same id


def test_a_share_of_the_energy_becomes_a_rank(folder: str, tmp_path: Path, offcomp: Command) -> None:
    finished = run(plan_of(folder, tmp_path, energy=0.8, multiple=4), home=tmp_path, progress=False)
    (group,) = finished.plan.groups
    assert group.energy == 0.8 and group.rank is not None and group.rank % 4 == 0
    flags = ("--kinds", "key", "--energy", "0.8", "--multiple", "4", "--json")
    _, out, _ = offcomp("plan", folder, *flags)
    assert json.loads(out)["groups"][0]["rank"] == group.rank


def test_what_cannot_run_is_said_at_once(folder: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="'nothing'"):
        run(Plan(model=folder, groups=(Group(name="a", modules=("nothing",)),), tasks=()), home=tmp_path)
    broken = plan_of(folder, tmp_path, method="autoencoder", options={"learning_rate": 1e30})
    with pytest.raises((RunError, PlanError)):
        run(broken, home=tmp_path, progress=False)


def finished_runs() -> list[Run]:
    score = made_score(["a"], ["b", "c"])
    return [made_run(name, [made_group("key", error)], score) for name, error in (("one", 0.1), ("two", 0.2))]


def test_charts_are_those_of_the_app() -> None:
    runs = finished_runs()
    assert plot_errors(runs).layout.title.text == "Which groups lose more?"
    assert plot_errors(runs[0], by="module", theme="dark").layout.title.text == "Which modules lose more?"
    assert plot_pareto(runs).layout.yaxis.title.text == "Accuracy on sentiment, in %"
    assert len(plot_pareto(runs, task="relative error", unit="parameters").data) > 1


def test_runs_that_share_no_axis_are_named() -> None:
    one, two = finished_runs()
    other = made_run("three", [made_group("query", 0.3)])
    with pytest.warns(UserWarning, match="not on this axis: "):
        plot_pareto([one, two, other], task="relative error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_pareto([one, two])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda runs: plot_errors(runs[:0]), "there are no runs to show"),
        (lambda runs: plot_errors(runs, by="layer"), "by is 'layer'; choose one of group, module"),
        (lambda runs: plot_errors(runs, theme="pink"), "theme is 'pink'"),
        (lambda runs: plot_pareto(runs, task="nothing"), "task is 'nothing'; choose one of sentiment, relative error"),
        (lambda runs: plot_pareto(runs, unit="bits"), "unit is 'bits'"),
    ],
)
def test_a_chart_that_cannot_be_drawn_says_why(draw: Callable[[list[Run]], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw(finished_runs())
