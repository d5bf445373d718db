"""Notes on what sizes alone do not show: when they appear, and their wording."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from offcomp.models.loading import describe
from offcomp.planning.plan import Group, Plan
from offcomp.planning.size_notes import size_notes, unlisted_note
from offcomp.planning.sizes import predict
from offcomp.results.report import html_report
from offcomp.runs.result import GroupResult
from tests import tiny_models
from tests.checkpoints import DTYPES, store_as
from tests.cli.test_main import Command, small_plan, write
from tests.made_runs import made_group, made_run, with_result
from tests.minilm import minilm_info
from tests.models.test_stored_dtypes import gpt_oss
from tests.pages import at, home, listed, open_part, texts

__all__ = ["home"]  # fixtures
QUERIES = tuple(f"query.{layer}" for layer in range(6))


def notes(**settings: Any) -> list[str]:
    """The notes on all queries of MiniLM as one group."""
    info = minilm_info()
    return predict(Plan(model=info.model, groups=(Group(name="query", modules=QUERIES, **settings),)), info).notes


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_models.save(tiny_models.bert(), tmp_path_factory.mktemp("models") / "half")
    return store_as(folder, DTYPES["bfloat16"])


def test_a_size_that_says_all_of_itself_gets_no_note() -> None:
    assert notes(ratio=3.0) == notes(ratio=3.0, unit="bytes") == notes(ratio=3.0, dtype="float32") == []


def test_float32_factors_of_a_half_precision_checkpoint_save_less_in_bytes(half: Path) -> None:
    info = describe(str(half))
    asked = Plan(model=info.model, groups=(Group(name="key", modules=("key.0", "key.1"), ratio=2.0, dtype="float32"),))
    found = predict(asked, info)
    chosen = found.model.chosen
    assert chosen.parameter_ratio == pytest.approx(2 * chosen.byte_ratio)
    (note,) = found.notes
    assert note.startswith(f"key: {chosen.parameter_ratio:.3g}x in parameters is {chosen.byte_ratio:.3g}x in bytes")
    assert note.endswith("because weights are stored as float32, but the checkpoint uses bfloat16.")
    stored = predict(asked.replace(groups=(asked.groups[0].replace(dtype="stored"),)), info)
    assert stored.notes == []
    assert stored.model.chosen.byte_ratio == pytest.approx(chosen.parameter_ratio)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_what_narrower_numbers_save_is_not_the_methods(dtype: str) -> None:
    (note,) = notes(ratio=8.0, unit="bytes", dtype=dtype)
    factor = {"float16": "2x", "bfloat16": "2x", "int8": "3.9"}[dtype]
    assert f"x comes from storing {dtype} instead of float32, and only" in note
    assert factor in note
    info = minilm_info()
    (group,) = predict(
        Plan(model=info.model, groups=(Group(name="query", modules=QUERIES, ratio=8.0, unit="bytes", dtype=dtype),)), info
    ).groups
    own = group.original_bytes / group.bytes_in_own_dtype
    assert f"only {own:.3g}x from the method" in note
    assert own == pytest.approx(group.original_parameters / group.num_parameters, rel=0.02)


def test_a_ratio_far_from_the_one_asked_for_is_said() -> None:
    (note,) = notes(ratio=2.0, unit="bytes", method="quantization")
    assert note.startswith("query: the requested ratio is 2x, but the actual ratio is 3.")
    (same,) = notes(ratio=3.0, unit="bytes", method="quantization")
    assert same == note.replace("requested ratio is 2x", "requested ratio is 3x")
    (note,) = notes(ratio=2.0, unit="bytes", method="autoencoder", options={"preset": "codebook"})
    assert note.startswith(
        "query: the requested ratio is 2x, but the actual ratio is 3.18x: the method has no size closer to the budget"
    )


def test_notes_of_many_groups_are_one_sentence_a_kind() -> None:
    info = minilm_info()
    groups = tuple(Group(name=name, modules=(name,), ratio=2.0, unit="bytes", method="quantization") for name in QUERIES)
    (note,) = predict(Plan(model=info.model, groups=groups), info).notes
    assert note.startswith("query.0, query.1, query.2 and 3 more: the requested ratio is 2x, but the actual ratio is ")


def measured(name: str, **fields: Any) -> GroupResult:
    """The figures of a group; those that are not given are taken from `made_group`."""
    return GroupResult.from_json(made_group(name, 0.5) | fields)


def test_an_error_above_one_is_said() -> None:
    info = minilm_info()
    (group,) = predict(Plan(model=info.model, groups=(Group(name="query", modules=QUERIES, ratio=3.0),)), info).groups
    assert size_notes([measured(**asdict(group) | {"relative_error": 1.0})]) == []
    (note,) = size_notes([measured(**asdict(group) | {"relative_error": 1.31})])
    assert note == "query: the relative error is 1.31; above 1, a matrix of zeros would be closer to the original."


def test_runs_from_before_the_figures_were_written_are_read() -> None:
    old = {"name": "key", "form": "low_rank", "unit": "parameters", "dtype": "float16", "requested_ratio": 2.0}
    sizes = {"original_parameters": 100, "original_bytes": 400, "num_parameters": 50, "num_bytes": 100}
    assert size_notes([measured(**old | sizes | {"compression_ratio": 2.0, "relative_error": 0.5})]) == []
    (note,) = size_notes([measured("key", form="low_rank", compression_ratio=4.0, requested_ratio=2.0)])
    assert note == "key: the requested ratio is 2x, but the actual ratio is 4x: the method has no size closer to the budget."


def test_the_command_line_says_the_notes_in_text_and_beside_json(offcomp: Command, half: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "plan.json", small_plan(half, dtype="float32"))
    text = offcomp("predict", path)[1]
    assert (
        "\n\nkey: 2x in parameters is 1x in bytes, because weights are stored as float32, but the checkpoint uses bfloat16."
        in text
    )
    document = json.loads(offcomp("predict", path, "--json")[1])
    assert len(document["notes"]) == 1 and document["groups"][0]["dtype"] == "float32"
    flags = ("plan", str(half), "--kinds", "key", "--dtype", "float32", "--task", "sentiment")
    assert document["notes"][0] in offcomp(*flags)[1]
    status, out, err = offcomp(*flags, "--json")
    assert (status, err) == (0, document["notes"][0] + "\n")
    assert json.loads(out)["groups"][0]["dtype"] == "float32"
    plain = json.loads(offcomp("plan", str(half), "--kinds", "key", "--task", "sentiment", "--json")[1])
    assert plain["groups"][0]["dtype"] == "stored"


def test_a_run_says_its_notes(offcomp: Command, half: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "plan.json", small_plan(half, dtype="float32"))
    status, out, err = offcomp("run", path, "--json")
    result = json.loads(out)
    assert status == 0
    assert (result["plan"]["groups"][0]["dtype"], result["groups"][0]["dtype"]) == ("float32", "float32")
    (note,) = result["notes"]
    assert note in err and note in offcomp("show", result["id"])[1]


def test_parameters_in_no_matrix_are_named_on_the_command_line(offcomp: Command, tmp_path: Path) -> None:
    folder = tiny_models.save(gpt_oss(), tmp_path / "gpt_oss")
    info = describe(str(folder))
    note = unlisted_note(info.unlisted, info.num_parameters)
    share = 100 * info.unlisted / info.num_parameters
    assert note.startswith(f"{info.unlisted:,} parameters, {share:.2g} % of the model, are in tensors that are not matrices")
    assert note in offcomp("modules", str(folder))[1]
    assert json.loads(offcomp("modules", str(folder), "--json")[1])["unlisted"] == info.unlisted
    asked = {"model": str(folder), "tasks": [], "groups": [{"name": "query", "modules": [info.modules[1].name]}]}
    path = write(tmp_path / "plan.json", asked)
    assert note in offcomp("predict", path)[1]
    assert json.loads(offcomp("predict", path, "--json")[1])["unlisted"] == info.unlisted
    assert unlisted_note(0, minilm_info().num_parameters) == ""


def test_a_report_has_the_notes_of_its_runs() -> None:
    run = made_run("one", [made_group("key", 1.2, requested_ratio=1.5, ratio=1.5)])
    run = with_result(run, model={"unlisted": 30, "sizes": {"whole": {"parameters_before": 120}}})
    report = html_report([run])
    assert "key: the requested ratio is 1.5x, but the actual ratio is 2x" in report
    assert "key: the relative error is 1.2; above 1, a matrix of zeros" in report
    assert "30 parameters, 25 % of the model, are in tensors that are not matrices" in report


def test_the_pages_say_what_is_in_no_matrix_and_what_a_ratio_saves(home: Path, half: Path, tmp_path: Path) -> None:
    folder = tiny_models.save(gpt_oss(), tmp_path / "gpt_oss")
    app = at("model")
    app.session_state["model"] = listed(folder, home)
    app.run()
    assert not app.exception
    info = describe(str(folder))
    assert unlisted_note(info.unlisted, info.num_parameters) in texts(app)
    place = shutil.copytree(half, tmp_path / "half")
    app = at("compress", dtype="float32", methods="svd", modules="key.0-1", ratio="2")
    app.session_state["model"] = listed(place, home)
    app.run()
    assert not app.exception
    assert "in bytes, because weights are stored as float32, but the checkpoint uses bfloat16." in texts(app)
    open_part(app, "budget").radio(key="dtype").set_value("stored").run()
    assert "but the checkpoint uses" not in texts(app)
