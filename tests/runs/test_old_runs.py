"""Runs written by each earlier version still open, with the same meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from offcomp.methods import style_key_in_plan
from offcomp.results.report import html_report
from offcomp.results.runs import run_table
from offcomp.runs.store import RunStore

OLD = sorted((Path(__file__).parent / "old_runs").glob("*.json"))


@pytest.fixture(params=OLD, ids=lambda path: path.stem)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The run.json of an earlier version, shortened to one group."""
    read: dict[str, Any] = json.loads(request.param.read_text(encoding="utf-8"))
    return read


def test_every_version_is_kept() -> None:
    assert len(OLD) >= 12


def test_an_old_run_opens_and_means_what_it_meant(document: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / document["id"]
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps(document["plan"]), encoding="utf-8")
    runs, bad = RunStore(tmp_path).listing()
    assert [str(each) for each in bad] == []
    (run,) = runs
    (planned,), (stored,) = document["plan"]["groups"], document["groups"]
    (group,) = run.plan.groups
    assert (group.name, list(group.modules), group.ratio) == (planned["name"], planned["modules"], planned["ratio"])
    assert style_key_in_plan(group.method, group.options) == planned["method"]
    row = run_table(runs).iloc[0]
    assert row["relative_error"] == pytest.approx(stored["relative_error"], rel=1e-6)
    assert row["sentiment_score"] == document["scores"]["sentiment"]["compressed"]["value"]
    assert row["sentiment_difference"] == document["scores"]["sentiment"]["paired"]["difference"]
    assert run.id in html_report(runs)
