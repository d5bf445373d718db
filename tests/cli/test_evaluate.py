"""`offcomp tasks` and `offcomp evaluate`: scores of one model, comparisons of two, and one sentence per fault."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from string import ascii_lowercase

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace

from offcomp.planning.data.task_fields import own_task
from offcomp.planning.data.tasks import TASKS
from tests import tiny_models
from tests.cli.test_main import Command, folder
from tests.language_models import SPECIALS

__all__ = ["folder"]  # fixtures
COLUMNS = ("--column", "sentence1=a", "--column", "sentence2=b", "--column", "score=near")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a table of forty pairs of sentences, made of words that a tiny model knows."""
    draw = random.Random(5)
    path = tmp_path_factory.mktemp("data") / "pairs.csv"
    lines = [",".join([*(" ".join(f"w{draw.randint(2, 60)}" for _ in range(6)) for _ in "ab"), str(i % 6)]) for i in range(40)]
    path.write_text("\n".join(["a,b,near", *lines]) + "\n", encoding="utf-8")
    return str(path)


def test_tasks_are_listed_with_where_their_data_come_from(offcomp: Command) -> None:
    status, out, err = offcomp("tasks", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (status, err) == (0, "")
    assert list(rows) == [task.name for task in TASKS]
    assert (rows["masked-prose"]["metric"], rows["masked-prose"]["better"]) == ("masked perplexity", "lower")
    assert rows["stsb"]["data"].startswith("hub:")
    assert "Written for offcomp" in offcomp("tasks")[1]


def test_a_model_is_scored_alone_on_a_file_of_ones_own(offcomp: Command, folder: Path, pairs: str) -> None:
    status, out, err = offcomp("evaluate", str(folder), "--data", pairs, "--family", "similarity", *COLUMNS, "--json")
    assert (status, err.splitlines()) == (0, ["reading pairs", "scoring pairs"])
    score = json.loads(out)["scores"]["pairs"]
    assert (score["metric"], score["n"], score["baseline"]) == ("spearman", 40, None)
    assert -1 <= score["value"] <= 1 and score["standard_error"] > 0


def test_two_models_are_compared_on_the_same_examples(offcomp: Command, folder: Path, pairs: str, tmp_path: Path) -> None:
    changed = tiny_models.bert()
    with torch.no_grad():
        for layer in changed.bert.encoder.layer:
            layer.attention.self.value.weight.zero_()
    other = str(tiny_models.save(changed, tmp_path / "changed"))
    flags = ("--data", pairs, "--family", "similarity", *COLUMNS)
    status, out, _ = offcomp("evaluate", other, "--original", str(folder), *flags, "--json")
    score = json.loads(out)["scores"]["pairs"]
    alone = {
        name: json.loads(offcomp("evaluate", name, *flags, "--json")[1])["scores"]["pairs"] for name in (other, str(folder))
    }
    assert status == 0
    assert score["compressed"]["value"] == pytest.approx(alone[other]["value"])
    assert score["original"]["value"] == pytest.approx(alone[str(folder)]["value"])
    assert score["paired"]["difference"] == pytest.approx(alone[other]["value"] - alone[str(folder)]["value"])
    assert not score["unchanged"]
    _, out, _ = offcomp("evaluate", str(folder), "--original", str(folder), *flags)
    assert "+0.000 from the original" in out and "to the last bit" in out


def test_fidelity_needs_an_original_and_then_no_labels(offcomp: Command, folder: Path, pairs: str, tmp_path: Path) -> None:
    changed = tiny_models.bert()
    with torch.no_grad():
        changed.bert.encoder.layer[0].attention.self.value.weight.zero_()
    other = str(tiny_models.save(changed, tmp_path / "changed"))
    flags = ("--data", pairs, "--family", "embedding-fidelity", "--column", "text=a")
    status, out, err = offcomp("evaluate", other, *flags)
    assert (status, out) == (2, "")
    assert "task 'pairs' compares a model with its original; add --original MODEL" in err
    status, out, _ = offcomp("evaluate", other, "--original", str(folder), *flags, "--json")
    score = json.loads(out)["scores"]["pairs"]
    assert (status, score["metric"], score["original"]["value"]) == (0, "embedding cosine", 1.0)
    assert score["compressed"]["value"] < 1.0 and score["paired"]["interval"][1] < 0.0
    text = offcomp("evaluate", other, "--original", str(folder), *flags)[1]
    assert "1.000 -> " in text and "within noise" not in text


def test_an_embedding_that_is_not_supported_leaves_out_the_usual_tasks_that_embed(
    offcomp: Command, folder: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(folder, tmp_path / "model")
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in (("Transformer", ""), ("CNN", "1"))
    ]
    (model / "modules.json").write_text(json.dumps(modules))
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase)]
    backend = Tokenizer(WordPiece({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", **SPECIALS).save_pretrained(model)  # noqa: S106
    status, out, err = offcomp("evaluate", str(model), "--json")
    assert status == 0 and list(json.loads(out)["scores"]) == ["masked-prose"]
    left_out = [line for line in err.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == 3 and all("has the module CNN" in line for line in left_out)
    status, _, err = offcomp("evaluate", str(model), "--task", "topics")
    assert status == 2 and "has the module CNN" in err


def test_what_was_read_and_used_is_said(offcomp: Command, folder: Path, pairs: str, tmp_path: Path) -> None:
    path = tmp_path / "gaps.csv"
    path.write_text(Path(pairs).read_text(encoding="utf-8") + "w2 w3,,1\nw4\n,w5,2\n", encoding="utf-8")
    flags = ("--data", str(path), "--family", "similarity", *COLUMNS)
    expected = {"read": 43, "used": 40, "left_out": {"empty": 2, "with too few or too many cells": 1}}
    assert json.loads(offcomp("evaluate", str(folder), *flags, "--json")[1])["scores"]["gaps"]["rows"] == expected
    sentence = "43 rows read, 40 used: 1 with too few or too many cells, 2 empty"
    assert f"gaps: {sentence}" in offcomp("evaluate", str(folder), *flags)[1]
    assert sentence in offcomp("evaluate", str(folder), "--original", str(folder), *flags)[1]


def test_the_columns_of_a_file_are_found_by_content_and_said(
    offcomp: Command, folder: Path, pairs: str, tmp_path: Path
) -> None:
    lines = Path(pairs).read_text(encoding="utf-8").splitlines()
    path = tmp_path / "mine.csv"
    path.write_text(
        "\n".join(
            ["left,key,right,close", *(f"{a},{i},{b},{n}" for i, (a, b, n) in enumerate(line.split(",") for line in lines[1:]))]
        )
    )
    status, out, err = offcomp("evaluate", str(folder), "--data", str(path), "--family", "similarity", "--json")
    assert (status, err.splitlines()[1]) == (0, "guessed columns: sentence1 from left, sentence2 from right, score from close")
    found = json.loads(out)["scores"]["mine"]
    assert found["columns"] == {"sentence1": "left", "sentence2": "right", "score": "close"}
    named = json.loads(offcomp("evaluate", str(folder), "--data", pairs, "--family", "similarity", *COLUMNS, "--json")[1])
    assert found["value"] == named["scores"]["pairs"]["value"]


def test_a_head_is_checked_against_the_data_before_the_model_is_loaded(
    offcomp: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = pytest.importorskip("offcomp.models.loading")
    monkeypatch.setattr(loading, "load", None)
    lines = [f"w{i % 50 + 5} w{i % 40 + 9} w{i % 30 + 7},city {i % 45}" for i in range(400)]
    (tmp_path / "mine.csv").write_text("\n".join(["said,place", *lines]))
    flags = ("--data", str(tmp_path / "mine.csv"), "--family", "head")
    for verb in (("evaluate", "offcomp-bert-sentiment"), ("plan", "offcomp-bert-sentiment", "--kinds", "key")):
        status, out, err = offcomp(*verb, *flags)
        assert (status, out) == (2, "")
        assert "has 2 classes, but the data have 45" in err and "and 40 more" in err
        assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--task", "similarty"), "did you mean 'similarity'"),
        (("--task", "causal-prose"), "ForCausalLM"),
        (("--family", "probe"), "--data"),
        (("--data", "nowhere.csv"), "--family"),
        (("--data", "nowhere.csv", "--family", "probe"), "nowhere.csv"),
        (("--data", "nowhere.csv", "--family", "probe", "--column", "text"), "OURS=YOURS"),
        (("--original", "no-such-model-here"), "no-such-model-here"),
        (("--original", "minilm-l6", "--task", "topics"), "--original"),
    ],
)
def test_bad_flags_are_one_sentence(offcomp: Command, folder: Path, flags: tuple[str, ...], named: str) -> None:
    status, out, err = offcomp("evaluate", str(folder), *flags)
    assert (status, out) == (2, "")
    assert named in err
    assert len(err.strip().splitlines()) == 1


def test_a_plan_takes_tasks_by_name_and_a_file_of_ones_own(offcomp: Command, pairs: str) -> None:
    flags = ("--kinds", "key", "--task", "topics", "--data", pairs, "--family", "similarity", *COLUMNS)
    status, out, _ = offcomp("plan", "minilm-l6", *flags, "--json")
    tasks = json.loads(out)["tasks"]
    assert status == 0
    assert tasks[0] == "topics"
    assert (tasks[1]["name"], tasks[1]["data"], tasks[1]["columns"]["score"]) == ("pairs", pairs, "near")
    status, _, err = offcomp("plan", "minilm-l6", "--task", "chess")
    assert status == 2 and "'chess'" in err


def test_a_task_of_ones_own_has_a_name_that_no_other_has() -> None:
    assert own_task("some/topics.csv", "probe", {}).name == "own-topics"
    assert own_task("Größe 1.csv", "probe", {}).name == "Gr--e-1"
    assert own_task("_x.csv", "probe", {}).name == "x"
    assert own_task("hub:a/b/c", "probe", {}).data == "hub:a/b/c"
    assert Path(own_task("x.csv", "probe", {}).data).is_absolute()


def test_the_order_of_a_heads_classes_can_be_said(offcomp: Command, tmp_path: Path) -> None:
    lines = [
        f"it was {word} number {i},{'up' if word == 'lovely' else 'down'}" for i in range(20) for word in ("lovely", "awful")
    ]
    (tmp_path / "mine.csv").write_text("\n".join(["text,label", *lines]))
    flags = ("evaluate", "offcomp-bert-sentiment", "--data", str(tmp_path / "mine.csv"), "--family", "head", "--json")
    status, _, err = offcomp(*flags)
    assert status == 2 and "--labels" in err
    values = {}
    for labels in ("down,up", "up,down"):
        status, out, _ = offcomp(*flags, "--labels", labels)
        assert status == 0
        values[labels] = json.loads(out)["scores"]["mine"]["value"]
    assert values["down,up"] == pytest.approx(1 - values["up,down"])
    assert values["down,up"] > 0.8
