"""Live answers: the outputs of the original and a compressed model for texts that a user types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from offcomp.errors import InputError, RunError
from offcomp.evaluation.batches import tokenizer_of
from offcomp.files import write_json
from offcomp.models.listing import model_info
from offcomp.models.loading import load
from offcomp.planning.plan import Group, Plan
from offcomp.runs import live_answers
from offcomp.runs.live_answers import answer, with_mask
from offcomp.runs.resident import ask
from offcomp.runs.worker import work
from offcomp.runs.worker_process import Worker
from tests import tiny_models

TEXTS = ["w2 w3 w4", "w5 w6 w7 w8"]
MODELS = {"gpt2": "next-words", "bert": "masked-words", "bert_classifier": "classes", "bert_base": "embeddings"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each model, by name."""
    folder = tmp_path_factory.mktemp("models")
    folders = {name: tiny_models.save(tiny_models.shared(name), folder / name) for name in MODELS}
    tokenizer = AutoTokenizer.from_pretrained(folders["bert"])
    tokenizer.mask_token = "w60"  # noqa: S105
    tokenizer.save_pretrained(folders["bert"])
    return folders


def make_run(name: str, model: Path, home: Path, ratio: float) -> str:
    """Carry out a run that compresses two modules of a model. Returns its name."""
    folder = home / "runs" / name
    group = Group(name="value", modules=("value.0", "value.1"), ratio=ratio)
    write_json(folder / "plan.json", Plan(model=str(model), groups=(group,), tasks=()).to_dict())
    worker = Worker(folder)
    assert worker.conclude("done", outcome=work(worker))
    return name


def question(run: str | None, texts: list[str] = TEXTS) -> dict[str, Any]:
    return {"kind": "texts", "run": run, "texts": texts}


@pytest.mark.parametrize(("name", "kind"), MODELS.items())
def test_a_lossless_run_answers_as_the_original_and_a_lossy_one_does_not(
    folders: dict[str, Path], tmp_path: Path, name: str, kind: str
) -> None:
    found = []
    for ratio in (1.0, 12.0):
        run = make_run(f"run{ratio:.0f}", folders[name], tmp_path, ratio)
        found.append(answer(question(run), load(str(folders[name])), tmp_path))
    assert [one["kind"] for one in found] == [kind] * 2
    lossless, lossy = found
    if kind == "embeddings":
        assert [one["cosine"] for one in lossless["texts"]] == pytest.approx([1.0, 1.0])
        assert lossless["similarities"]["original"] == lossless["similarities"]["compressed"]
        assert all(one["cosine"] < 0.999 for one in lossy["texts"])
        assert lossy["similarities"]["original"][0][0] == pytest.approx(1.0)
    else:
        assert all(one["original"] == one["compressed"] for one in lossless["texts"])
        assert all(one["original"] != one["compressed"] for one in lossy["texts"])
    assert [one["text"] for one in lossy["texts"]] == TEXTS or kind == "masked-words"


def test_answers_are_what_their_kind_promises(folders: dict[str, Path], tmp_path: Path) -> None:
    answers = {kind: answer(question(None), load(str(folders[name])), tmp_path)["texts"] for name, kind in MODELS.items()}
    for one in answers["next-words"]:
        shares = [share for _, share in one["original"]["next"]]
        assert len(shares) == 5 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
        assert one["original"]["continuation"] and "compressed" not in one
    for one in answers["masked-words"]:
        assert len(one["original"]["masks"]) == 1 and len(one["original"]["masks"][0]) == 5
    for one in answers["classes"]:
        assert len(one["original"]["probabilities"]) == 5
        assert sum(one["original"]["probabilities"].values()) == pytest.approx(1.0)
    assert [one["cosine"] for one in answers["embeddings"]] == [None, None]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("the cat sat", "the cat {}"),
        ("the cat sat.", "the cat {}."),
        ("cat", "{}"),
        ("the [MASK] sat on the [MASK] .", "the {} sat on the {} ."),
        ("  the cat!  ", "  the {}!"),
    ],
)
def test_the_last_word_is_masked_unless_the_text_has_a_mask(folders: dict[str, Path], text: str, masked: str) -> None:
    loaded = load(str(folders["bert"]))
    assert with_mask(loaded, text) == masked.replace("{}", str(tokenizer_of(loaded).mask_token))


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        ([], "and 1 to 8 texts"),
        (["x"] * 9, "and 1 to 8 texts"),
        ("text", "and 1 to 8 texts"),
        (["x" * 501], "is longer than 500 characters; shorten it"),
        ([" "], "' ' contains no text; type a sentence"),
        ([3], "'3' contains no text"),
    ],
)
def test_a_question_that_is_none_is_refused(folders: dict[str, Path], tmp_path: Path, texts: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        answer(question(None, texts), load(str(folders["bert"])), tmp_path)


def test_a_run_of_another_model_or_of_none_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    run = make_run("other", folders["bert_base"], tmp_path, 2.0)
    with pytest.raises(RunError, match="run other belongs to another model"):
        answer(question(run), load(str(folders["bert"])), tmp_path)
    with pytest.raises(InputError, match="there is no run 'nothing'"):
        answer(question("nothing"), load(str(folders["bert"])), tmp_path)


def test_the_resident_answers_again_and_again_from_the_original_weights(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OFFCOMP_RESIDENT", raising=False)
    info = model_info(str(folders["bert"]), tmp_path)
    run = make_run("lossy", folders["bert"], tmp_path, 12.0)
    expected = answer(question(run), load(str(folders["bert"])), tmp_path)
    for _ in range(2):
        found = ask(info, question(run), tmp_path)
        assert found["texts"][0]["original"]["masks"][0][0][0] == expected["texts"][0]["original"]["masks"][0][0][0]
        assert found == ask(info, question(run), tmp_path)
    with pytest.raises(InputError, match="there is no run 'nothing'"):
        ask(info, question("nothing"), tmp_path)
    with pytest.raises(RunError, match="no answer within 0 s"):
        ask(info, question(run), tmp_path, seconds=0.0)
    assert ask(info, question(run), tmp_path)["kind"] == "masked-words"
    monkeypatch.setenv("OFFCOMP_RESIDENT", "0")
    with pytest.raises(RunError, match="unset OFFCOMP_RESIDENT"):
        ask(info, question(run), tmp_path)


def test_values_that_are_not_finite_are_told(folders: dict[str, Path], tmp_path: Path) -> None:
    loaded = load(str(folders["gpt2"]))
    next(loaded.model.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match="not finite"):
        live_answers.continue_texts(loaded, TEXTS)
