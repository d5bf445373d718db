"""Corrections, from the plan to whatever rebuilds the compressed model: the worker, live answers, exports and their checks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

import offcomp
from offcomp.errors import PlanError, StorageError
from offcomp.files import read_json, write_json
from offcomp.models.listing import model_info
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import substituted
from offcomp.planning.cost import CORRECT, estimate
from offcomp.planning.plan import Group, Plan, validate
from offcomp.planning.sizes import predict
from offcomp.runs import worker as worker_module
from offcomp.runs.compress import in_own_dtype
from offcomp.runs.corrections import stored_corrections
from offcomp.runs.export import corrections, export_run, reconstructions
from offcomp.runs.folders import Run, read_run
from offcomp.runs.inputs import calibration_digest, inputs_of, run_id
from offcomp.runs.live_answers import answer, substitute
from offcomp.runs.manifest import MANIFEST, file_entry, read_manifest
from offcomp.runs.verify import verify
from offcomp.runs.worker import work
from offcomp.runs.worker_process import Worker
from tests import tiny_models
from tests.calibration_texts import TEXTS
from tests.checkpoints import DTYPES, store_as

GROUP = Group(name="words", modules=("word_embeddings", "value.0", "value.1"), ratio=3.0, stack="rows")
FILE = "corrections.safetensors"


def plan_for(model: Path, texts: Path, correct: str = "norms") -> Plan:
    text = {"text": str(texts), "num_texts": 50}
    return Plan.from_dict(
        {"model": str(model), "groups": [GROUP.to_dict()], "tasks": [], "calibration": text, "correct": correct}
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(TEXTS * 5))
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT whose attention is stored in bfloat16, other vectors in float16, and other matrices in float32."""
    folder = tiny_models.save(tiny_models.shared("bert_base"), tmp_path_factory.mktemp("model") / "bert")
    return store_as(folder, DTYPES["mixed"])


@pytest.fixture(scope="module")
def run(model: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished(plan_for(model, texts), tmp_path_factory.mktemp("home"))


def finished(plan: Plan, home: Path, name: str = "one") -> Run:
    """Carry out the plan as the worker does, but in this process. Returns the finished run."""
    folder = home / "runs" / name
    write_json(folder / "plan.json", plan.to_dict())
    worker = Worker(folder)
    assert worker.conclude("done", outcome=work(worker))
    found = read_run(folder)
    assert isinstance(found, Run)
    return found


def states(network: PreTrainedModel) -> dict[str, Tensor]:
    return {path: parameter.detach().clone() for path, parameter in network.named_parameters()}


def test_a_run_stores_its_corrections_in_the_dtypes_of_the_checkpoint(run: Run, model: Path) -> None:
    stored, original = load_file(run.corrections_file), load_file(model / "model.safetensors")
    assert run.result and {entry.name for entry in run.result.corrections} == set(stored)
    assert {path.rpartition(".")[2] for path in stored} == {"weight", "bias"}
    for path, vector in stored.items():
        assert (vector.shape, vector.dtype) == (original[path].shape, original[path].dtype), path
    assert {vector.dtype for vector in stored.values()} == {torch.float16, torch.bfloat16}
    assert any(not torch.equal(vector, original[path]) for path, vector in stored.items())
    assert run.result.model and run.result.model.sizes.whole.bytes_after == whole_bytes(run)
    assert CORRECT in run.result.timings
    assert run.has_weights


def whole_bytes(run: Run) -> int:
    assert run.result and run.result.model
    chosen = run.result.groups
    before = run.result.model.sizes.whole.bytes_before
    return before - sum(group.original_bytes - group.num_bytes for group in chosen)


def test_the_worker_scores_the_corrected_model(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[dict[str, Tensor]] = []
    evaluate = worker_module._evaluate

    def seen(worker: Worker, loaded: LoadedModel, *others: object) -> object:
        found = evaluate(worker, loaded, *others)  # type: ignore[arg-type]
        scored.append(states(loaded.model))
        return found

    monkeypatch.setattr(worker_module, "_evaluate", seen)
    run = finished(plan_for(model, texts), tmp_path)
    loaded = load(str(model))
    substitute(loaded, run.id, tmp_path)
    expected = states(loaded.model)
    assert all(torch.equal(expected[path], vector) for path, vector in scored[0].items())
    for path, vector in load_file(run.corrections_file).items():
        assert torch.equal(expected[path], vector.float())


def test_a_model_that_is_offloaded_gets_the_same_corrections(
    run: Run, model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "is_small", lambda _: False)
    other = finished(plan_for(model, texts), tmp_path)
    assert other.corrections_file.read_bytes() == run.corrections_file.read_bytes()


def test_live_answers_come_from_the_corrected_model(run: Run, model: Path, tmp_path: Path) -> None:
    question = {"kind": "texts", "run": run.id, "texts": ["w2 w3 w4 w5"]}
    home = run.folder.parents[1]
    found = answer(question, load(str(model)), home)["texts"][0]["cosine"]
    plain = shutil.copytree(home, tmp_path / "home") / "runs" / run.id
    document = read_json(plain / "run.json")
    document.pop("corrections")
    write_json(plain / "run.json", document)
    assert answer(question, load(str(model)), tmp_path / "home")["texts"][0]["cosine"] < found


def test_an_export_holds_the_corrections_and_a_dense_one_applies_them(run: Run, model: Path, tmp_path: Path) -> None:
    loaded, out = load(str(model)), tmp_path / "out"
    manifest = export_run(run, loaded.info, out, dense=True)
    assert FILE in manifest.files and read_manifest(out).corrections == manifest.corrections
    vectors = corrections(out, manifest)
    assert vectors.keys() == load_file(run.corrections_file).keys()
    matrices = {spec: part for group in manifest.groups for spec, part in reconstructions(out, manifest, group).items()}
    with substituted(loaded.model, in_own_dtype(matrices), vectors):
        expected = states(loaded.model)
    dense = states(load(str(out)).model)
    assert all(torch.equal(expected[path], parameter) for path, parameter in dense.items())
    assert (out / "model.safetensors").stat().st_size == (model / "model.safetensors").stat().st_size
    assert [check.holds for check in verify(out)] == [True] * 5


DAMAGE: dict[str, tuple[Callable[[dict[str, Tensor]], object], str, str]] = {
    "a tensor is gone": (lambda vectors: vectors.popitem(), "ledger", "lacks the tensor"),
    "a tensor is added": (lambda vectors: vectors.update(more=torch.ones(3)), "ledger", "does not list"),
    "another shape": (lambda vectors: put(vectors, lambda old: old[:-1]), "ledger", "but its ledger says"),
    "not finite": (lambda vectors: put(vectors, lambda old: old * float("nan")), "decoding", "24 values of the correction of"),
    "other values": (lambda vectors: put(vectors, lambda old: old + 1), "dense model", "does not match its correction"),
}


def put(vectors: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> None:
    path = "encoder.layer.1.output.LayerNorm.bias"
    vectors[path] = change(vectors[path]).contiguous()


@pytest.fixture(scope="module")
def sound(run: Run, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    export_run(run, load(str(model)).info, out, dense=True)
    return out


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_corrections_in_an_export_are_found(sound: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(sound, tmp_path / "out")
    change, check, message = DAMAGE[damage]
    vectors = load_file(folder / FILE)
    change(vectors)
    save_file(vectors, folder / FILE)
    document = read_json(folder / MANIFEST)
    document["files"][FILE] = file_entry(folder / FILE).to_dict()
    write_json(folder / MANIFEST, document)
    faults = {each.name: each.faults for each in verify(folder) if each.faults}
    assert message in faults[check][0]


def test_a_missing_file_of_corrections_is_a_fault_of_an_export_and_of_a_run(sound: Path, run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(sound, tmp_path / "out")
    (folder / FILE).unlink()
    assert {check.name for check in verify(folder) if check.faults} >= {"files", "ledger"}
    copy = replace(run, folder=shutil.copytree(run.folder, tmp_path / "run"))
    copy.corrections_file.unlink()
    assert not copy.has_weights
    with pytest.raises(StorageError, match="is damaged: the file of corrections cannot be read"):
        stored_corrections(copy)


def test_a_plan_without_corrections_keeps_its_identity_and_one_with_them_needs_text(model: Path, texts: Path) -> None:
    info = model_info(str(model), texts.parent)
    plain, corrected = plan_for(model, texts, "nothing"), plan_for(model, texts, "biases")
    assert "correct" not in plain.to_dict() and corrected.to_dict()["correct"] == "biases"
    inputs = [inputs_of(plan, info.reads) for plan in (plain, corrected)]
    assert run_id(plain, inputs[0]) != run_id(corrected, inputs[1])
    assert (plain.needs_text, corrected.needs_text) == (False, True)
    assert not calibration_digest(plain) and calibration_digest(corrected)
    assert not corrected.replace(groups=()).needs_text
    stages = [estimate(plan, info, predict(plan, info)).stages for plan in (plain, corrected)]
    assert CORRECT not in stages[0] and stages[1][CORRECT] > 0
    with pytest.raises(PlanError, match="it must be one of nothing, shift, biases, norms"):
        plan_for(model, texts, "everything")
    missing = corrected.replace(calibration=corrected.calibration.replace(text=str(texts.parent / "none.txt")))
    with pytest.raises(PlanError, match=r"none\.txt"):
        validate(missing, info)


def test_a_model_without_a_tokenizer_cannot_be_corrected(tmp_path: Path, texts: Path) -> None:
    folder = tiny_models.save(tiny_models.shared("bert_base"), tmp_path / "model", tokenizer=False)
    with pytest.raises(PlanError, match=r"correcting 'biases' needs calibration text, but .* or correct 'nothing'"):
        validate(plan_for(folder, texts, "biases"), model_info(str(folder), tmp_path))


@pytest.mark.parametrize("inplace", [False, True])
def test_the_library_corrects_a_live_model(model: Path, inplace: bool) -> None:
    loaded = load(str(model))
    network = loaded.model
    before = states(network)
    result = offcomp.compress(
        network,
        "value",
        ratio=4,
        correct="biases",
        calibration=TEXTS * 5,
        tokenizer=loaded.tokenizer,
        inplace=inplace,
        progress=False,
    )
    changed = changes(before, states(result.model))
    assert result.corrections.keys() <= {*changed}
    assert "encoder.layer.1.attention.self.value.bias" in changed
    assert (result.model is network) == inplace
    assert bool(changes(before, states(network))) == inplace


def changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    return {path for path, parameter in before.items() if not torch.equal(parameter, after[path])}
