"""A plan that needs only the weights never loads the model: its matrices are read from the shards, one group at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.streaming import Shapes, anonymous_bytes, make_checkpoint
from offcomp.files import write_json
from offcomp.models import offloading
from offcomp.models.listing import model_info
from offcomp.models.loading import load
from offcomp.models.safetensors_files import StoredTensor
from offcomp.planning.cost import needs_model
from offcomp.planning.plan import Group, Plan
from offcomp.runs import compress_groups as compress_module
from offcomp.runs import worker as worker_module
from offcomp.runs.compress import compress_group, load_group
from offcomp.runs.worker_process import Worker
from tests import tiny_models

GROUPS = (
    Group(name="keys", modules=("key.0", "key.1"), ratio=2.0),
    Group(name="words", modules=("word_embeddings",), method="quantization", ratio=1.6, unit="bytes"),
    Group(name="ffn", modules=("ffn_in.0", "ffn_gate.0"), method="autoencoder", options={"epochs": 2}, ratio=2.0),
)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A Llama in bfloat16, stored in several files."""
    folder = tmp_path / "llama"
    tiny_models.llama().to(torch.bfloat16).save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the weights of a model fails the test."""

    def from_pretrained(*_: Any, **__: Any) -> None:
        pytest.fail("a model is loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", from_pretrained)


def test_a_run_equals_that_of_a_loaded_model(sharded: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    loaded = load(str(sharded))
    expected = {group.name: compress_group(loaded.model, loaded.info, group) for group in GROUPS}
    request.getfixturevalue("never_loaded")
    plan = Plan(model=str(sharded), groups=GROUPS, tasks=())
    assert not needs_model(plan)
    run = tmp_path / "runs" / "one"
    write_json(run / "plan.json", plan.to_dict())
    worker = Worker(run)
    worker_module.work(worker)
    for figures in worker.groups:
        found = expected[figures.name]
        assert figures.model_copy(update={"seconds": 0.0}) == found.figures.model_copy(update={"seconds": 0.0})
        tensors = load_group(run / "groups" / f"{figures.name}.safetensors")[1].tensors
        assert all(torch.equal(tensors[name], tensor) for name, tensor in found.compressed.tensors.items())


def test_only_the_members_of_a_group_are_read_for_it(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[StoredTensor] = []
    sizes: dict[str, set[int]] = {}
    real_values, real_compress = offloading._values, compress_module.compress_group

    def values(stored: StoredTensor) -> torch.Tensor:
        read.append(stored)
        return real_values(stored)

    def compress(source: Any, info: Any, group: Group, **options: Any) -> Any:
        read.clear()
        found = real_compress(source, info, group, **options)
        sizes[group.name] = {stored.num_parameters for stored in read}
        return found

    monkeypatch.setattr(offloading, "_values", values)
    monkeypatch.setattr(compress_module, "compress_group", compress)
    run = tmp_path / "runs" / "one"
    write_json(run / "plan.json", Plan(model=str(sharded), groups=GROUPS, tasks=()).to_dict())
    worker_module.work(Worker(run))
    info = model_info(str(sharded))
    assert sizes == {group.name: {info.module(name).num_parameters for name in group.modules} for group in GROUPS}


@pytest.mark.usefixtures("never_loaded")
def test_commands_about_weights_load_no_model(
    offcomp: Callable[..., tuple[int, str, str]], sharded: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(Plan(model=str(sharded), groups=GROUPS, tasks=()).to_json())
    for command in (
        ("modules", str(sharded)),
        ("predict", str(plan)),
        ("spectra", str(plan)),
        ("inspect", str(sharded), "key.0"),
        ("suggest", str(sharded), "--modules", "query,key"),
        ("allocate", str(plan), "--total-ratio", "1.4", "--unit", "bytes", "--at", "1.5"),
    ):
        status, out, said = offcomp(*command, "--json")
        assert status == 0, said
        assert json.loads(out)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_without_data_takes_little_memory_beside_its_checkpoint(tmp_path: Path) -> None:
    """The anonymous memory of a process that carries out a run grows by a fraction of the size of the model's files."""
    shapes = Shapes(hidden=512, ffn=1536, heads=8, kv_heads=8, vocabulary=2048)
    layers = 40
    size = shapes.num_bytes(layers)
    make_checkpoint(tmp_path / "model", shapes, layers)
    groups = tuple(Group(name=f"g{layer}", modules=(f"key.{layer}",), ratio=3.0) for layer in range(4))
    write_json(tmp_path / "runs" / "one" / "plan.json", Plan(model=str(tmp_path / "model"), groups=groups, tasks=()).to_dict())
    script = "import sys; from tests.runs.test_streaming import print_growth; print_growth(sys.argv[1])"
    command = [sys.executable, "-c", script, str(tmp_path / "runs" / "one")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    grown = int(done.stdout)
    assert size > 2.5e8 and 0 < grown < 0.4 * size, (grown, size)


def print_growth(run: str) -> None:
    """Carry out a run in this process, and print by how many bytes its anonymous memory grew at most."""
    before, found, done = anonymous_bytes(os.getpid()), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            found[0] = max(found[0], anonymous_bytes(os.getpid()))

    watching = threading.Thread(target=watch)
    watching.start()
    worker = Worker(Path(run))
    worker_module.work(worker)
    done.set()
    watching.join()
    assert len(worker.groups) == len(worker.plan.groups)
    sys.stdout.write(f"{found[0] - before}\n")
