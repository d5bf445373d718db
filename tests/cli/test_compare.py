"""`offcomp compare`: the runs that it finds, its output and files, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offcomp.files import read_json
from offcomp.results import bundled
from tests.cli.test_main import Command
from tests.made_runs import put_in_home


@pytest.fixture(autouse=True)
def runs(tmp_path: Path) -> None:
    """Store two finished runs whose ids begin alike, and a failed one, in the home of the command."""
    home = tmp_path / "home"
    svd, autoencoder = (read_json(bundled.FOLDER / file) for file in bundled.FILES)
    put_in_home(home, svd, "aa1111111111", submitted=1.0)
    put_in_home(home, autoencoder, "aa2222222222", submitted=2.0)
    put_in_home(home, svd, "bb3333333333", submitted=3.0, status="failed", error="The machine ran out of memory.")


def test_the_table_has_the_answer_and_a_column_a_run(offcomp: Command) -> None:
    status, out, err = offcomp("compare", "aa1", "aa2222222222", "aa1111111111")
    assert (status, err) == (0, "")
    assert out.startswith("At a parameter compression ratio of 3.02x to 3.05x, SVD has the lower")
    assert next(line for line in out.splitlines() if line.startswith("Run id")).split()[2:] == ["aa1111111111", "aa2222222222"]


def test_json_is_one_document_and_bundled_runs_are_known(offcomp: Command, tmp_path: Path) -> None:
    first, second = (run.id for run in bundled.bundled_runs())
    report = tmp_path / "report.html"
    status, out, err = offcomp("compare", first[:5], second, "--json", "--html", str(report))
    assert (status, err) == (0, f"wrote {report}\n")
    assert [row["run"] for row in json.loads(out)["runs"]] == [first, second]
    assert report.read_text(encoding="utf-8").startswith('<!DOCTYPE html>\n<html lang="en">')


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["zz"], "there is no run 'zz'; list your runs with 'offcomp runs'"),
        ([""], "there is no run ''"),
        (["aa"], "2 run ids begin with 'aa': aa1111111111, aa2222222222; enter more characters of the id"),
        (
            ["aa1", "bb"],
            "run bb3333333333 has status failed, so it has no results to compare: The machine ran out of memory; choose",
        ),
        (["aa1", "--html", "/no/such/folder/x.html"], "cannot write the report /no/such/folder/x.html: No such file"),
    ],
)
def test_what_cannot_be_compared(offcomp: Command, asked: list[str], said: str) -> None:
    status, out, err = offcomp("compare", *asked)
    assert (status, out) == (2, "")
    assert said in err and err.count("\n") == 1
