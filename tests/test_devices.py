"""Every method and every stage of a run computes on the chosen device and agrees with the CPU.

Without a GPU, the tests marked `cuda` are skipped; the others use a stand-in (`tests.stand_in`) that shows on which device each
tensor is, but not how a GPU computes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import offcomp
from offcomp import devices
from offcomp.devices import DEVICE_VARIABLE, computing_device, requested_device, using_device
from offcomp.errors import InputError
from offcomp.files import write_json
from offcomp.methods import make_method
from offcomp.models import loading
from offcomp.models.loading import LoadedModel
from offcomp.planning.data.tasks import FAMILIES, ONE, Task
from offcomp.planning.plan import Group, Plan
from offcomp.runs import worker as worker_module
from offcomp.runs.worker import work
from offcomp.runs.worker_process import Outcome, Worker
from tests import tiny_models
from tests.cli.test_main import Command
from tests.method_contract import random_matrix, share_of_dense, variants
from tests.stand_in import DEVICE, StandIn, move, outside_stand_in
from tests.synthetic_hints import with_hints

HAS_GPU = torch.cuda.is_available()
MATRIX_TOLERANCE, SCORE_TOLERANCE = 2e-2, 1e-2
"""Largest difference from the CPU, relative to the matrix or of a score. Training amplifies rounding."""
Use = Callable[[], Any]


@pytest.fixture(
    params=["stand-in", pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(not HAS_GPU, reason="no GPU")])]
)
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A GPU that is the computing device: a real one, or the stand-in."""
    if request.param == "cuda":
        monkeypatch.setenv(DEVICE_VARIABLE, "cuda")
        yield computing_device()
        return

    def to(loaded: LoadedModel, device: torch.device) -> LoadedModel:
        if device == DEVICE:
            entered.enter_context(StandIn())
            move(loaded.model, device)
        return loaded

    monkeypatch.setattr(LoadedModel, "to", to)
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # tensors of the stand-in cannot be made in inference mode
    monkeypatch.setattr(
        sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices", lambda: ["cpu", DEVICE.type]
    )
    monkeypatch.setattr(worker_module, "computing_device", lambda: DEVICE)
    for name in ("network_on_meta", "_instantiated"):  # which use the true meta device
        monkeypatch.setattr(loading, name, outside_stand_in(getattr(loading, name)))
    with ExitStack() as entered:
        yield DEVICE


# ------------------------------------------------------------------------------------------------------------------ choosing


def test_the_device_is_the_gpu_only_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for value in ("", "auto", "cpu"):
        monkeypatch.setenv(DEVICE_VARIABLE, value)
        assert computing_device() == torch.device("cpu")
    monkeypatch.setenv(DEVICE_VARIABLE, "cuda")
    with pytest.raises(InputError, match=r"the device is cuda, but torch finds no GPU.*; use --device cpu, or auto"):
        computing_device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for value in ("auto", "cuda"):
        monkeypatch.setenv(DEVICE_VARIABLE, value)
        assert computing_device() == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    assert devices.device_name(computing_device()) == "cuda (Some GPU)"
    monkeypatch.setenv(DEVICE_VARIABLE, "gpu")
    with pytest.raises(InputError, match="OFFCOMP_DEVICE is 'gpu'; set it to auto, cpu or cuda, or unset it"):
        computing_device()


def test_a_device_is_chosen_for_a_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)
    with using_device("cpu"):
        assert requested_device() == "cpu"
        with using_device(None):
            assert requested_device() == "cpu"
        with pytest.raises(InputError, match="'tpu'"), using_device("tpu"):
            pytest.fail("the block is entered")
    assert requested_device() == "auto"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return tiny_models.save(tiny_models.shared("bert_base"), tmp_path / "bert")


def test_a_run_says_which_device_it_used(
    offcomp: Command, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFFCOMP_HOME", str(tmp_path / "home"))
    plan = Plan(model=str(saved), groups=(Group(name="keys", modules=("key.0",), ratio=1.5),), tasks=())
    file = tmp_path / "plan.json"
    file.write_text(plan.to_json())
    status, out, _ = offcomp("run", str(file), "--device", "cpu", "--json")
    assert (status, json.loads(out)["environment"]["device"]) == (0, "cpu")
    assert "device" not in json.loads(out)["plan"]
    if not HAS_GPU:
        status, out, said = offcomp("run", str(file), "--device", "cuda", "--again")
        assert (status, out) == (2, "") and "torch finds no GPU" in said and len(said.splitlines()) == 1


def test_the_library_refuses_a_gpu_that_does_not_exist(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    plan = Plan(model=str(saved), groups=(Group(name="keys", modules=("key.0",), ratio=1.5),), tasks=())
    with pytest.raises(InputError, match="torch finds no GPU"):
        offcomp.run(plan, home=tmp_path, device="cuda")


# ------------------------------------------------------------------------------------------------------------- on the device


def test_the_stand_in_notices_a_tensor_on_the_wrong_device() -> None:
    with StandIn():
        there = torch.ones(2, 3).to(DEVICE)
        assert (there + 1).device == DEVICE and float(there.sum()) == 6
        assert torch.equal((2 * there)[torch.tensor([0])].cpu(), torch.full((1, 3), 2.0))
        for mistake in (
            lambda: there + torch.ones(2, 3),
            lambda: there @ torch.ones(3, 2),
            lambda: torch.ones(2, 3)[torch.zeros(1, dtype=torch.int64).to(DEVICE)],
            lambda: torch.rand(2, generator=torch.Generator(), device=DEVICE),
        ):
            with pytest.raises(AssertionError):
                mistake()
        with pytest.raises(RuntimeError):
            there.numpy()


@pytest.mark.parametrize("variant", variants())
def test_every_method_fits_on_the_device(variant: tuple[str, dict[str, Any]], gpu: torch.device) -> None:
    method = with_hints(make_method(*variant))
    shape = (24, 16) if method.style_key == "trellis" else (96, 32)  # it takes many steps, each of them slow on the stand-in
    matrix, budget = random_matrix(*shape), share_of_dense(0.6, "bytes", "float32", *shape)
    expected = method.fit(matrix, budget)
    with StandIn() if gpu == DEVICE else nullcontext():
        found = method.fit(matrix.to(gpu), budget)
    assert all(type(tensor) is torch.Tensor and tensor.device.type == "cpu" for tensor in found.tensors.values())
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {
        name: tensor.shape for name, tensor in expected.tensors.items()
    }
    difference = torch.linalg.matrix_norm(found.reconstruct() - expected.reconstruct())
    assert difference <= MATRIX_TOLERANCE * torch.linalg.matrix_norm(matrix)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CSV file with pairs of texts, classes and scores."""
    generator = np.random.default_rng(2)
    texts = [" ".join(f"w{word}" for word in generator.integers(2, 61, generator.integers(4, 9))) for _ in range(160)]
    columns = {"one": texts[:80], "two": texts[80:], "class": [f"c{i % 5}" for i in range(80)], "near": generator.random(80)}
    path = tmp_path_factory.mktemp("data") / "mine.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


def task_of(family: str, table: str) -> Task:
    inputs = {"text": "one"} if ONE in FAMILIES[family].inputs else {"sentence1": "one", "sentence2": "two"}
    target = {"label": "class", "score": "near", "": ""}[FAMILIES[family].target]
    return Task(name=family, family=family, data=table, columns=inputs | ({FAMILIES[family].target: target} if target else {}))


def carried_out(plan: Plan, folder: Path) -> tuple[Worker, Outcome]:
    """Carry out a run in this process."""
    write_json(folder / "plan.json", plan.to_dict())
    worker = Worker(folder)
    return worker, work(worker)


@contextmanager
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv(DEVICE_VARIABLE, "cpu")
        patch.setattr(worker_module, "computing_device", computing_device)
        yield


def assert_agree(plan: Plan, tmp_path: Path, gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on the device agrees with one on the CPU, and says where it took place."""
    with on_the_cpu(monkeypatch):
        on_cpu, expected = carried_out(plan, tmp_path / "cpu" / "runs" / "one")
    on_gpu, found = carried_out(plan, tmp_path / "gpu" / "runs" / "one")
    assert on_cpu.device == "cpu" and on_gpu.device.startswith(gpu.type)
    for one, other in zip(on_cpu.groups, on_gpu.groups, strict=True):
        assert one.stored == other.stored
        assert other.relative_error == pytest.approx(one.relative_error, abs=MATRIX_TOLERANCE)
        if one.output_error is not None:
            assert other.output_error == pytest.approx(one.output_error, abs=MATRIX_TOLERANCE)
        files = [worker.groups_folder / f"{one.name}.safetensors" for worker in (on_cpu, on_gpu)]
        assert {key: value.dtype for key, value in load_file(files[0]).items()} == {
            key: value.dtype for key, value in load_file(files[1]).items()
        }
    assert len(found.scores) == len(plan.tasks) and found.scores.keys() == expected.scores.keys()
    for name, score in expected.scores.items():
        assert found.scores[name].original.value == pytest.approx(
            score.original.value, rel=SCORE_TOLERANCE, abs=SCORE_TOLERANCE
        )
        assert found.scores[name].compressed.value == pytest.approx(score.compressed.value, rel=0.1, abs=0.1)
    assert [entry.name for entry in found.corrections] == [entry.name for entry in expected.corrections]


FAMILIES_OF: Mapping[str, tuple[str, ...]] = {
    "bert_classifier": ("head", "head-fidelity", "probe", "regression", "similarity", "embedding-fidelity"),
    "bert": ("masked-lm", "masked-fidelity"),
    "llama": ("causal-lm", "causal-fidelity"),
}


@pytest.mark.parametrize("name", FAMILIES_OF)
def test_a_run_with_every_family_of_tasks(
    name: str, table: str, tmp_path: Path, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_models.save(tiny_models.TINY[name]().to(torch.bfloat16 if name == "llama" else torch.float32), tmp_path / name)
    folder, settings = str(path), path / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"mask_token": "w60"}))
    groups = (
        Group(name="keys", modules=("key.0", "key.1"), ratio=1.5),
        Group(name="words", modules=("word_embeddings",), method="quantization", ratio=1.6, unit="bytes"),
    )
    tasks = tuple(task_of(family, table) for family in FAMILIES_OF[name])
    assert_agree(Plan(model=folder, groups=groups, tasks=tasks), tmp_path, gpu, monkeypatch)


CALIBRATED = [variant for variant in variants() if make_method(*variant.values[0]).calibrated]


@pytest.mark.parametrize(("correct", "stays"), [("nothing", False), ("norms", True)])
def test_a_calibrated_run_with_corrections(  # noqa: PLR0917  # fixtures
    correct: str, stays: bool, table: str, tmp_path: Path, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "is_small", lambda _: stays)
    folder = str(tiny_models.save(tiny_models.llama(), tmp_path / "llama"))
    assert CALIBRATED
    modules = ("key.0", "value.0", "query.1", "ffn_in.0", "ffn_out.0", "ffn_in.1", "attention_output.1", "ffn_gate.1", "key.1")
    groups = tuple(
        Group(name=f"g{number}", modules=(module,), method=name, options=options, ratio=1.4, unit="bytes")
        for number, (module, (name, options)) in enumerate(
            zip(modules, (variant.values[0] for variant in CALIBRATED), strict=False)
        )
    )
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"w{2 + n % 50} w{2 + 3 * n % 50} w{2 + 7 * n % 50} w5 w9" for n in range(60)))
    calibration = offcomp.CalibrationText(text=str(text))
    plan = Plan(model=folder, groups=groups, tasks=(task_of("causal-lm", table),), calibration=calibration, correct=correct)
    assert_agree(plan, tmp_path, gpu, monkeypatch)
