"""`offcomp plan` with a target instead of a size, and the scores of a plan that `offcomp predict` expects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_main import Command, folder, write

__all__ = ["folder"]  # fixtures


def test_a_loss_becomes_a_plan_whose_expected_score_is_explained(offcomp: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "plan.json")
    flags = ("--kinds", "query,key", "--group", "module", "--lose", "1 point of similarity", "--task", "similarity")
    status, out, err = offcomp("plan", "minilm-l6", *flags, "--out", path, "--json")
    plan = json.loads(out)
    assert status == 0 and json.loads(Path(path).read_text(encoding="utf-8")) == plan
    assert len({group["ratio"] for group in plan["groups"]}) == 1 and plan["groups"][0]["ratio"] > 1
    assert "Expected Spearman correlation on similarity: 0.826 -> about 0.81" in err and "90 % band" in err
    status, out, _ = offcomp("predict", path, "--json")
    score = json.loads(out)["scores"]["similarity"]
    assert status == 0 and score["origin"] == "estimated" and score["run"] is None
    assert 0 < score["loss"] <= 0.01 and score["low"] < score["value"] < score["high"]
    text = offcomp("predict", path)[1]
    assert "Spearman correlation on similarity: 0.826 -> about 0.81" in text


def test_sizes_are_allocated_and_each_has_a_reason(offcomp: Command) -> None:
    flags = ("--group", "module", "--ratio", "3", "--allocate", "--task", "causal-prose")
    status, out, _ = offcomp("plan", "offcomp-gpt", *flags)
    assert status == 0
    assert "left as it is: compressing it would cost more accuracy per byte" in out
    assert "smaller than most, since its error costs least per byte" in out
    assert "Sizes are allocated so that each byte is spent where it does most to preserve the score on causal-prose" in out


def test_a_plan_file_is_allocated_to_a_target(offcomp: Command, tmp_path: Path) -> None:
    groups = [{"name": f"key.{n}", "modules": [f"key.{n}"]} for n in range(6)]
    path, made = write(tmp_path / "plan.json", {"model": "minilm-l6", "tasks": [], "groups": groups}), tmp_path / "made.json"
    status, out, _ = offcomp("allocate", path, "--target", "lose 0.5 points of similarity", "--out", str(made), "--json")
    found = json.loads(out)
    assert status == 0 and json.loads(made.read_text(encoding="utf-8")) == found["plan"]
    assert [row["group"] for row in found["groups"]] == [group["name"] for group in groups]
    assert all(row["reason"] for row in found["groups"]) and 0 < found["expected"]["loss"] <= 0.005


def test_the_size_of_the_whole_model_is_kept(offcomp: Command) -> None:
    status, out, err = offcomp("plan", "offcomp-gpt", "--size", "3 MB", "--json")
    assert status == 0 and json.loads(out)["groups"][0]["unit"] == "bytes"
    assert "The whole model takes 3.00 MB instead of 3.72 MB" in err
    status, out, err = offcomp("plan", "minilm-l6", "--size", "12 MB", "--json")
    assert (status, out) == (2, "")
    assert "could be reached with word_embeddings compressed as well" in err and err.count("\n") == 1


def test_singular_values_that_a_target_needs_are_computed(offcomp: Command, folder: Path) -> None:
    flags = ("--kinds", "query,key", "--group", "all", "--stack", "residual", "--max-error", "0.5", "--json")
    status, out, err = offcomp("plan", str(folder), *flags)
    assert status == 0 and json.loads(out)["groups"][0]["ratio"] > 1
    assert "The relative error over all chosen weights is 0." in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--size", "12 GB"), "'12 GB' is not a target; examples are"),
        (("--size", "3x"), "--size must be text such as '12 MB', not '3x'"),
        (("--lose", "1 point of bleu"), "has no task or metric 'bleu'"),
        (("--max-error", "1.5"), "a target error of 1.5 is not possible"),
        (("--max-error", "nan"), "a target error of nan is not possible"),
        (("--lose", "1 point of perplexity"), "is not measured in points; give the loss as a percentage"),
    ],
)
def test_bad_targets_are_one_sentence(offcomp: Command, flags: tuple[str, ...], message: str) -> None:
    status, out, err = offcomp("plan", "offcomp-gpt", *flags)
    assert (status, out) == (2, "")
    assert message in err and err.count("\n") == 1
