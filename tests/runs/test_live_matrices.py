"""Answers about reconstructed matrices equal what the library reconstructs; damaged or missing runs give one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offcomp.errors import InputError, OffcompError, RunError, StorageError
from offcomp.files import write_json
from offcomp.models.loading import LoadedModel, load
from offcomp.models.weights import read
from offcomp.planning.matrix_view import MAX_CELLS, ORDERS, read_view, sampled_rows, view_path
from offcomp.planning.matrix_view_fit import make_view
from offcomp.planning.plan import Group, Plan, members
from offcomp.runs import live_answers
from offcomp.runs.compress import load_group, written_back
from offcomp.runs.live_answers import answer
from offcomp.runs.pictures import read_picture
from offcomp.runs.store import RunStore
from offcomp.runs.worker import work
from offcomp.runs.worker_process import Worker
from tests import tiny_models
from tests.planning.test_matrix_view import averaged, in_order

METHODS: dict[str, dict[str, Any]] = {
    "svd": {"method": "svd"},
    "autoencoder": {"method": "autoencoder", "options": {"epochs": 1}},
    "codebook": {"method": "autoencoder", "options": {"preset": "codebook", "iterations": 2}},
    "trellis": {"method": "autoencoder", "options": {"preset": "trellis"}},
}
MODULES = ("ffn_in.0", "ffn_out.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT."""
    return tiny_models.save(tiny_models.shared("bert"), tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A home with a run of each method, which compresses two matrices of different orientation as one."""
    home = tmp_path_factory.mktemp("home")
    for name, settings in METHODS.items():
        make_run(name, folder, home, settings)
    return home


def make_run(name: str, model: Path, home: Path, settings: dict[str, Any]) -> str:
    """Carry out a run in this process. Returns its name."""
    run = home / "runs" / name
    group = Group(name="both", modules=MODULES, stack="residual", ratio=1.3, unit="bytes", **settings)
    write_json(run / "plan.json", Plan(model=str(model), groups=(group,), tasks=()).to_dict())
    worker = Worker(run)
    assert worker.conclude("done", outcome=work(worker))
    return name


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load(str(folder))


def reconstructed(name: str, module: str, loaded: LoadedModel, home: Path) -> torch.Tensor:
    """Decode a module from the stored tensors, as an export does."""
    run = RunStore(home).get(name)
    group = run.plan.groups[0]
    _, compressed = load_group(run.group_file(group.name))
    matrices = written_back(compressed, tuple(members(group, loaded.info)), group.stack)
    return matrices[loaded.info.module(module)]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", METHODS)
def test_a_picture_is_that_of_the_stored_tensors(name: str, module: str, loaded: LoadedModel, home: Path) -> None:
    found = answer({"kind": "picture", "run": name, "module": module}, loaded, home)
    spec, run = loaded.info.module(module), RunStore(home).get(name)
    exact = read(loaded.model, spec).double().numpy()
    matrix = reconstructed(name, module, loaded, home).double().numpy()
    assert run.result is not None
    measured = run.result.groups[0].module_errors[module]
    assert found["relative_error"] == pytest.approx(measured.relative_error, rel=1e-4, abs=1e-6)
    for order in ORDERS:
        picture = read_picture(run, spec, order)
        assert picture is not None
        assert picture.residual.shape == tuple(min(side, MAX_CELLS) for side in spec.shape)
        rows, cols = in_order(exact, order)
        assert picture.reconstruction == pytest.approx(averaged(matrix[rows][:, cols]), abs=1e-5)
        residual = np.square(exact - matrix)[rows][:, cols]
        assert picture.residual == pytest.approx(np.sqrt(averaged(residual)), abs=1e-5)
        assert picture.rows_lost.sum() == pytest.approx(residual.sum(), rel=1e-4)
        assert picture.columns_lost.sum() == pytest.approx(residual.sum(), rel=1e-4)
        sampled = sampled_rows(*spec.shape)
        norms, new_norms = np.linalg.norm(exact, axis=1)[sampled], np.linalg.norm(matrix, axis=1)[sampled]
        assert picture.cosines == pytest.approx((exact * matrix).sum(1)[sampled] / norms / new_norms, abs=1e-5)
        assert picture.norm_ratios == pytest.approx(new_norms / norms, rel=1e-5)
    assert 1 - float(np.mean(picture.cosines)) == pytest.approx(measured.cosine_distance, abs=1e-5)


def test_only_the_matrix_is_read_if_the_model_is_not_loaded(
    loaded: LoadedModel, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [
        {"kind": "picture", "run": "svd", "module": "ffn_in.0"},
        {"kind": "entry", "run": "svd", "module": "ffn_out.0", "cell": [3, 5]},
        {"kind": "entry", "rank": 2, "module": "word_embeddings", "cell": None},
    ]
    expected = [answer(question, loaded, home) for question in questions]

    def load_model(*_: Any, **__: Any) -> None:
        pytest.fail("the model is loaded")

    monkeypatch.setattr(live_answers, "load", load_model)
    for question, known in zip(questions, expected, strict=True):
        reading, writing = os.pipe()
        live_answers.write_answer(writing, question, None, loaded.info.model, home)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            assert json.load(pipe) == known


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", METHODS)
def test_the_steps_of_an_entry_lead_to_it(name: str, module: str, loaded: LoadedModel, home: Path) -> None:
    spec = loaded.info.module(module)
    exact, matrix = read(loaded.model, spec), reconstructed(name, module, loaded, home)
    found = answer({"kind": "entry", "run": name, "module": module, "cell": [3, 5]}, loaded, home)
    assert (found["row"], found["col"]) == (3, 5)
    assert found["original"] == pytest.approx(float(exact[3, 5]))
    assert found["entry"] == pytest.approx(float(matrix[3, 5]), abs=1e-6)
    assert found["steps"][-1][2] == pytest.approx(found["entry"], abs=1e-5)
    worst = answer({"kind": "entry", "run": name, "module": module, "cell": None}, loaded, home)
    assert abs(worst["original"] - worst["entry"]) == pytest.approx(float((exact - matrix).abs().max()), rel=1e-4)
    assert worst["steps"][-1][2] == pytest.approx(worst["entry"], abs=1e-5)
    json.dumps([found, worst], allow_nan=False)


def test_an_entry_of_svd_needs_no_run_and_its_picture_is_that_of_the_view(loaded: LoadedModel, home: Path) -> None:
    spec = loaded.info.module("ffn_in.0")
    left, values, right = torch.linalg.svd(read(loaded.model, spec).double(), full_matrices=False)
    low = (left[:, :6] * values[:6]) @ right[:6]
    found = answer({"kind": "entry", "rank": 6, "module": spec.name, "cell": [2, 1]}, loaded, home)
    assert found["entry"] == pytest.approx(float(low[2, 1]), abs=1e-6)
    assert found["steps"][-1][2] == pytest.approx(found["entry"], abs=1e-6)
    assert found["row_name"] == "unit 2"
    make_view(loaded.info, spec, home)
    view = read_view(view_path(loaded.info, spec, home), spec.shape)
    assert view is not None
    assert list(view.names[:2]) == ["unit 0", "unit 1"]
    assert view.picture(6).reconstruction == pytest.approx(averaged(low.numpy()), abs=1e-5)


def test_rows_have_the_names_of_tokens_heads_and_units(loaded: LoadedModel, home: Path) -> None:
    def name(module: str, row: int) -> str:
        return str(answer({"kind": "entry", "rank": 1, "module": module, "cell": [row, 0]}, loaded, home)["row_name"])

    heads = loaded.model.config.num_attention_heads
    size = loaded.info.module("query.0").rows // heads
    assert name("query.0", size + 1) == f"head 1, dimension 1 (row {size + 1})"
    assert name("word_embeddings", 7).startswith('token "') and name("word_embeddings", 7).endswith('" (row 7)')
    assert name("ffn_out.1", 4) == "row 4"


def test_a_picture_is_forgotten_once_the_stored_tensors_change(loaded: LoadedModel, home: Path, folder: Path) -> None:
    name = make_run("changing", folder, home, METHODS["codebook"])
    answer({"kind": "picture", "run": name, "module": MODULES[0]}, loaded, home)
    run, spec = RunStore(home).get(name), loaded.info.module(MODULES[0])
    assert read_picture(run, spec, "norm") is not None
    file = run.group_file("both")
    content = file.read_bytes()
    os.utime(file, (1, 1))
    assert read_picture(run, spec, "norm") is None
    answer({"kind": "picture", "run": name, "module": MODULES[0]}, loaded, home)
    assert read_picture(run, spec, "norm") is not None
    file.write_bytes(content[:-9])
    assert read_picture(run, spec, "norm") is None
    with pytest.raises(StorageError, match=r"run changing is damaged: .*run its plan again"):
        answer({"kind": "picture", "run": name, "module": MODULES[0]}, loaded, home)
    (run.folder / "pictures" / "ffn_in.0.npz").write_bytes(b"no picture")
    assert read_picture(run, spec, "norm") is None
    file.unlink()
    with pytest.raises(InputError, match="has no stored weights; run its plan again"):
        answer({"kind": "picture", "run": name, "module": MODULES[0]}, loaded, home)


@pytest.mark.parametrize(
    ("question", "kind", "fault"),
    [
        ({"run": "nothing"}, InputError, "there is no run 'nothing'"),
        ({"run": "svd", "module": "query.0"}, InputError, "did not compress query.0; choose another run"),
        ({"run": "svd", "module": "query.99"}, OffcompError, "has no module 'query.99'"),
        ({"rank": 0}, InputError, "the rank must be between 1 and"),
        ({"rank": True}, InputError, "the rank must be between 1 and"),
        ({"run": "svd", "cell": [0, 9999]}, InputError, "has rows 0 to"),
        ({"run": "svd", "cell": "all"}, InputError, "all is outside"),
        ({"run": "svd", "cell": [-1, 0]}, InputError, "has rows 0 to"),
    ],
)
def test_a_question_that_makes_no_sense_is_one_sentence(
    question: dict[str, Any], kind: type[OffcompError], fault: str, loaded: LoadedModel, home: Path
) -> None:
    with pytest.raises(kind, match=fault):
        answer({"kind": "entry", "module": MODULES[0]} | question, loaded, home)


def test_a_run_of_another_model_is_refused(home: Path, tmp_path: Path) -> None:
    other = load(str(tiny_models.save(tiny_models.shared("bert_base"), tmp_path / "other")))
    with pytest.raises(RunError, match="belongs to another model"):
        answer({"kind": "picture", "run": "svd", "module": MODULES[0]}, other, home)
