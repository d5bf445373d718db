"""The checks of the store's benchmarks find the faults that are planted here."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.run_checks import Reference, asked, digest, plans, tracebacks, unreadable
from benchmarks.shared_home import Actor as SharedActor
from benchmarks.shared_home import Part, excused, may_go
from offcomp.runs.store import Run
from tests.made_runs import made_group, made_run, made_score, put_in_home, with_result

NAME = "0123456789ab"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run with one stored group, in a home from which the reference is copied."""
    home = tmp_path / "home"
    made = made_run(NAME, [made_group("query", 0.5)], made_score(["a"], []))
    put_in_home(home, made.result.to_dict(), NAME, submitted=1.0)
    made = replace(made, folder=home / "runs" / NAME)
    made.group_file("query").parent.mkdir()
    made.group_file("query").write_bytes(b"tensors")
    return made


@pytest.fixture
def reference(run: Run) -> Reference:
    home = run.folder.parents[1]
    peace = shutil.copytree(home, home.with_name("peace"))
    return Reference(peace, {asked(run.plan): digest(run)})


def test_a_run_that_is_the_same_has_no_fault_whenever_and_wherever_it_was_made(run: Run, reference: Reference) -> None:
    assert run.result
    group = run.result.groups[0].to_dict() | {"seconds": 12.3}
    again = replace(with_result(run, groups=[group], timings={"total": 9.0}), id="f" * 12)
    assert not reference.fault(again)


def test_another_figure_other_tensors_or_none_are_a_fault(run: Run, reference: Reference) -> None:
    assert run.result
    group = run.result.groups[0].to_dict() | {"relative_error": 0.5000001}
    assert "differ" in reference.fault(with_result(run, groups=[group]))
    run.group_file("query").write_bytes(b"tensorS")
    assert "differ" in reference.fault(run)
    run.group_file("query").unlink()
    assert "incomplete" in reference.fault(run)


@pytest.mark.parametrize(
    "place",
    [
        "runs/0123456789ab/.run.json.77.part",
        "runs/.0123456789ab.lock",
        "runs/0123456789ab/half",
        "runs/gone/plan.json",
        ".x.1.part",
    ],
)
def test_what_is_left_over_is_found(run: Run, reference: Reference, place: str) -> None:
    home = run.folder.parents[1]
    (run.folder / "cancel").touch()
    assert not reference.strays(home)
    (home / place).parent.mkdir(exist_ok=True)
    (home / place).touch()
    assert reference.strays(home) == [place]


def test_a_folder_without_a_plan_is_found(run: Run) -> None:
    home = run.folder.parents[1]
    assert not unreadable(home)
    (home / "runs" / "half").mkdir()
    assert unreadable(home) == ["half"]


def test_tracebacks_are_counted() -> None:
    assert tracebacks("a\nTraceback (most recent call last):\n b\nTraceback (most recent call last):\n") == 2


def test_only_what_somebody_took_away_may_be_missing(tmp_path: Path) -> None:
    even, odd = plans(0)[0], plans(1)[0]
    assert not may_go(replace(made_run(NAME, []), plan=even))
    assert may_go(replace(made_run(NAME, []), plan=odd))
    actor = SharedActor(Part(tmp_path, tmp_path / "journal", 0, 2))
    actor.note("look")
    lines = [{"run": "", "action": "look"}, {"run": NAME, "action": "cancel"}]
    assert not excused(lines, even, NAME)
    assert excused([*lines, {"run": NAME, "action": "delete"}], even, NAME)
    assert excused([*lines, {"run": asked(odd), "action": "may be made again"}], odd, NAME)
