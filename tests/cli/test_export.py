"""`offcomp export` and `offcomp verify`: their output and files, their exit status, and one sentence per fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offcomp.files import read_json
from offcomp.results.bundled import bundled_runs
from tests.cli.test_evaluate import COLUMNS, pairs
from tests.cli.test_main import Command, folder, small_plan, write
from tests.runs.test_verify import flip_a_byte

__all__ = ["folder", "pairs"]  # fixtures
TASK = {"name": "near", "family": "similarity", "columns": {"sentence1": "a", "sentence2": "b", "score": "near"}}


def test_a_run_is_exported_verified_and_scored_as_it_was(offcomp: Command, folder: Path, tmp_path: Path, pairs: str) -> None:
    plan = small_plan(folder, ratio=6.0) | {"tasks": [TASK | {"data": pairs}]}
    status, text, _ = offcomp("run", write(tmp_path / "plan.json", plan), "--json")
    assert status == 0
    run, out = str(json.loads(text)["id"]), tmp_path / "out"
    status, text, err = offcomp("export", run[:6], str(out), "--dense", "--json")
    document = json.loads(text)
    assert (status, err) == (0, f"writing {folder} with the reconstructed weights\n")
    assert document == {"folder": str(out), **read_json(out / "offcomp.json")}
    assert document["run"] == run
    status, text, err = offcomp("verify", str(out), "--json")
    assert (status, err) == (0, "")
    assert json.loads(text)["holds"] is True
    assert [check["holds"] for check in json.loads(text)["checks"]] == [True] * 5
    flags = ("--original", str(folder), "--data", pairs, "--family", "similarity", *COLUMNS, "--json")
    score = json.loads(offcomp("evaluate", str(out), *flags)[1])["scores"]["pairs"]
    before = json.loads(offcomp("show", run, "--json")[1])["scores"]["near"]
    assert score["original"] == pytest.approx(before["original"])
    assert score["compressed"] == pytest.approx(before["compressed"])
    assert score["compressed"]["value"] != pytest.approx(score["original"]["value"])
    the_text_names_groups_ratios_and_what_to_do_next(offcomp, run, tmp_path / "again")


def the_text_names_groups_ratios_and_what_to_do_next(offcomp: Command, run: str, place: Path) -> None:
    out = str(place)
    status, text, err = offcomp("export", run, out)
    assert (status, err) == (0, "")
    assert "left, right" in text and "whole model:" in text
    assert text.endswith(f"wrote {out}; check it with 'offcomp verify {out}'\n")
    status, text, _ = offcomp("verify", out)
    assert status == 0
    assert text.count("  passed  ") == 4
    assert text.endswith("dense model, not checked: the export contains only the stored tensors.\n")
    status, text, err = offcomp("export", run, out)
    assert (status, text) == (2, "")
    assert err == f"offcomp: {out} already exists and is not an empty folder; specify a new or empty folder\n"
    flip_a_byte(place)
    status, text, err = offcomp("verify", out)
    assert status == 1
    assert "files        failed" in text
    assert "files: groups/key.safetensors has been modified: its sha256 begins with" in text
    assert err.startswith(f"offcomp: {out} does not match its manifest: files: groups/key.safetensors") and err.count("\n") == 1
    status, text, err = offcomp("verify", out, "--json")
    assert (status, json.loads(text)["holds"], err.count("\n")) == (1, False, 1)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("export", "nothing", "DIR"), "there is no run 'nothing'"),
        (("export", bundled_runs()[0].id, "DIR"), "has results but no compressed weights"),
        (("verify", "DIR"), "there is no folder DIR; specify a folder written by 'offcomp export'"),
        (("verify", "tests"), "tests has no offcomp.json"),
    ],
)
def test_bad_input_is_one_sentence(offcomp: Command, asked: tuple[str, ...], said: str) -> None:
    status, out, err = offcomp(*asked)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not Path("DIR").exists()
