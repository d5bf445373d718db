"""`offcomp compare`: the runs that it finds, its output and files, and its refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from offcomp.files import read_json
from offcomp.numerics.paired_tests import accuracy_interval
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


def sample(number: int, task: str, **values: Any) -> dict[str, Any]:
    hashes = {"doc_hash": f"{task} {number}", "prompt_hash": "p"}
    return {"doc_id": number, **hashes, "filter": "none", "metrics": list(values), **values}


def write_samples(
    folder: Path, samples: dict[str, list[dict[str, Any]]], results: dict[str, Any], date: str = "2026-11-01T10-00-00.5"
) -> Path:
    """Write an output of lm_eval as version 0.4.13 does."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, rows in samples.items():
        (folder / f"samples_{task}_{date}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"results_{date}.json").write_text(json.dumps({"results": results}))
    return folder


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[Path, Path]:
    """Two outputs: on `arc`, A alone is right on 9 of 40 documents and B alone on 1; `wiki` has perplexities."""
    both = []
    for right, loss in ((range(30), -20.0), ((*range(9, 30), 35), -21.0)):
        arc = [sample(i, "arc", acc=float(i in right), f1=[0, 1]) for i in range(40)]
        wiki = [sample(i, "wiki", word_perplexity=[loss - i, 10 + i]) for i in range(12)]
        perplexity = math.exp(-sum(loss - i for i in range(12)) / sum(10 + i for i in range(12)))
        results = {"arc": {"acc,none": len(right) / 40, "f1,none": 0.25}, "wiki": {"word_perplexity,none": perplexity}}
        both.append(write_samples(tmp_path / f"out{len(both)}" / "model", {"arc": arc, "wiki": wiki}, results))
    return both[0].parent, both[1].parent


def test_two_outputs_of_lm_eval_get_paired_statistics(offcomp: Command, outputs: tuple[Path, Path]) -> None:
    first, second = map(str, outputs)
    status, out, err = offcomp("compare", "--lm-eval", first, second, "--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    by_metric = {row["metric"]: row for row in document["rows"]}
    accuracy, paired = by_metric["acc"], by_metric["acc"]["paired"]
    assert (accuracy["first"]["value"], accuracy["second"]["value"], accuracy["first"]["n"]) == (0.75, 0.55, 40)
    assert (paired["right_to_wrong"], paired["wrong_to_right"]) == (9, 1)
    assert paired["p"] == pytest.approx(2 * (1 + 10) / 2**10) and paired["interval"] == pytest.approx(
        accuracy_interval(9, 1, 40)
    )
    wiki = by_metric["word_perplexity"]
    low, high = wiki["paired"]["interval"]
    assert wiki["better"] == "lower" and 0 < low < wiki["paired"]["difference"] < high
    assert by_metric["f1"]["paired"]["interval"] is None
    assert document["notes"] == ["arc: f1 is not a mean over documents, so it has no interval."]
    status, out, err = offcomp("compare", "--lm-eval", first, second)
    assert next(line for line in out.splitlines() if " acc " in line).split()[-3:] == ["9", "1", "0.0215"]


def test_outputs_of_lm_eval_that_do_not_match_are_refused(offcomp: Command, outputs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = map(str, outputs)
    other = write_samples(tmp_path / "other", {"arc": [sample(i, "new", acc=1.0) for i in range(40)]}, {})
    shorter = write_samples(tmp_path / "shorter", {"arc": [sample(i, "arc", acc=1.0) for i in range(20)]}, {})
    alone = write_samples(tmp_path / "alone", {"piqa": [sample(0, "piqa", acc=1.0)]}, {})
    twice = tmp_path / "twice"
    for name in ("a", "b"):
        write_samples(twice / name, {"arc": [sample(0, "arc", acc=1.0)]}, {})
    old = write_samples(tmp_path / "old", {"arc": [{"doc_id": 1, "acc": 1.0}]}, {})
    (tmp_path / "empty").mkdir()
    for path, expected in (
        (other, "have no document in common"),
        (alone, "no task in common"),
        (twice, "enter the folder of one model"),
        (old, "lacks one of doc_id"),
        (tmp_path / "empty", "--log_samples"),
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "out0" / "model" / "results_2026-11-01T10-00-00.5.json", "must have a name such as"),
    ):
        status, out, err = offcomp("compare", "--lm-eval", first, str(path))
        assert (status, out, len(err.splitlines())) == (2, "", 1) and expected in err, err
    status, out, err = offcomp("compare", "--lm-eval", first, str(shorter))
    assert status == 0 and "only the 20 documents that both outputs contain" in out and "alone has wiki" in out
    for flags in (("aa1", "--lm-eval", first, second), ()):
        assert offcomp("compare", *flags)[0] == 2
