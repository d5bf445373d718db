"""The contract of the command line: only JSON on stdout, one sentence on stderr, and the exit status."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offcomp.cli import main as cli
from offcomp.methods import METHODS, make_method
from offcomp.methods.base import Method
from tests import tiny_models
from tests.made_runs import made_group, made_run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny BERT with a tokenizer."""
    return tiny_models.save(tiny_models.bert(), tmp_path_factory.mktemp("models") / "tiny-bert")


def write(path: Path, document: Any) -> str:
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return str(path)


def small_plan(folder: Path, **group: Any) -> dict[str, Any]:
    return {"model": str(folder), "tasks": [], "groups": [{"name": "key", "modules": ["key.0", "key.1"]} | group]}


def test_modules_lists_every_weight_without_weights_in_memory(offcomp: Command) -> None:
    status, out, err = offcomp("modules", "minilm-l6", "--json")
    listing = json.loads(out)
    assert (status, err) == (0, "")
    assert sum(m["kind"] == "query" for m in listing["modules"]) == 6
    assert next(m for m in listing["modules"] if m["name"] == "ffn_in.3")["rows"] == 1536
    assert listing["num_parameters"] == 22713216


def test_models_lists_the_catalogue(offcomp: Command) -> None:
    status, out, _ = offcomp("models", "--json")
    assert status == 0
    assert json.loads(out)[0]["name"] == "minilm-l6"


def test_a_plan_is_written_read_and_predicted(offcomp: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "plan.json")
    flags = ("--kinds", "query,key", "--ratio", "3", "--method", "autoencoder", "--option", "epochs=2", "--out", path)
    status, out, _ = offcomp("plan", "minilm-l6", *flags, "--json")
    plan = json.loads(out)
    assert status == 0
    assert [group["name"] for group in plan["groups"]] == ["query", "key"]
    assert plan["groups"][0]["options"]["epochs"] == 2
    assert json.loads(Path(path).read_text(encoding="utf-8")) == plan
    status, out, _ = offcomp("predict", path, "--json")
    prediction = json.loads(out)
    assert status == 0
    assert [group["size"] for group in prediction["groups"]] == [64, 64]
    assert list(prediction["estimate"]["stages"])[1:3] == ["score the original on sentiment", "compress query"]
    assert prediction["estimate"]["memory_bytes"] > 4 * prediction["model"]["whole"]["parameters_before"]
    text = offcomp("predict", path)[1]
    assert text.count("latent width 64") == 2
    assert text.rstrip().splitlines()[-1].startswith("running this plan takes about ") and "GB of memory" in text


@pytest.mark.parametrize("method", METHODS, ids=[method.style_key for method in METHODS])
def test_a_plan_of_every_method_is_made_by_its_style_key(offcomp: Command, method: type[Method]) -> None:
    flags = ("--kinds", "query", "--unit", "bytes", "--ratio", "4", "--method", method.style_key)
    status, out, _ = offcomp("plan", "minilm-l6", *flags, "--json")
    (group,) = json.loads(out)["groups"]
    assert status == 0
    assert group["method"] == method.name
    assert type(make_method(group["method"], group["options"])) is method


@pytest.mark.parametrize("group", ["module", "kind", "qkv", "blocks"])
def test_every_grouping_makes_a_plan_that_can_be_predicted(offcomp: Command, tmp_path: Path, group: str) -> None:
    path = str(tmp_path / "plan.json")
    assert offcomp("plan", "minilm-l6", "--group", group, "--out", path)[0] == 0
    assert offcomp("predict", path, "--json")[0] == 0


def test_a_run_gives_json_alone_on_stdout_and_is_listed_and_shown(offcomp: Command, folder: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "plan.json", small_plan(folder))
    status, out, err = offcomp("run", path, "--json")
    run = json.loads(out)
    assert status == 0
    assert run["status"] == "done"
    assert "compress key" in err or "load" in err
    assert json.loads(offcomp("show", run["id"], "--json")[1]) == run
    assert [r["run"] for r in json.loads(offcomp("runs", "--json")[1])] == [run["id"]]
    assert run["id"] in offcomp("runs")[1]
    assert "relative_error" in offcomp("show", run["id"])[1]
    again = offcomp("run", path, "--json")
    assert json.loads(again[1]) == run


def test_the_process_exits_with_the_status_and_prints_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "offcomp.cli", "modules", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_run_that_fails_exits_with_1_and_its_reason(offcomp: Command, folder: Path, tmp_path: Path) -> None:
    plan = small_plan(folder) | {"tasks": ["sentiment"]}
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    status, out, err = offcomp("run", write(tmp_path / "plan.json", plan | {"model": str(bare)}), "--json")
    assert status == 1
    assert json.loads(out)["status"] == "failed"
    assert "no tokenizer" in err.splitlines()[-1]


FAULTY_PLANS = {
    "wrong field": ({"groups": [{"name": "a", "modules": ["key.0"], "rato": 3}]}, "rato"),
    "no model": ({"model": None}, "model None"),
    "ratio below 1": ({"groups": [{"name": "a", "modules": ["key.0"], "ratio": 0.5}]}, "ratio 0.5"),
    "ratio unreachable": ({"groups": [{"name": "a", "modules": ["key.0"], "ratio": 1e5}]}, "budget"),
    "ratio not a number": ({"groups": [{"name": "a", "modules": ["key.0"], "ratio": "3"}]}, "ratio '3'"),
    "unequal shapes": ({"groups": [{"name": "a", "modules": ["key.0", "ffn_out.0"]}]}, "ffn_out.0"),
    "unknown module": ({"groups": [{"name": "a", "modules": ["keys.0"]}]}, "keys.0"),
    "module twice": ({"groups": [{"name": "a", "modules": ["key.0", "key.0"]}]}, "already in group"),
    "unknown method": ({"groups": [{"name": "a", "modules": ["key.0"], "method": "magic"}]}, "magic"),
    "unknown task": ({"tasks": ["chess"]}, "chess"),
    "name with a path": ({"groups": [{"name": "../a", "modules": ["key.0"]}]}, "../a"),
}


@pytest.mark.parametrize("case", FAULTY_PLANS)
def test_a_faulty_plan_is_one_sentence_and_leaves_nothing_behind(
    offcomp: Command, folder: Path, tmp_path: Path, case: str
) -> None:
    changes, named = FAULTY_PLANS[case]
    path = write(tmp_path / "plan.json", small_plan(folder) | changes)
    status, out, err = offcomp("run", path, "--json")
    assert (status, out) == (2, "")
    assert named in err
    assert len(err.strip().splitlines()) == 1
    assert not list((tmp_path / "home").glob("runs/*"))


@pytest.mark.parametrize("text", ["{", "[]", "null", '"plan"', '{"groups": {}}'])
def test_a_plan_that_is_no_plan_is_one_sentence(offcomp: Command, tmp_path: Path, text: str) -> None:
    status, out, err = offcomp("run", write(tmp_path / "plan.json", text))
    assert (status, out) == (2, "")
    assert len(err.strip().splitlines()) == 1


def test_a_plan_file_that_cannot_be_read_is_one_sentence(offcomp: Command, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        status, _, err = offcomp("predict", str(path))
        assert status == 2
        assert str(path) in err
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in offcomp("predict", str(tmp_path / "binary.json"))[2]


def break_model(kind: str, folder: Path) -> str:
    """Damage a model folder. Returns a text that the error must contain."""
    weights = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if kind == "no safetensors":
        weights.unlink()
        return "safetensors"
    if kind == "pickle":
        weights.unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
        return "pickle"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
        return "model.safetensors"
    if kind == "remote code":
        write(folder / "config.json", config | {"auto_map": {"AutoModel": "evil.Evil"}})
        return "auto_map"
    write(folder / "config.json", "{")
    return "config.json"


@pytest.mark.parametrize("kind", ["no safetensors", "pickle", "truncated", "remote code", "broken config"])
def test_a_damaged_or_unsafe_model_is_one_sentence(offcomp: Command, folder: Path, tmp_path: Path, kind: str) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    named = break_model(kind, broken)
    for arguments in (("modules", str(broken)), ("plan", str(broken))):
        status, out, err = offcomp(*arguments)
        assert (status, out) == (2, "")
        assert named in err
        assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("modules", "no-such-model-here"), "no-such-model-here"),
        (("plan", "minilm-l6", "--kinds", "quary"), "quary"),
        (("plan", "minilm-l6", "--layers", "9"), "no module"),
        (("plan", "minilm-l6", "--layers", "x"), "'x'"),
        (("plan", "minilm-l6", "--option", "epochs"), "KEY=VALUE"),
        (("plan", "minilm-l6", "--method", "autoencoder", "--option", "epochs=many"), "many"),
        (("plan", "minilm-l6", "--block", "0", "--group", "blocks"), "0 layers"),
        (("plan", "minilm-l6", "--group", "all", "--stack", "rows"), "stack"),
        (("show", "nothing"), "nothing"),
        (("cancel", "nothing"), "nothing"),
    ],
)
def test_bad_arguments_are_one_sentence_naming_the_value(offcomp: Command, arguments: tuple[str, ...], named: str) -> None:
    status, out, err = offcomp(*arguments)
    assert (status, out) == (2, "")
    assert named in err
    assert "Traceback" not in err


@pytest.mark.parametrize("status", ["failed", "cancelled", "interrupted"])
def test_a_run_that_is_not_done_in_the_end_exits_with_1(
    offcomp: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    ended = made_run("a" * 12, [made_group("key", 0.5, size_name="rank", seconds=1.0)], status=status)
    monkeypatch.setattr(cli.RunStore, "submit", lambda *_, **__: ended)
    code, _, err = offcomp("run", write(tmp_path / "plan.json", small_plan(folder)), "--json")
    assert code == 1
    assert err.splitlines()[-1].startswith(f"offcomp: run {ended.id} {status}: ")
