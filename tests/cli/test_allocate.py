"""`offcomp suggest` and `offcomp allocate`: only JSON on stdout, plans of the promised size, one sentence per fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_models
from tests.cli.test_main import Command, folder, write

__all__ = ["folder"]  # fixtures


def three_keys(**fields: Any) -> dict[str, Any]:
    groups = [{"name": f"key.{n}", "modules": [f"key.{n}"]} | fields for n in range(3)]
    return {"model": "minilm-l6", "tasks": [], "groups": groups}


def test_a_total_ratio_becomes_a_plan_that_is_predicted_to_store_it(offcomp: Command, tmp_path: Path) -> None:
    plan, made = write(tmp_path / "plan.json", three_keys()), str(tmp_path / "made.json")
    status, out, err = offcomp("allocate", plan, "--total-ratio", "3", "--out", made, "--json")
    found = json.loads(out)
    assert (status, err) == (0, f"wrote {made}\n")
    assert found["total"] <= found["original"] // 3 == 147456
    assert found["relative_error"] < found["uniform_relative_error"]
    assert json.loads(Path(made).read_text(encoding="utf-8")) == found["plan"]
    _, out, _ = offcomp("predict", made, "--json")
    assert [group["num_parameters"] for group in json.loads(out)["groups"]] == [row["stored"] for row in found["groups"]]


def test_size_error_and_ratio_answer_each_other(offcomp: Command, tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.json", three_keys(dtype="float16"))
    _, out, _ = offcomp("allocate", plan, "--total-size", "300000", "--unit", "bytes", "--json")
    sized = json.loads(out)
    assert sized["total"] <= 300000 and sized["unit"] == "bytes"
    _, out, _ = offcomp("allocate", plan, "--target-error", str(sized["relative_error"]), "--unit", "bytes", "--json")
    assert json.loads(out)["total"] <= sized["total"]


def test_a_target_loss_is_answered_by_measured_runs(offcomp: Command, tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.json", three_keys())
    measured = write(tmp_path / "runs.json", [[0.2, 0.0], [0.6, 0.04]])
    status, out, _ = offcomp("allocate", plan, "--target-loss", "0.03", "--measured", measured, "--json")
    assert status == 0
    assert 0.48 < json.loads(out)["relative_error"] <= 0.5


def test_weights_and_floors_shape_the_result(offcomp: Command, tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.json", three_keys())
    factors = write(tmp_path / "factors.json", {"key.0": 1000.0, "key.1": 1.0, "key.2": 1.0})
    flags = ("allocate", plan, "--total-ratio", "4", "--json", "--weighting", "frobenius")
    _, plain, _ = offcomp(*flags)
    _, weighted, _ = offcomp(*flags, "--sensitivities", factors, "--floor", "0.1")
    plain_stored, stored = ([row["stored"] for row in json.loads(out)["groups"]] for out in (plain, weighted))
    assert stored[0] > plain_stored[0] and min(stored) >= 0.1 * 384 * 384


def test_methods_without_a_spectrum_are_measured(offcomp: Command, tmp_path: Path) -> None:
    plan = three_keys()
    plan["groups"][0] |= {"method": "kronecker"}
    path = write(tmp_path / "plan.json", plan)
    status, out, err = offcomp("allocate", path, "--total-ratio", "2", "--at", "3,6", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["groups"][0]["method"] == "kronecker"


def test_pairs_and_groups_are_suggested_with_their_reason(offcomp: Command, tmp_path: Path) -> None:
    flags = ("suggest", "minilm-l6", "--kinds", "query,key", "--layers", "0,3", "--ratio", "3")
    _, out, _ = offcomp(*flags, "--pairs", "2", "--json")
    pairs = json.loads(out)
    assert len(pairs) == 2 and pairs[0]["gain"] >= pairs[1]["gain"]
    assert pairs[0]["modules"] == ["query.3", "key.3"]
    made = str(tmp_path / "made.json")
    status, out, _ = offcomp(*flags, "--out", made, "--json")
    groups = json.loads(out)
    assert status == 0 and ["query.3", "key.3"] in [group["modules"] for group in groups]
    assert "share one basis" in groups[0]["reason"]
    plan = json.loads(Path(made).read_text(encoding="utf-8"))
    assert sorted(name for group in plan["groups"] for name in group["modules"]) == ["key.0", "key.3", "query.0", "query.3"]


@pytest.mark.parametrize("how", [("--survey",), ("--pairs", "2")])
@pytest.mark.parametrize("flag", [("--out", "plan.json"), ("--threshold", "0.01")])
def test_what_only_merging_heeds_is_refused_elsewhere(offcomp: Command, how: tuple[str, ...], flag: tuple[str, ...]) -> None:
    status, out, err = offcomp("suggest", "minilm-l6", "--kinds", "query", *how, *flag)
    assert (status, out) == (2, "")
    assert "--out and --threshold cannot be combined with --pairs or --survey" in err


def test_both_are_readable_as_text(offcomp: Command, tmp_path: Path, folder: Path) -> None:
    _, out, _ = offcomp("allocate", write(tmp_path / "plan.json", three_keys()), "--total-ratio", "2")
    assert "with the same ratio for all groups: 0." in out
    _, out, _ = offcomp("suggest", str(folder), "--kinds", "query", "--threshold", "1")
    assert out == "no merge lowers the error by more than the threshold\n"
    _, out, _ = offcomp("suggest", str(folder), "--kinds", "query", "--pairs", "1")
    assert "query.0 query.1: Stacked by" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--total-ratio", "0.5"), "--total-ratio must be 1 or more, not 0.5"),
        (("--total-ratio", "nan"), "--total-ratio must be 1 or more, not nan"),
        (("--total-size", "100"), "the groups together need at least 2304, but the total is 100"),
        (("--target-error", "-1"), "a relative error of -1 cannot be reached"),
        (("--target-loss", "0.1"), "--target-loss requires --measured FILE"),
        (("--target-loss", "0.1", "--measured", "missing.json"), "cannot read missing.json as JSON"),
        (("--total-ratio", "2", "--floor", "2"), "must be between 0 and 1, not 2"),
        (("--total-ratio", "2", "--sensitivities", "EMPTY"), "must contain a JSON dict, not a list"),
    ],
)
def test_bad_input_is_one_sentence(offcomp: Command, tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    empty = write(tmp_path / "empty.json", [])
    given = [empty if flag == "EMPTY" else flag for flag in flags]
    status, out, err = offcomp("allocate", write(tmp_path / "plan.json", three_keys()), *given)
    assert (status, out) == (2, "")
    assert message in err and err.count("\n") == 1


@pytest.mark.parametrize("content", [[[0.1]], [0.1, 0.2], [["a", "b"]], [[0.1, 0.2]]])
def test_measured_runs_that_are_no_pairs_are_refused(offcomp: Command, tmp_path: Path, content: Any) -> None:
    plan, measured = write(tmp_path / "plan.json", three_keys()), write(tmp_path / "m.json", content)
    status, _, err = offcomp("allocate", plan, "--target-loss", "0.1", "--measured", measured)
    assert status == 2 and err.count("\n") == 1


@pytest.mark.parametrize("ratio", ["0.5", "nan", "500"])
def test_a_ratio_that_cannot_be_is_refused(offcomp: Command, ratio: str) -> None:
    status, _, err = offcomp("suggest", "minilm-l6", "--kinds", "query", "--layers", "0,1", "--ratio", ratio)
    assert status == 2 and err.count("\n") == 1 and "ratio" in err


def test_a_plan_that_cannot_be_written_is_one_sentence(offcomp: Command, tmp_path: Path) -> None:
    plan = write(tmp_path / "plan.json", three_keys())
    status, _, err = offcomp("allocate", plan, "--total-ratio", "2", "--out", str(tmp_path / "no" / "where.json"))
    assert status == 2 and "cannot write the plan" in err


@pytest.fixture(scope="module")
def felt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A plan of three matrices of a tiny GPT-2, with a calibration text that it can read."""
    place = tmp_path_factory.mktemp("felt")
    model = tiny_models.save(tiny_models.gpt2(), place / "tiny-gpt2")
    text = place / "text.txt"
    text.write_text("\n".join(f"w{n} w{n + 1} w{2 * n} w{n + 3} w{3 * n}" for n in range(2, 12)), encoding="utf-8")
    groups = [{"name": name, "modules": [name]} for name in ("query.0", "ffn_in.0", "ffn_in.1")]
    return {"model": str(model), "tasks": [], "groups": groups, "calibration": {"text": str(text)}}


def test_a_budget_is_divided_by_measured_sensitivity(offcomp: Command, tmp_path: Path, felt: dict[str, Any]) -> None:
    plan = write(tmp_path / "plan.json", felt)
    status, out, err = offcomp("sensitivity", plan, "--json")
    rows = json.loads(out)
    assert (status, err) == (0, "") and {row["group"] for row in rows} == {"query.0", "ffn_in.0", "ffn_in.1"}
    assert all(row["sensitivity"] == pytest.approx(row["loss"] / row["relative_error"] ** 2) for row in rows)
    status, out, _ = offcomp("allocate", plan, "--total-ratio", "3", "--weighting", "sensitivity", "--json")
    found = json.loads(out)
    assert status == 0 and found["total"] <= found["original"] / 3
    assert found["predicted_loss"] < found["uniform_predicted_loss"]
    assert found["loss"].startswith("KL divergence from the original on 10 texts")
    _, out, _ = offcomp("predict", write(tmp_path / "made.json", found["plan"]), "--json")
    assert [group["num_parameters"] for group in json.loads(out)["groups"]] == [row["stored"] for row in found["groups"]]
    _, out, _ = offcomp("allocate", plan, "--total-ratio", "3", "--weighting", "sensitivity")
    assert f"predicted loss {found['predicted_loss']:.4f}; with the same ratio for all groups: " in out
    _, out, _ = offcomp("sensitivity", plan)
    assert "loss: KL divergence from the original on 10 texts, each group compressed alone" in out


def test_a_plan_of_any_method_is_divided_by_sensitivity(offcomp: Command, felt: dict[str, Any]) -> None:
    flags = ("--modules", "query.0,ffn_in.0-1", "--group", "module", "--calibration", felt["calibration"]["text"], "--json")
    flags = (*flags, "--method", "quantization", "--unit", "bytes", "--ratio", "6")
    status, out, err = offcomp("plan", felt["model"], *flags, "--allocate", "--weighting", "sensitivity")
    assert status == 0 and "the predicted loss is" in err and "with equal ratios" in err
    assert len({group["ratio"] for group in json.loads(out)["groups"]}) > 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--target-error", "0.3"), "--weighting sensitivity requires a size; use --total-ratio, --total-size or --target"),
        (("--total-ratio", "3", "--sensitivities", "F.json"), "measures the sensitivities itself; leave out --sensitivities"),
    ],
)
def test_what_sensitivity_cannot_be_combined_with(
    offcomp: Command, tmp_path: Path, felt: dict[str, Any], flags: tuple[str, ...], message: str
) -> None:
    status, out, err = offcomp("allocate", write(tmp_path / "plan.json", felt), *flags, "--weighting", "sensitivity")
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


def test_sensitivity_of_nothing_and_a_weighting_without_allocation_are_refused(
    offcomp: Command, tmp_path: Path, felt: dict[str, Any]
) -> None:
    status, _, err = offcomp("sensitivity", write(tmp_path / "plan.json", felt | {"groups": []}))
    assert status == 2 and "the plan has no groups to measure" in err
    status, _, err = offcomp("plan", felt["model"], "--modules", "query.0", "--weighting", "sensitivity")
    assert status == 2 and "--weighting only applies to --allocate" in err
